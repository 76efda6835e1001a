import { plural } from "../cli/format.ts";
import { threadsPerRank } from "../cli/machine.ts";
import { planJob } from "../coordinator/planning/plan-job.ts";
import type { JobSpecInput } from "../shared/job/job-spec.ts";
import { requireJobSpec } from "../shared/job/resolve.ts";
import { type BenchContext, type Benchmark, type BenchResult, checkClose } from "./benchmark.ts";
import { BATCH, llamaJob, MODEL, SEQ_LEN } from "./llama-job.ts";
import {
  memoryTable,
  type PeerSample,
  peerBudgets,
  RANKS,
  type Sample,
  type Shares,
  shareBudget,
  shareTable,
  stepTable,
  summarize,
} from "./llama-tables.ts";
import type { PeerRun } from "./peer.ts";
import { checkPeaks, runJob } from "./rankmesh.ts";
import { LOSS_TOLERANCE, matchReference } from "./reference.ts";

const STEPS = 10;
const PEER_STEPS = 8;
/** Each measures everything once, so that a change in the machine's load strikes all alike. */
const ROUNDS = 3;
const SHARDED_RANKS = 4;
const SHARDED_STEPS = 3;
const REFERENCE = {
  model: { llama: { dim: 64, layers: 2, heads: 8, kvHeads: 4, hidden: 160, vocab: 96 } },
  loss: "cross_entropy",
  optimizer: { adamw: { lr: 3e-3 } },
  batchSize: 4,
} as const;

export const llama: Benchmark = { name: "llama", run };

async function run(context: BenchContext): Promise<BenchResult> {
  const { peers, progress } = context;
  const verified = [await matchReference(context, "llama-tiny", RANKS, REFERENCE)];
  const samples: Sample[] = [];
  let expected: readonly (number | null)[] | undefined;
  for (let round = 0; round < ROUNDS; round++) {
    for (const ranks of RANKS) {
      progress(`round ${round + 1} of ${ROUNDS}, ${plural(ranks, "rank")}`);
      const job = await runJob(context, llamaJob({ tensorParallel: ranks }, { steps: STEPS }));
      expected ??= job.loss;
      const what = `losses on ${plural(ranks, "rank")} against 1`;
      checkClose(what, job.loss, expected, LOSS_TOLERANCE);
      checkPeaks(job.ranks);
      samples.push({
        ranks,
        median: job.stepSeconds.median ?? Number.NaN,
        p90: job.stepSeconds.p90 ?? Number.NaN,
        peakBytes: Math.max(...job.ranks.map((rank) => rank.peakMemoryBytes)),
        residentBytes: Math.max(...job.ranks.map((rank) => rank.rssBytes)),
        collectiveBytes: Math.max(...job.ranks.map((rank) => rank.collectiveBytes)) / STEPS,
        peer: peers.missing === undefined ? await peerSample(context, ranks) : null,
      });
    }
  }
  const shares = await shardFully(context, expected ?? []);
  verified.push(
    `losses of the timed runs agree on ${RANKS.join(" and ")} ranks within ${LOSS_TOLERANCE.toExponential()}, relative, and so ` +
      `do those of ${SHARDED_STEPS} steps on ${SHARDED_RANKS} data-parallel ranks that share all state`,
    "peak = prediction, to the byte, on every rank of all these runs",
  );
  const summaries = RANKS.map((ranks) => summarize(samples.filter((s) => s.ranks === ranks)));
  const { dim, layers, heads, kvHeads, hidden, vocab } = MODEL;
  return {
    title: `Step of a Llama of ${layers} layers, ${BATCH} rows of ${SEQ_LEN} tokens, AdamW, on the cpu backend`,
    verified,
    tables: [stepTable(summaries), memoryTable(summaries), shareTable(shares)],
    budgets: [...summaries.flatMap(peerBudgets), shareBudget(shares)],
    notes: [
      `dim ${dim}, ${heads} heads, ${kvHeads} key-value heads, hidden ${hidden}, vocabulary ${vocab}; float32; default plan, ` +
        "sequence parallel on 2 ranks",
      `real processes (\`rankmesh run\`), ${STEPS} steps of which the first two are left out, ${ROUNDS} rounds, each of ` +
        "rankmesh, PyTorch in turn; ratios are formed within a round and their median is shown",
      "GFLOP/s: only the products with weights counted, three for each weight and token, of all ranks together",
      "peak: what the backend asked the system for; resident: the worker's process after the last step; PyTorch's resident " +
        "memory is its process's peak, its growth that above the interpreter with its libraries loaded, before the model is " +
        "made; of the ranks the largest; 1 MB = 1e6 bytes",
      peers.missing === undefined
        ? `PyTorch ${peers.version} + gloo, ${PEER_STEPS} steps, same threads`
        : `no peer: ${peers.missing}`,
    ],
    data: { model: MODEL, seqLen: SEQ_LEN, batch: BATCH, ranks: summaries, shares, samples },
  };
}

async function peerSample({ peers }: BenchContext, ranks: number): Promise<PeerSample> {
  const run: PeerRun = await peers.llama({
    world: ranks,
    threads: threadsPerRank(ranks),
    batch: BATCH,
    steps: PEER_STEPS,
    model: MODEL,
    seqLen: SEQ_LEN,
  });
  return {
    median: run.medianSeconds,
    peakResidentBytes: Math.max(...run.peakRssBytes),
    baselineBytes: Math.max(...run.baselineRssBytes),
  };
}

/** Bytes of state that the plan gives a rank that shares all of it; the same job is run too. */
async function shardFully(
  context: BenchContext,
  expected: readonly (number | null)[],
): Promise<Shares> {
  context.progress(`full sharding over ${SHARDED_RANKS} ranks`);
  const sharded = llamaJob(
    { dataParallel: SHARDED_RANKS },
    { dataParallelSharding: "full", steps: SHARDED_STEPS },
  );
  const job = await runJob(context, sharded);
  const what = `losses on ${SHARDED_RANKS} fully sharded ranks against 1`;
  checkClose(what, job.loss, expected.slice(0, SHARDED_STEPS), LOSS_TOLERANCE);
  checkPeaks(job.ranks);
  const wholeBytes = stateBytes(llamaJob({}), 1);
  const shardedBytes = stateBytes(sharded, SHARDED_RANKS);
  const share = (shardedBytes * SHARDED_RANKS) / wholeBytes;
  return { ranks: SHARDED_RANKS, wholeBytes, shardedBytes, share };
}

function stateBytes(spec: JobSpecInput, dataParallel: number): number {
  const { report } = planJob(requireJobSpec(spec), { dataParallel, tensorParallel: 1 });
  const { weights = Number.NaN, optimizer = Number.NaN } = report.memoryByKind;
  return weights + optimizer;
}
