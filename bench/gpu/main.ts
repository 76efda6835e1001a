/**
 * Benchmarks of the cuda backend on one GPU, from what `npm run build` left in dist/:
 *
 *   npm run bench:gpu [-- --only ceilings,step,llama,kernels,overhead --json FILE --save]
 */
import { Command } from "commander";
import { RankmeshError } from "../../shared/errors.ts";
import type { Benchmark } from "../benchmark.ts";
import { describeMachine } from "../machine.ts";
import {
  benchmarksNamed,
  interruptSignal,
  type MeasuredOn,
  print,
  progress,
  runBenchmarks,
} from "../run-benchmarks.ts";
import { ceilings } from "./ceilings.ts";
import { type GpuContext, Measured } from "./context.ts";
import { Gpu } from "./gpu.ts";
import { kernels } from "./kernels.ts";
import { llama } from "./llama.ts";
import { overhead } from "./overhead.ts";
import { DRY, FULL } from "./sizes.ts";
import { step } from "./step.ts";
import { Torch } from "./torch.ts";

const BENCHMARKS: readonly Benchmark<GpuContext>[] = [ceilings, step, llama, kernels, overhead];

interface Flags {
  readonly only: readonly Benchmark<GpuContext>[];
  readonly device: string;
  readonly dry: boolean;
  readonly peer: boolean;
  readonly commit?: string;
  readonly json?: string;
  readonly save: boolean;
}

async function main(flags: Flags): Promise<number> {
  const { device, dry, json, save } = flags;
  const gpu = openGpu(device);
  if (gpu === undefined) return 1;
  const on = measuredOn(gpu, flags.commit);
  print([on.line]);
  if (save && (dry || gpu.lookAlike)) {
    const why = dry ? "sizes of a dry run" : `${gpu.device.name}, which is no GPU`;
    progress(`--save: results of ${why} are not kept; use --json`);
    return 1;
  }
  if (dry) progress("dry run: sizes so small that no number means anything");
  const signal = interruptSignal();
  const { ordinal } = gpu.device;
  const torch = flags.peer ? await Torch.find(ordinal, signal) : Torch.none();
  if (torch.missing !== undefined) progress(`no peer to compare with: ${torch.missing}`);
  return await runBenchmarks<GpuContext>({
    command: "npm run bench:gpu",
    benchmarks: flags.only,
    on,
    context: {
      backend: "cuda",
      device: String(ordinal),
      gpu,
      sizes: dry ? DRY : FULL,
      torch,
      measured: new Measured(),
    },
    signal,
    json,
    save,
  });
}

/** Says why there is none. */
function openGpu(device: string): Gpu | undefined {
  try {
    return new Gpu(device);
  } catch (error) {
    if (!(error instanceof RankmeshError)) throw error;
    progress(`no GPU to measure: ${error.message}`);
    return undefined;
  }
}

function measuredOn({ description }: Gpu, commit: string | undefined): MeasuredOn {
  const machine = { ...describeMachine(), ...(commit === undefined ? {} : { commit }) };
  const { name, multiprocessors, memoryBytes, driver, cublas } = description;
  const { cpu, cores, node, date } = machine;
  const memory = (memoryBytes / 1e9).toFixed(0);
  return {
    line:
      `${name}, ${multiprocessors} multiprocessors, ${memory} GB; driver of CUDA ${driver}, cuBLAS ${cublas}; ` +
      `${cpu}, ${cores} cores; Node ${node}; commit ${machine.commit}; ${date}`,
    slug: name
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, "-")
      .replace(/^-|-$/g, ""),
    date,
    machine: { ...machine, gpu: description },
  };
}

const command = new Command("bench:gpu")
  .description("time the cuda backend against its budgets, and against PyTorch where it is")
  .option("--only <list>", "benchmarks to run, joined by commas", benchmarksNamed(BENCHMARKS), [
    ...BENCHMARKS,
  ])
  .option("--device <name>", "index or UUID of the GPU", "0")
  .option("--no-peer", "do not run PyTorch")
  .option("--dry", "tiny sizes, to see that everything runs", false)
  .option("--commit <hash>", "commit that is measured, where there is no git to ask")
  .option("--json <file>", "write all results as JSON")
  .option("--save", "write each result to bench/results", false)
  .parse();
try {
  process.exitCode = await main(command.opts<Flags>());
} catch (error) {
  progress(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
