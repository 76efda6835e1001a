/**
 * Benchmarks, each verified before it is timed:
 *
 *   npm run bench [-- --only step,llama,allreduce,memory,compile,overhead --json FILE --save]
 */
import { Command } from "commander";
import { wholeNumber } from "../cli/option-values.ts";
import type { BenchContext, Benchmark } from "./benchmark.ts";
import { compiling } from "./compile.ts";
import { llama } from "./llama.ts";
import { describeMachine, machineLine, machineSlug } from "./machine.ts";
import { memory } from "./memory.ts";
import { overhead } from "./overhead.ts";
import { Peers } from "./peer.ts";
import { allReduce } from "./ring.ts";
import {
  benchmarksNamed,
  interruptSignal,
  print,
  progress,
  runBenchmarks,
} from "./run-benchmarks.ts";
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
  const signal = interruptSignal();
  const peers = flags.peer ? await Peers.find(signal) : Peers.none();
  if (peers.missing !== undefined) progress(`no peers to compare with: ${peers.missing}`);
  const { date } = machine;
  return await runBenchmarks<BenchContext>({
    command: "npm run bench",
    benchmarks: flags.only,
    on: { line: machineLine(machine), slug: machineSlug(machine), date, machine },
    context: { backend: "cpu", device: "", dim: flags.dim, peers },
    signal,
    json: flags.json,
    save: flags.save,
  });
}

const command = new Command("bench")
  .description("time rankmesh against its budgets, and against PyTorch + gloo where they are")
  .option("--only <list>", "benchmarks to run, joined by commas", benchmarksNamed(BENCHMARKS), [
    ...BENCHMARKS,
  ])
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
