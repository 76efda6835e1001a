import { readFileSync } from "node:fs";
import { rootPath } from "./deploy.ts";

/** The metrics reference, as far as it can be checked. */
const REFERENCE = readFileSync(rootPath("docs/metrics.md"), "utf8");

/** What stands under a heading of the second level. @throws when there is no such heading */
function section(heading: string): string {
  const found = REFERENCE.split(/^## /m).find((part) => part.startsWith(`${heading}\n`));
  if (found === undefined) throw new Error(`docs/metrics.md has no section ${heading}`);
  return found;
}

/** Cells of the tables of a section, without their heads. */
function rows(heading: string, columns: number): string[][] {
  return section(heading)
    .split("\n")
    .filter((line) => line.startsWith("| `"))
    .map((line) => line.slice(2, -2).split(" | "))
    .filter((cells) => cells.length === columns);
}

const unquoted = (cell: string | undefined): string => (cell ?? "").replaceAll("`", "");

export interface DocumentedMetric {
  readonly name: string;
  readonly type: string;
  readonly labels: readonly string[];
  readonly unit: string;
}

export function documentedMetrics(of: "a worker" | "the coordinator" | "both"): DocumentedMetric[] {
  return rows(`Of ${of}`, 5).map(([name, type = "", labels, unit = ""]) => ({
    name: unquoted(name),
    type,
    labels: unquoted(labels).split(", "),
    unit,
  }));
}

export const documentedPhases = (): string[] =>
  rows("Of a worker", 2).map(([phase]) => unquoted(phase));

export const documentedRecords = (): string[] =>
  rows("Questions and queries", 2).map(([name]) => unquoted(name));

/** Name and severity of each alert. */
export const documentedAlerts = (): [string, string][] =>
  rows("Alerts", 4).map(([name, severity = ""]) => [unquoted(name), severity]);

/** The example queries. */
export function documentedQueries(): string[] {
  const block = /```promql\n([\s\S]*?)```/.exec(section("Questions and queries"))?.[1] ?? "";
  return block.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
}

/** Names of Node's metrics that the text mentions. */
export const documentedNodeMetrics = (): string[] => [
  ...new Set(
    [...REFERENCE.matchAll(/`((?:process|nodejs)_\w+[a-z])`/g)].map(([, name = ""]) => name),
  ),
];
