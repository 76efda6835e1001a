import { readFileSync } from "node:fs";
import { rootPath } from "./deploy.ts";

export const DASHBOARDS = ["training", "fleet"] as const;

export interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly datasource?: DatasourceRef;
  readonly gridPos: {
    readonly x: number;
    readonly y: number;
    readonly w: number;
    readonly h: number;
  };
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string } };
  readonly targets?: readonly PanelQuery[];
}

export interface PanelQuery {
  readonly refId: string;
  readonly expr: string;
  readonly legendFormat: string;
  readonly datasource: DatasourceRef;
}

export interface DatasourceRef {
  readonly type: string;
  readonly uid: string;
}

export interface Variable {
  readonly type: "datasource" | "query";
  readonly name: string;
  readonly datasource?: DatasourceRef;
  readonly definition?: string;
}

export interface Dashboard {
  readonly uid: string;
  readonly title: string;
  readonly schemaVersion: number;
  readonly templating: { readonly list: readonly Variable[] };
  readonly panels: readonly Panel[];
}

export function readDashboard(name: (typeof DASHBOARDS)[number]): Dashboard {
  const text = readFileSync(rootPath(`deploy/grafana/dashboards/${name}.json`), "utf8");
  return JSON.parse(text) as Dashboard;
}

/** An expression with Grafana's variables filled in. @throws when it holds one that is not given */
export function filledIn(expr: string, variables: Readonly<Record<string, string>>): string {
  return expr.replaceAll(/\$\{?(\w+)\}?/g, (whole, name: string) => {
    const value = variables[name];
    if (value === undefined) throw new Error(`${whole} in ${expr} is no variable`);
    return value;
  });
}

/** The label and the series of a variable's `label_values(series, label)`. */
export function labelQuery({ name, definition = "" }: Variable): {
  readonly label: string;
  readonly series: string;
} {
  const [, series, label] = /^label_values\((.+), (\w+)\)$/.exec(definition) ?? [];
  if (series === undefined || label === undefined)
    throw new Error(`variable ${name}: ${definition} is no label_values(series, label)`);
  return { label, series };
}
