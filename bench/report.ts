import type { BenchResult, Budget, Table } from "./benchmark.ts";
import { ratio } from "./numbers.ts";

/** A result as Markdown that reads as plain text too. */
export function reportLines({ title, verified, tables, budgets, notes }: BenchResult): string[] {
  return [
    `## ${title}`,
    "",
    ...tables.flatMap((table) => [...tableLines(table), ""]),
    ...(budgets.length === 0 ? [] : [...tableLines(budgetTable(budgets)), ""]),
    ...verified.map((line) => `- verified: ${line}`),
    ...notes.map((line) => `- ${line}`),
  ];
}

/**
 * The file of one result.
 * @param machine what it was measured on, in a line
 * @param command that measures it
 */
export function reportFile(
  name: string,
  machine: string,
  command: string,
  result: BenchResult,
): string {
  const lines = [`# ${name}`, "", machine, "", `\`${command}\``, "", ...reportLines(result)];
  return `${lines.join("\n")}\n`;
}

export function withinBudget({ measured, limit }: Budget): boolean {
  return measured <= limit;
}

function budgetTable(budgets: readonly Budget[]): Table {
  return {
    header: ["budget", "measured", "limit", ""],
    rows: budgets.map((budget) => [
      budget.what,
      number(budget.measured),
      number(budget.limit),
      withinBudget(budget) ? "met" : "not met",
    ]),
  };
}

function number(value: number): string {
  return value >= 100 ? value.toFixed(1) : ratio(value);
}

/** Columns of numbers are set right. */
function tableLines({ header, rows }: Table): string[] {
  const widths = header.map((title, column) =>
    Math.max(3, title.length, ...rows.map((row) => (row[column] ?? "").length)),
  );
  const numeric = header.map((_, column) =>
    rows.every((row) => /^-?[\d.]+%?$|^-?$/.test(row[column] ?? "")),
  );
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, i) => (numeric[i] ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0))).join(" | ")} |`;
  const rule = widths.map((width, i) =>
    numeric[i] ? `${"-".repeat(width - 1)}:` : "-".repeat(width),
  );
  return [line(header), `| ${rule.join(" | ")} |`, ...rows.map(line)];
}
