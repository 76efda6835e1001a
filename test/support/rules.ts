import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { PROMETHEUS_DIR } from "./prometheus.ts";

export interface Rule {
  readonly record?: string;
  readonly alert?: string;
  readonly expr: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: { readonly summary?: string; readonly description?: string };
}

/** The rules of a file in deploy/prometheus. */
export function readRules(file: "recording.rules.yml" | "alerts.rules.yml"): Rule[] {
  const { groups } = parse(readFileSync(join(PROMETHEUS_DIR, file), "utf8")) as {
    groups: { rules: Rule[] }[];
  };
  return groups.flatMap(({ rules }) => rules);
}
