import type { LlamaModel } from "../../shared/job/job-spec.ts";

/** What is measured, and how long. */
export interface Sizes {
  readonly feedForward: {
    /** Features in, out and hidden. Budgets speak of 8192. */
    readonly dim: number;
    readonly batch: number;
    readonly ranks: readonly number[];
    /** Ranks at which the reference run is checked before anything is timed. */
    readonly checkedRanks: readonly number[];
    readonly steps: number;
    readonly rounds: number;
  };
  readonly llama: {
    readonly model: Pick<LlamaModel, "dim" | "layers" | "heads" | "kvHeads" | "hidden" | "vocab">;
    readonly seqLen: number;
    readonly batch: number;
    readonly steps: { readonly float32: number; readonly bfloat16: number };
  };
  readonly ceilings: {
    /** Bytes of each operand of a kernel that streams: many times the device's cache. */
    readonly streamBytes: number;
    /** Rows, columns and terms of a product. */
    readonly product: number;
  };
  /** Time of one sample of a kernel, and number of samples. */
  readonly timing: { readonly sampleSeconds: number; readonly samples: number };
}

/** For a data-centre GPU of 80 GB: some minutes in all. */
export const FULL: Sizes = {
  feedForward: {
    dim: 8192,
    batch: 8,
    ranks: [1, 2, 4, 8],
    checkedRanks: [1, 4],
    steps: 60,
    rounds: 2,
  },
  llama: {
    model: { dim: 2048, layers: 8, heads: 16, kvHeads: 16, hidden: 5632, vocab: 32000 },
    seqLen: 2048,
    batch: 4,
    steps: { float32: 12, bfloat16: 40 },
  },
  ceilings: { streamBytes: 2 ** 30, product: 8192 },
  timing: { sampleSeconds: 5e-3, samples: 9 },
};

/** Shows that everything runs; its numbers mean nothing. */
export const DRY: Sizes = {
  feedForward: { dim: 64, batch: 4, ranks: [1, 2], checkedRanks: [2], steps: 4, rounds: 1 },
  llama: {
    model: { dim: 32, layers: 1, heads: 4, kvHeads: 2, hidden: 48, vocab: 40 },
    seqLen: 16,
    batch: 2,
    steps: { float32: 4, bfloat16: 4 },
  },
  ceilings: { streamBytes: 2 ** 14, product: 32 },
  timing: { sampleSeconds: 0, samples: 2 },
};
