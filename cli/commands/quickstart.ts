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
import { machineMemoryBytes } from "../machine.ts";
import {
  allAsPredicted,
  memoryTable,
  type QuickstartRun,
  quickstartResult,
} from "../memory-table.ts";
import { wholeNumber, wholeNumbers } from "../option-values.ts";
import { checkOutputFile, writeJsonFile } from "../output-file.ts";
import { backendOption } from "./backend-option.ts";

interface QuickstartFlags {
  readonly dim: number;
  readonly hidden: number;
  readonly batch: number;
  readonly steps: number;
  readonly tp: readonly number[];
  readonly backend: string;
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
    .option("--json <file>", "write the results as JSON")
    .option("--verbose", "pass on the logs of coordinator and workers", false)
    .action((flags: QuickstartFlags) => quickstart(flags, context));
}

async function quickstart(flags: QuickstartFlags, context: CommandContext): Promise<void> {
  await checkOutputFile("--json", flags.json);
  checkMemory(flags, context);
  const interrupt = catchInterrupt();
  const runs: QuickstartRun[] = [];
  try {
    for (const tensorParallel of flags.tp) {
      const job = await runEmbeddedJob({
        spec: jobSpec(flags, tensorParallel),
        ranks: tensorParallel,
        steps: flags.steps,
        title: plural(tensorParallel, "rank"),
        backend: flags.backend,
        folder: process.cwd(),
        verbose: flags.verbose,
        stderr: context.stderr,
        signal: interrupt.signal,
      });
      if (interrupt.signal.aborted) throw new Interrupted();
      runs.push({ tensorParallel, job });
      if (job.state !== "SUCCEEDED") {
        const why = job.error === undefined ? job.state : jobErrorText(job.error);
        context.stderr.write(
          `rankmesh: the run on ${plural(tensorParallel, "rank")} failed: ${why}\n`,
        );
        throw new ExitRequest(EXIT.jobFailed);
      }
    }
  } finally {
    interrupt.dispose();
    if (flags.json !== undefined && runs.length > 0) {
      const { dim, hidden, batch, steps, backend } = flags;
      await writeJsonFile(
        flags.json,
        quickstartResult({ dim, hidden, batch }, steps, backend, runs),
      );
    }
  }
  printLines(context.stdout, [
    `iterations complete: ${plural(flags.steps, "step")} on each of ${flags.tp.join(", ")} ranks`,
    "",
    ...memoryTable(flags, runs),
    allAsPredicted(runs)
      ? "measured = predicted on every rank, initialisation included"
      : "measured differs from predicted: this is a fault of rankmesh",
  ]);
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

/**
 * Plans every run before the first begins, and says whether the machine has the memory.
 *
 * @throws InvalidArgumentError when a size does not divide
 * @throws ResourceExhaustedError when a run needs more memory than is available
 */
function checkMemory(flags: QuickstartFlags, context: CommandContext): void {
  const { available, total } = machineMemoryBytes();
  const needs = flags.tp.map((tensorParallel) => {
    const sizes = { dataParallel: 1, tensorParallel };
    const { program } = planJob(requireJobSpec(jobSpec(flags, tensorParallel)), sizes);
    return { tensorParallel, bytes: tensorParallel * (program.arenaBytes + PROCESS_BYTES) };
  });
  const most = needs.reduce((a, b) => (b.bytes > a.bytes ? b : a));
  const text =
    `the largest run (${plural(most.tensorParallel, "rank")}) takes about ${formatBytes(most.bytes)} of memory; ` +
    `${formatBytes(available)} of ${formatBytes(total)} are available`;
  if (most.bytes > available) {
    throw new ResourceExhaustedError(
      `${text}; choose a smaller --dim and --hidden, or fewer ranks with --tp`,
    );
  }
  context.stderr.write(`${text}\n`);
}
