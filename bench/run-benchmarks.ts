import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InvalidArgumentError } from "commander";
import { formatDuration } from "../cli/format.ts";
import type { Benchmark, BenchResult, RunContext } from "./benchmark.ts";
import { reportFile, reportLines, withinBudget } from "./report.ts";
import { sourcePath } from "./repository.ts";

/** What results were measured on, as reports tell it. */
export interface MeasuredOn {
  readonly line: string;
  /** For names of files. */
  readonly slug: string;
  /** As 2026-11-23. */
  readonly date: string;
  /** All of it, for machines. */
  readonly machine: unknown;
}

export interface Series<C extends RunContext> {
  /** Command that runs it, as `npm run bench`. */
  readonly command: string;
  readonly benchmarks: readonly Benchmark<C>[];
  readonly on: MeasuredOn;
  /** What the benchmarks get beside a folder, a way to say what goes on, and a signal. */
  readonly context: Omit<C, "folder" | "progress" | "signal">;
  readonly signal: AbortSignal;
  /** File that all results go to, anew after each. */
  readonly json?: string | undefined;
  /** Whether each result is written to bench/results. */
  readonly save: boolean;
}

/**
 * Runs benchmarks one after another; one that fails does not keep the others from running.
 * @returns the exit code: a budget is news, not a fault; a wrong result is one
 * @throws what `signal` was aborted with
 */
export async function runBenchmarks<C extends RunContext>(series: Series<C>): Promise<number> {
  const { benchmarks, on, signal } = series;
  const folder = await mkdtemp(join(tmpdir(), "rankmesh-bench-"));
  const results = new Map<string, BenchResult>();
  const failed: string[] = [];
  try {
    for (const { name, run } of benchmarks) {
      const began = performance.now();
      const say = (line: string): void => progress(`${name}: ${line}`);
      try {
        const result = await run({ ...series.context, folder, progress: say, signal } as C);
        results.set(name, result);
        print(["", ...reportLines(result)]);
        if (series.save) await save(series.command, name, on, result);
      } catch (error) {
        signal.throwIfAborted();
        failed.push(name);
        progress(`${name} failed: ${error instanceof Error ? error.message : String(error)}`);
      }
      if (series.json !== undefined) {
        const all = { machine: on.machine, results: Object.fromEntries(results) };
        await writeFile(series.json, json(all));
      }
      say(formatDuration((performance.now() - began) / 1000));
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  const budgets = [...results.values()].flatMap((result) => result.budgets);
  const met = budgets.filter(withinBudget).length;
  const failures = failed.length > 0 ? `; failed: ${failed.join(", ")}` : "";
  print(["", `budgets: ${met} of ${budgets.length} met${failures}`]);
  return failed.length > 0 ? 1 : 0;
}

/** Writes bench/results/<what>_<machine>_<yyyymm>.md and .json. */
async function save(
  command: string,
  name: string,
  { line, slug, date, machine }: MeasuredOn,
  result: BenchResult,
): Promise<void> {
  const folder = sourcePath("bench/results");
  await mkdir(folder, { recursive: true });
  const month = date.slice(0, 7).replace("-", "");
  const path = join(folder, `${name}_${slug}_${month}`);
  await writeFile(`${path}.md`, reportFile(name, line, `${command} -- --only ${name}`, result));
  await writeFile(`${path}.json`, json({ machine, results: { [name]: result } }));
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

export function print(lines: readonly string[]): void {
  process.stdout.write(`${lines.join("\n")}\n`);
}

export function progress(line: string): void {
  process.stderr.write(`bench: ${line}\n`);
}

/** Aborts when the process is told to end. */
export function interruptSignal(): AbortSignal {
  const interrupt = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.once(name, () => interrupt.abort(new Error(`interrupted by ${name}`)));
  }
  return interrupt.signal;
}

/** Reader of `--only step,memory`. */
export function benchmarksNamed<C>(
  all: readonly Benchmark<C>[],
): (text: string) => readonly Benchmark<C>[] {
  return (text) =>
    text.split(",").map((name) => {
      const found = all.find((benchmark) => benchmark.name === name.trim());
      if (found !== undefined) return found;
      throw new InvalidArgumentError(`Choose from ${all.map((b) => b.name).join(", ")}.`);
    });
}
