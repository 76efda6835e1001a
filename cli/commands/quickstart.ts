import { once } from "node:events";
import type { Command } from "commander";
import { planJob } from "../../coordinator/planning/plan-job.ts";
import { ResourceExhaustedError } from "../../shared/errors.ts";
import { formatBytes } from "../../shared/format-bytes.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { requireJobSpec } from "../../shared/job/resolve.ts";
import { type CommandContext, printLines } from "../command-context.ts";
import { runEmbeddedJob } from "../embedded-job.ts";
import { EXIT, ExitRequest } from "../exit-codes.ts";
import { plural } from "../format.ts";
import { catchInterrupt, Interrupted } from "../interrupt.ts";
import { jobErrorText } from "../job-report.ts";
import { type LocalCoordinator, startLocalCoordinator } from "../local-cluster.ts";
import { type LocalMachine, localMachine, type SharedMemory } from "../local-machine.ts";
import { machineMemoryBytes } from "../machine.ts";
import {
  allAsPredicted,
  memoryTable,
  type QuickstartRun,
  quickstartResult,
} from "../memory-table.ts";
import { wholeNumber, wholeNumbers } from "../option-values.ts";
import { checkOutputFile, writeJsonFile } from "../output-file.ts";
import { backendOption, devicesOption } from "./backend-option.ts";
import { pageOption } from "./page-option.ts";

interface QuickstartFlags {
  readonly dim: number;
  readonly hidden: number;
  readonly batch: number;
  readonly steps: number;
  readonly tp: readonly number[];
  readonly backend: string;
  readonly device: readonly string[];
  readonly http: string;
  readonly stay: boolean;
  readonly json?: string;
  readonly verbose: boolean;
}

/** Memory of a worker process beside its rank's peak: Node, BLAS and buffers. */
const PROCESS_BYTES = 150e6;

export function addQuickstartCommand(program: Command, context: CommandContext): void {
  program
    .command("quickstart")
    .description(
      "train the reference program on 1, 2, 4 and 8 local ranks and print the memory that each took",
    )
    .option("--dim <n>", "features in and out", wholeNumber(1), 8192)
    .option("--hidden <n>", "hidden features", wholeNumber(1), 8192)
    .option("--batch <n>", "rows of a step", wholeNumber(1), 8)
    .option("--steps <n>", "optimizer steps", wholeNumber(1), 8)
    .option("--tp <list>", "numbers of ranks, one run each", wholeNumbers(1, 1024), [1, 2, 4, 8])
    .addOption(backendOption())
    .addOption(devicesOption())
    .addOption(pageOption())
    .option("--stay", "keep the status page up after the last run, until Ctrl-C", false)
    .option("--json <file>", "write the results as JSON")
    .option("--verbose", "pass on the logs of coordinator and workers", false)
    .action((flags: QuickstartFlags) => quickstart(flags, context));
}

async function quickstart(flags: QuickstartFlags, context: CommandContext): Promise<void> {
  await checkOutputFile("--json", flags.json);
  const machine = await localMachine({ backends: [flags.backend], devices: flags.device });
  checkMemory(flags, machine, context);
  const { verbose } = flags;
  const coordinator = await startLocalCoordinator({
    folder: process.cwd(),
    http: flags.http,
    verbose,
  });
  const interrupt = catchInterrupt();
  try {
    context.stderr.write(`status page: ${coordinator.pageUrl}\n`);
    const runs = await trainAll(flags, { machine, coordinator, context, signal: interrupt.signal });
    const failed = runs.at(-1)?.job.state !== "SUCCEEDED";
    if (!failed) printLines(context.stdout, summary(flags, runs));
    if (flags.stay) {
      context.stderr.write(`the status page stays at ${coordinator.pageUrl} until Ctrl-C\n`);
      await aborted(interrupt.signal);
    }
    if (failed) throw new ExitRequest(EXIT.jobFailed);
  } finally {
    await coordinator.stop();
    interrupt.dispose();
  }
}

