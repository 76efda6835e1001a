/**
 * Benchmarks, each verified before it is timed:
 *
 *   npm run bench [-- --only step,llama,allreduce,memory,compile,overhead --json FILE --save]
 */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { formatDuration } from "../cli/format.ts";
import { wholeNumber } from "../cli/option-values.ts";
import type { Benchmark, BenchResult } from "./benchmark.ts";
import { compiling } from "./compile.ts";
import { llama } from "./llama.ts";
import { describeMachine, type Machine, machineLine, machineSlug } from "./machine.ts";
import { memory } from "./memory.ts";
import { overhead } from "./overhead.ts";
import { Peers } from "./peer.ts";
import { reportFile, reportLines, withinBudget } from "./report.ts";
import { sourcePath } from "./repository.ts";
import { allReduce } from "./ring.ts";
import { step } from "./step.ts";

const BENCHMARKS: readonly Benchmark[] = [step, llama, memory, allReduce, overhead, compiling];

interface Flags {
  readonly only: readonly Benchmark[];
  readonly dim: number;
  readonly peer: boolean;
  readonly json?: string;
  readonly save: boolean;
}

async function main(flags: Flags): Promise<number> {
  const machine = describeMachine();
  print([machineLine(machine)]);
  const { cores, loadBefore } = machine;
  if (loadBefore > cores / 2) {
    progress(
      `others keep ${loadBefore.toFixed(1)} of ${cores} cores busy: expect ratios to hold, times not to`,
    );
  }
  const interrupt = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.once(name, () => interrupt.abort(new Error(`interrupted by ${name}`)));
  }
  const peers = flags.peer ? await Peers.find(interrupt.signal) : Peers.none();
  if (peers.missing !== undefined) progress(`no peers to compare with: ${peers.missing}`);
  const folder = await mkdtemp(join(tmpdir(), "rankmesh-bench-"));
  const results = new Map<string, BenchResult>();
  let failures = 0;
  try {
    const { dim } = flags;
    const context = { dim, peers, folder, progress, signal: interrupt.signal };
    for (const { name, run } of flags.only) {
      const began = performance.now();
      try {
        const result = await run({ ...context, progress: (line) => progress(`${name}: ${line}`) });
        results.set(name, result);
        print(["", ...reportLines(result)]);
        if (flags.save) await save(name, machine, result);
      } catch (error) {
        interrupt.signal.throwIfAborted();
        failures++;
        progress(`${name} failed: ${error instanceof Error ? error.message : String(error)}`);
      }
      progress(`${name}: ${formatDuration((performance.now() - began) / 1000)}`);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
    if (flags.json !== undefined) {
      await writeFile(flags.json, json({ machine, results: Object.fromEntries(results) }));
    }
  }
  const budgets = [...results.values()].flatMap((result) => result.budgets);
  const met = budgets.filter(withinBudget).length;
  print([
    "",
    `budgets: ${met} of ${budgets.length} met${failures > 0 ? `; ${failures} benchmarks failed` : ""}`,
  ]);
  // A budget is news, not a fault; a wrong result is one.
  return failures > 0 ? 1 : 0;
}

/** Writes bench/results/<what>_<machine>_<yyyymm>.md and .json. */
async function save(name: string, machine: Machine, result: BenchResult): Promise<void> {
  const folder = sourcePath("bench/results");
  await mkdir(folder, { recursive: true });
  const month = machine.date.slice(0, 7).replace("-", "");
  const path = join(folder, `${name}_${machineSlug(machine)}_${month}`);
  await writeFile(`${path}.md`, reportFile(name, machine, result));
  await writeFile(`${path}.json`, json({ machine, results: { [name]: result } }));
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

function print(lines: readonly string[]): void {
  process.stdout.write(`${lines.join("\n")}\n`);
}

function progress(line: string): void {
  process.stderr.write(`bench: ${line}\n`);
}

function benchmarksNamed(text: string): Benchmark[] {
  return text.split(",").map((name) => {
    const found = BENCHMARKS.find((benchmark) => benchmark.name === name.trim());
    if (found !== undefined) return found;
    throw new InvalidArgumentError(`Choose from ${BENCHMARKS.map((b) => b.name).join(", ")}.`);
  });
}

const command = new Command("bench")
  .description("time rankmesh against its budgets, and against PyTorch + gloo where they are")
  .option("--only <list>", "benchmarks to run, joined by commas", benchmarksNamed, [...BENCHMARKS])
  .option("--dim <n>", "model size of step and memory; budgets speak of 8192", wholeNumber(8), 8192)
  .option("--no-peer", "do not run PyTorch")
  .option("--json <file>", "write all results as JSON")
  .option("--save", "write each result to bench/results", false)
  .parse();
try {
  process.exitCode = await main(command.opts<Flags>());
} catch (error) {
  progress(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
