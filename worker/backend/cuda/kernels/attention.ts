import { type Address, type HeadSizes, type Kernels, NULL } from "../../kernels.ts";
import type { Launch, Launcher } from "../launcher.ts";

type Attention = "attention" | "attentionGrad";

// Legend as in native/attention.cuh: B batches, T tokens, H query heads, KV key-value heads, n features of a head.

/** How a block cuts a head up: rows of the tile that it owns, rows of those that stream by, for heads of at most `features`. */
interface Tiling {
  readonly features: number;
  readonly threads: number;
  readonly own: number;
  readonly stream: number;
}

/** ATTENTION_FORMS in attention.cu. */
const FORWARD: readonly Tiling[] = [
  { features: 64, threads: 128, own: 64, stream: 32 },
  { features: 128, threads: 128, own: 64, stream: 32 },
  { features: 256, threads: 128, own: 32, stream: 16 },
  { features: 512, threads: 128, own: 16, stream: 8 },
];

/** GRADIENT_FORMS in attention_grad.cu. */
const BACKWARD: readonly Tiling[] = [
  { features: 64, threads: 128, own: 64, stream: 32 },
  { features: 128, threads: 128, own: 64, stream: 32 },
  { features: 256, threads: 128, own: 16, stream: 16 },
  { features: 512, threads: 64, own: 8, stream: 8 },
];

/** Bytes of tiles of floats as attention_tiles.cuh lays them out: the block's own, one that streams, and the weights. */
function tileBytes({ own, stream }: Tiling, n: number, ownTiles: number): number {
  const row = 8 * Math.ceil(n / 8) + 4;
  const weights = 4 * ((stream / 4) | 1);
  return 4 * ((ownTiles * own + stream) * row + own * weights);
}

/** A kernel, and what it is launched with. */
interface Form extends Tiling {
  readonly launch: Launch;
  sharedBytes(n: number): number;
}

/** Threads of `rm_attention_shifts_*`, a warp to a row. */
const SHIFT_THREADS = 256;

export function attentionKernels(l: Launcher): Pick<Kernels, Attention> {
  return attention(l, "f32", 4);
}

export function attentionHalfKernels(l: Launcher): Pick<Kernels, Attention> {
  return attention(l, "bf16", 2);
}

function attention(
  l: Launcher,
  suffix: "f32" | "bf16",
  elementBytes: number,
): Pick<Kernels, Attention> {
  const forms = (
    tilings: readonly Tiling[],
    [module, name]: readonly [module: string, name: string],
    kinds: string,
    ownTiles: number,
  ): readonly Form[] =>
    tilings.map((tiling) => ({
      ...tiling,
      launch: l.kernel(module, `${name}_${tiling.features}_${suffix}`, kinds),
      sharedBytes: (n) => tileBytes(tiling, n, ownTiles),
    }));
  const forward = forms(FORWARD, ["attention", "rm_attention"], "aaaaaiiiiiiif", 1);
  const shifts = l.kernel("attention_grad", `rm_attention_shifts_${suffix}`, "aaaniii");
  const dqForms = forms(BACKWARD, ["attention_grad", "rm_attention_dq"], "aaaaaaaiiiiiiiif", 2);
  const dkvForms = forms(BACKWARD, ["attention_grad", "rm_attention_dkv"], "aaaaaaaaiiiiiiiiif", 2);

  /** The narrowest that holds a head and fits on the device. */
  const formOf = (candidates: readonly Form[], n: number): Form => {
    const fitting = candidates.filter(
      (form) => form.features >= n && form.sharedBytes(n) <= l.maxSharedBytes,
    );
    return (fitting[0] ?? candidates.at(-1)) as Form;
  };

  return {
    attention(q, k, v, o, lse, B, T, H, KV, n, group, shift, causal) {
      const { launch, own, threads, sharedBytes } = formOf(forward, n);
      const scale = 1 / Math.sqrt(n);
      const blocks = Math.ceil(T / own) * H * B;
      const sizes = [T, H, KV, n, group, shift, causal];
      launch(blocks, threads, sharedBytes(n), q, k, v, o, lse, ...sizes, scale);
    },

    attentionGrad(dOut, q, k, v, o, lse, dq, dk, dv, ...sizes) {
      const [, T, H, KV, n, , , causal] = sizes;
      const [dqForm, dkvForm] = [formOf(dqForms, n), formOf(dkvForms, n)];
      const scale = 1 / Math.sqrt(n);
      const needsShifts = dq !== NULL || dk !== NULL;
      const D = l.scratch.address;
      for (const part of partsOf(sizes, needsShifts ? l.scratch.bytes : Number.POSITIVE_INFINITY)) {
        const { B, heads, kvHeads, group, shift } = part;
        const query = (x: Address): Address => x + part.query * n * elementBytes;
        const key = (x: Address): Address => (x === NULL ? NULL : x + part.key * n * elementBytes);
        const inputs = [query(dOut), query(q), key(k), key(v), lse + 4 * part.query, D];
        if (needsShifts) {
          const rows = B * T * heads;
          const blocks = Math.ceil(rows / (SHIFT_THREADS / 32));
          shifts(blocks, SHIFT_THREADS, 0, query(dOut), query(o), D, rows, heads, H, n);
        }
        if (dq !== NULL) {
          const { launch, own, threads, sharedBytes } = dqForm;
          const blocks = Math.ceil(T / own) * heads * B;
          const tail = [T, heads, H, KV, n, group, shift, causal, scale];
          launch(blocks, threads, sharedBytes(n), ...inputs, query(dq), ...tail);
        }
        if (dk !== NULL || dv !== NULL) {
          const { launch, own, threads, sharedBytes } = dkvForm;
          const blocks = Math.ceil(T / own) * kvHeads * B;
          const tail = [T, heads, H, kvHeads, KV, n, group, shift, causal, scale];
          launch(blocks, threads, sharedBytes(n), ...inputs, key(dk), key(dv), ...tail);
        }
      }
    },
  };
}

/** Some of a call's batches and heads: how many, and the (token, head) rows of the first, of queries and of keys. */
interface Part {
  readonly B: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly group: number;
  readonly shift: number;
  readonly query: number;
  readonly key: number;
}

/**
 * A call in pieces whose D, a float for every query, fits in `bytes`: whole where it can be, else one key-value head of one
 * batch at a time, with the query heads that read it.
 */
function* partsOf(
  [B, T, H, KV, , group, shift]: HeadSizes,
  bytes: number,
): Generator<Part, void, void> {
  if (4 * B * T * H <= bytes) {
    yield { B, heads: H, kvHeads: KV, group, shift, query: 0, key: 0 };
    return;
  }
  for (let b = 0; b < B; b++) {
    for (let kv = 0; kv < KV; kv++) {
      const first = Math.max(0, kv * group - shift);
      const heads = Math.max(0, Math.min(H, (kv + 1) * group - shift) - first);
      const [query, key] = [b * T * H + first, b * T * KV + kv];
      yield { B: 1, heads, kvHeads: 1, group, shift: shift + first - kv * group, query, key };
    }
  }
}