/** Trains on each number of ranks in turn, up to the first run that fails; writes the JSON, whatever came of it. */
async function trainAll(
  flags: QuickstartFlags,
  {
    machine,
    coordinator,
    context,
    signal,
  }: {
    readonly machine: LocalMachine;
    readonly coordinator: LocalCoordinator;
    readonly context: CommandContext;
    readonly signal: AbortSignal;
  },
): Promise<QuickstartRun[]> {
  const runs: QuickstartRun[] = [];
  try {
    for (const tensorParallel of flags.tp) {
      const job = await runEmbeddedJob({
        coordinator,
        spec: jobSpec(flags, tensorParallel),
        ranks: machine.place(tensorParallel),
        steps: flags.steps,
        title: plural(tensorParallel, "rank"),
        sayBackend: runs.length === 0,
        verbose: flags.verbose,
        stderr: context.stderr,
        signal,
      });
      if (signal.aborted) throw new Interrupted();
      runs.push({ tensorParallel, job });
      if (job.state !== "SUCCEEDED") {
        const why = job.error === undefined ? job.state : jobErrorText(job.error);
        context.stderr.write(
          `rankmesh: the run on ${plural(tensorParallel, "rank")} failed: ${why}\n`,
        );
        break;
      }
    }
  } finally {
    if (flags.json !== undefined && runs.length > 0) {
      const { dim, hidden, batch, steps, backend } = flags;
      await writeJsonFile(
        flags.json,
        quickstartResult({ dim, hidden, batch }, steps, backend, runs),
      );
    }
  }
  return runs;
}

function summary(flags: QuickstartFlags, runs: readonly QuickstartRun[]): string[] {
  return [
    `iterations complete: ${plural(flags.steps, "step")} on each of ${flags.tp.join(", ")} ranks`,
    "",
    ...memoryTable(flags, runs),
    allAsPredicted(runs)
      ? "measured = predicted on every rank, initialisation included"
      : "measured differs from predicted: this is a fault of rankmesh",
  ];
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await once(signal, "abort");
}

function jobSpec(flags: QuickstartFlags, tensorParallel: number): JobSpecInput {
  const { dim, hidden, batch, steps } = flags;
  return {
    name: `quickstart-${tensorParallel}`,
    model: { feedForward: { dim, hidden } },
    mesh: { dataParallel: 1, tensorParallel },
    loss: "sum",
    optimizer: { adamw: {} },
    data: { batchSize: batch, random: {} },
    steps,
  };
}

interface MemoryNeed {
  readonly tensorParallel: number;
  readonly memory: SharedMemory;
  readonly bytes: number;
}

/**
 * Plans every run before the first begins, and says whether the machine has the memory: of the host and of each GPU.
 *
 * @throws InvalidArgumentError when a size does not divide
 * @throws ResourceExhaustedError when a run needs more memory than is available
 */
function checkMemory(flags: QuickstartFlags, machine: LocalMachine, context: CommandContext): void {
  const largest = new Map<string, MemoryNeed>();
  for (const tensorParallel of flags.tp) {
    for (const need of memoryNeeds(flags, machine, tensorParallel)) {
      const { name } = need.memory;
      if (need.bytes > (largest.get(name)?.bytes ?? 0)) largest.set(name, need);
    }
  }
  const lines = [...largest.values()].map(({ tensorParallel, memory, bytes }) => {
    const { name, available, total } = memory;
    const text =
      `the largest run (${plural(tensorParallel, "rank")}) takes about ${formatBytes(bytes)} of ${name}; ` +
      `${formatBytes(available)} of ${formatBytes(total)} are available`;
    if (bytes <= available) return text;
    throw new ResourceExhaustedError(
      `${text}; choose a smaller --dim and --hidden, or fewer ranks with --tp`,
    );
  });
  context.stderr.write(lines.map((line) => `${line}\n`).join(""));
}

/** What one run takes of every memory of the machine. */
function memoryNeeds(
  flags: QuickstartFlags,
  machine: LocalMachine,
  tensorParallel: number,
): MemoryNeed[] {
  const sizes = { dataParallel: 1, tensorParallel };
  const { program } = planJob(requireJobSpec(jobSpec(flags, tensorParallel)), sizes);
  const host: SharedMemory = { name: "memory", ...machineMemoryBytes() };
  const needs = new Map<string, MemoryNeed>();
  const add = (memory: SharedMemory, bytes: number): void => {
    const before = needs.get(memory.name)?.bytes ?? 0;
    needs.set(memory.name, { tensorParallel, memory, bytes: before + bytes });
  };
  for (const { memory, workspaceBytes } of machine.place(tensorParallel)) {
    add(memory, program.arenaBytes + workspaceBytes);
    add(host, PROCESS_BYTES);
  }
  return [...needs.values()];
}
