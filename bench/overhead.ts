import { pino } from "pino";
import { numCores } from "../cli/machine.ts";
import { RankmeshClient } from "../client/client.ts";
import { startCoordinator } from "../coordinator/coordinator-daemon.ts";
import { planJob } from "../coordinator/planning/plan-job.ts";
import type { JobSpecInput } from "../shared/job/job-spec.ts";
import { requireJobSpec } from "../shared/job/resolve.ts";
import {
  type BenchContext,
  type Benchmark,
  type BenchResult,
  checkClose,
  VerificationError,
} from "./benchmark.ts";
import { milliseconds, percent } from "./numbers.ts";
import { OverheadProcess } from "./overhead-fork.ts";
import type { OverheadTask } from "./overhead-process.ts";
import { runJob } from "./rankmesh.ts";
import { median, p90 } from "./statistics.ts";

const BATCH = 8;
const SEED = 0;
const WARMUP_STEPS = 5;
const ROUNDS = 3;
/** Time of a step outside its compute instructions, at steps of about 50 ms. */
const BUDGET = 0.03;

/** A step of tens of milliseconds, for which the budget is, and one that is almost all overhead. */
const CASES = [
  { dim: 4096, steps: 40, budgeted: true },
  { dim: 64, steps: 400, budgeted: false },
];

/** One run of each kind. Seconds. */
interface Round {
  /** Wall time of a step as the worker reports it, from the end of the one before. */
  readonly wall: readonly number[];
  /** Of that, inside compute instructions. */
  readonly kernels: readonly number[];
  /** Wall time of a step of a bare loop over the same instructions, in a process of its own. */
  readonly loop: readonly number[];
}

export const overhead: Benchmark = { name: "overhead", run };

async function run(context: BenchContext): Promise<BenchResult> {
  const rows: (ReturnType<typeof summarize> & {
    readonly dim: number;
    readonly budgeted: boolean;
  })[] = [];
  for (const { dim, steps, budgeted } of CASES) {
    const spec = jobSpec(dim, steps);
    context.progress(`FeedForward(${dim}, ${dim}): reference run`);
    const expected = (await runJob(context, spec)).loss;
    const rounds: Round[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      context.progress(`FeedForward(${dim}, ${dim}): round ${round + 1} of ${ROUNDS}`);
      rounds.push(await measure(context, spec, expected));
    }
    rows.push({ dim, budgeted, ...summarize(rounds) });
  }
  return {
    title: "Overhead of a step beside its kernels, 1 rank on the cpu backend",
    verified: [
      "the timed worker and the bare loop give the losses of `rankmesh run` of the same job, bit for bit",
    ],
    tables: [
      {
        header: [
          "dim",
          "step ms",
          "kernels ms",
          "outside ms",
          "p90 ms",
          "share",
          "bare loop ms",
          "step / loop - 1",
        ],
        rows: rows.map((row) => [
          String(row.dim),
          milliseconds(row.wallSeconds),
          milliseconds(row.kernelSeconds),
          milliseconds(row.outsideSeconds),
          milliseconds(row.outsideP90Seconds),
          percent(row.share),
          milliseconds(row.loopSeconds),
          percent(row.beyondLoop),
        ]),
      },
    ],
    budgets: rows
      .filter((row) => row.budgeted)
      .map((row) => ({
        what: `share of a step outside kernels, dim ${row.dim}`,
        measured: row.share,
        limit: BUDGET,
      })),
    notes: [
      `FeedForward(dim, dim), batch ${BATCH}, AdamW, ${numCores()} threads, medians over all steps of ${ROUNDS} rounds`,
      "kernels: a clock around every compute instruction in the worker itself (the call into C and back included); outside: " +
        "the rest of the same step, which holds batch, dispatch, loss, reports and heartbeats",
      "bare loop: the same instructions in a process that does nothing else, in turn with the worker; what the step takes " +
        "beyond it also holds what coordinator, gRPC threads and kernels take from each other on the same cores, and noise",
    ],
    data: { rows },
  };
}

function jobSpec(dim: number, steps: number): JobSpecInput {
  return {
    name: "bench-overhead",
    model: { feedForward: { dim, hidden: dim } },
    init: { seed: SEED },
    loss: "sum",
    optimizer: { adamw: {} },
    // Every step has the same batch, so that a loop can have it too.
    data: { batchSize: BATCH, random: { length: BATCH, seed: SEED } },
    steps,
  };
}

async function measure(
  context: BenchContext,
  spec: JobSpecInput,
  expected: readonly (number | null)[],
): Promise<Round> {
  const { wall, kernels, loss } = await timedWorker(context, spec);
  checkClose("losses of the timed worker", loss, expected, 0);
  const { program } = planJob(requireJobSpec(spec), { dataParallel: 1, tensorParallel: 1 });
  const task: OverheadTask = {
    kind: "loop",
    program,
    steps: expected.length,
    threads: numCores(),
    seed: SEED,
  };
  const process = new OverheadProcess(task, context.signal);
  const looped = await process.reply("looped").finally(() => process.close());
  checkClose("losses of the bare loop", looped.loss, expected, 0);
  return { wall, kernels, loop: looped.seconds.slice(WARMUP_STEPS) };
}

/** A coordinator in this process and one worker in another, as `rankmesh run` has them. */
async function timedWorker(context: BenchContext, spec: JobSpecInput) {
  const coordinator = await startCoordinator({
    listen: "127.0.0.1:0",
    http: "127.0.0.1:0",
    files: { kind: "none" },
    logger: pino({ level: "silent" }),
  });
  const client = new RankmeshClient({ address: coordinator.grpcAddress });
  const worker = new OverheadProcess(
    { kind: "worker", coordinator: coordinator.grpcAddress, threads: numCores() },
    context.signal,
  );
  try {
    const handle = await client.submit(spec, { signal: context.signal });
    const [job, { seconds: kernels }] = await Promise.all([
      handle.result({ signal: context.signal }),
      worker.reply("kernelTimes"),
    ]);
    if (kernels.length !== job.stepSeconds.length) {
      throw new VerificationError(
        `the worker reported ${job.stepSeconds.length} steps, its backend ran ${kernels.length}`,
      );
    }
    return {
      wall: job.stepSeconds.slice(WARMUP_STEPS),
      kernels: kernels.slice(WARMUP_STEPS),
      loss: job.loss,
    };
  } finally {
    worker.close();
    client.close();
    await coordinator.stop(1000);
  }
}

function summarize(rounds: readonly Round[]) {
  const wall = rounds.flatMap((round) => round.wall);
  const kernels = rounds.flatMap((round) => round.kernels);
  const outside = wall.map((seconds, i) => seconds - (kernels[i] ?? Number.NaN));
  return {
    wallSeconds: median(wall),
    kernelSeconds: median(kernels),
    outsideSeconds: median(outside),
    outsideP90Seconds: p90(outside),
    share: median(wall.map((seconds, i) => (outside[i] ?? Number.NaN) / seconds)),
    loopSeconds: median(rounds.flatMap((round) => round.loop)),
    beyondLoop: median(rounds.map((round) => median(round.wall) / median(round.loop) - 1)),
  };
}
