import type { JobPrecision, JobSpecInput } from "../../shared/job/job-spec.ts";
import type { Sizes } from "./sizes.ts";

/** The reference program, tensor-parallel. */
export function feedForwardJob({ feedForward }: Sizes, tensorParallel: number): JobSpecInput {
  const { dim, batch, steps } = feedForward;
  return {
    name: "bench-step",
    model: { feedForward: { dim, hidden: dim } },
    mesh: { tensorParallel },
    loss: "sum",
    optimizer: { adamw: {} },
    data: { batchSize: batch, random: {} },
    steps,
  };
}

export function llamaJob({ llama }: Sizes, precision: JobPrecision): JobSpecInput {
  const { model, seqLen, batch, steps } = llama;
  return {
    name: `bench-llama-${precision}`,
    model: { llama: model },
    loss: "cross_entropy",
    // Small: large steps from random weights move a loss by more than rounding does.
    optimizer: { adamw: { lr: 1e-4 } },
    precision,
    data: { batchSize: batch, random: { length: 64, seqLen } },
    steps: precision === "fp32" ? steps.float32 : steps.bfloat16,
  };
}

/**
 * Bytes that memory must see in a step of the reference program, over all ranks: each weight is read forward, w2 once more
 * backward (only it has an input that needs a gradient), weights and both moments are read and written by the update.
 * Activations of a few rows stay in caches.
 */
export function feedForwardBytes({ feedForward: { dim } }: Sizes): number {
  const weight = 4 * dim * dim;
  return (3 + 1 + 3 * 6) * weight;
}

/** Operations of a step of the model: products with weights, three for each, and attention over half of all pairs of tokens. */
export function llamaFlops({ llama: { model, seqLen, batch } }: Sizes): number {
  const { dim, layers, heads, kvHeads, hidden, vocab } = model;
  const kvDim = (dim / heads) * kvHeads;
  const weights = layers * (2 * dim * dim + 2 * dim * kvDim + 3 * dim * hidden) + vocab * dim;
  const tokens = batch * seqLen;
  const attention = 6 * layers * tokens * seqLen * dim;
  return 6 * weights * tokens + attention;
}
