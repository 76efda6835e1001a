import type { JobSpecInput } from "../shared/job/job-spec.ts";

/** The PyTorch program's own sizes. */
export const MODEL = { dim: 512, layers: 4, heads: 8, kvHeads: 4, hidden: 1408, vocab: 4096 };
export const SEQ_LEN = 256;
export const BATCH = 4;

/** The job that both programs train, but for the numbers drawn at random. */
export function llamaJob(
  mesh: { readonly dataParallel?: number; readonly tensorParallel?: number },
  overrides: Partial<JobSpecInput> = {},
): JobSpecInput {
  return {
    name: "bench-llama",
    model: { llama: MODEL },
    mesh,
    loss: "cross_entropy",
    optimizer: { adamw: { lr: 3e-3 } },
    data: { batchSize: BATCH, random: { length: 64, seqLen: SEQ_LEN } },
    ...overrides,
  };
}

/** Elements of all weights of linear layers. */
export function linearWeights(): number {
  const { dim, layers, heads, kvHeads, hidden, vocab } = MODEL;
  const kvDim = (dim / heads) * kvHeads;
  return layers * (2 * dim * dim + 2 * dim * kvDim + 3 * dim * hidden) + vocab * dim;
}
