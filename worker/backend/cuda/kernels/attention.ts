import { ResourceExhaustedError } from "../../../../shared/errors.ts";
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

/** ATTENTION, and dq and dkv of GRADIENTS, in attention_tensor.cu and attention_tensor_grad.cu. */
const TENSOR_FORWARD: readonly Tiling[] = [
  { features: 64, threads: 128, own: 128, stream: 64 },
  { features: 128, threads: 128, own: 128, stream: 64 },
];
const TENSOR_DQ: readonly Tiling[] = [
  { features: 64, threads: 128, own: 128, stream: 32 },
  { features: 128, threads: 128, own: 128, stream: 32 },
];
const TENSOR_DKV: readonly Tiling[] = [
  { features: 64, threads: 128, own: 64, stream: 64 },
  { features: 128, threads: 128, own: 64, stream: 32 },
];
/** What tensor-core kernels are for: devices from here on, and heads of a multiple of so many features up to so many. */
const TENSOR_CAPABILITY = 80;
const TENSOR_FEATURES = { multipleOf: 16, max: 128 } as const;

/** Bytes of tiles of floats as attention_tiles.cuh lays them out: the block's own, one that streams, and the weights. */
function tileBytes({ own, stream }: Tiling, n: number, ownTiles: number): number {
  const row = 8 * Math.ceil(n / 8) + 4;
  const weights = 4 * ((stream / 4) | 1);
  return 4 * ((ownTiles * own + stream) * row + own * weights);
}

/** Bytes of tiles of bfloat16 as attention_fragments.cuh lays them out. */
function fragmentBytes(
  { features, own, stream }: Tiling,
  ownTiles: number,
  streams: number,
): number {
  return 2 * (ownTiles * own + streams * stream) * (features + 8);
}

/** A kernel, and what it is launched with. */
interface Form extends Tiling {
  readonly launch: Launch;
  sharedBytes(n: number): number;
}

/** Forms of the three kernels. */
interface Forms {
  readonly forward: readonly Form[];
  readonly dq: readonly Form[];
  readonly dkv: readonly Form[];
}

const FORWARD_KINDS = "aaaaaiiiiiiif";
const DQ_KINDS = "aaaaaaaiiiiiiiif";
const DKV_KINDS = "aaaaaaaaiiiiiiiiif";

function plainForms(l: Launcher, suffix: "f32" | "bf16"): Forms {
  const forms = (
    tilings: readonly Tiling[],
    ownTiles: number,
    launchOf: (features: number) => Launch,
  ): readonly Form[] =>
    tilings.map((tiling) => ({
      ...tiling,
      launch: launchOf(tiling.features),
      sharedBytes: (n) => tileBytes(tiling, n, ownTiles),
    }));
  const gradient = (name: string, kinds: string) => (features: number) =>
    l.kernel("attention_grad", `rm_attention_${name}_${features}_${suffix}`, kinds);
  return {
    forward: forms(FORWARD, 1, (features) =>
      l.kernel("attention", `rm_attention_${features}_${suffix}`, FORWARD_KINDS),
    ),
    dq: forms(BACKWARD, 2, gradient("dq", DQ_KINDS)),
    dkv: forms(BACKWARD, 2, gradient("dkv", DKV_KINDS)),
  };
}

function tensorForms(l: Launcher): Forms {
  const gradient = (name: string, features: number, kinds: string): Launch =>
    l.kernel("attention_tensor_grad", `rm_attention_tensor_${name}_${features}`, kinds);
  return {
    forward: TENSOR_FORWARD.map((tiling) => ({
      ...tiling,
      launch: l.kernel("attention_tensor", `rm_attention_tensor_${tiling.features}`, FORWARD_KINDS),
      sharedBytes: () => fragmentBytes(tiling, 1, 2),
    })),
    dq: TENSOR_DQ.map((tiling) => ({
      ...tiling,
      launch: gradient("dq", tiling.features, DQ_KINDS),
      sharedBytes: () => fragmentBytes(tiling, 2, 2),
    })),
    dkv: TENSOR_DKV.map((tiling) => ({
      ...tiling,
      launch: gradient("dkv", tiling.features, DKV_KINDS),
      // Two tiles of queries at a time, with two floats to a query.
      sharedBytes: () => fragmentBytes(tiling, 2, 4) + 16 * tiling.stream,
    })),
  };
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
  const plain = plainForms(l, suffix);
  const hasTensorCores = suffix === "bf16" && l.computeCapability >= TENSOR_CAPABILITY;
  const tensor = hasTensorCores ? tensorForms(l) : undefined;
  const shifts = l.kernel("attention_grad", `rm_attention_shifts_${suffix}`, "aaaniii");

  /** The narrowest that holds a head and fits on the device; on tensor cores where heads and addresses are whole vectors. */
  const formOf = (kernel: keyof Forms, n: number, ...operands: readonly Address[]): Form => {
    const isVector =
      n % TENSOR_FEATURES.multipleOf === 0 &&
      n <= TENSOR_FEATURES.max &&
      operands.every((address) => address % 16 === 0);
    const candidates = (isVector ? tensor : undefined)?.[kernel] ?? plain[kernel];
    const fitting = candidates.filter(
      (form) => form.features >= n && form.sharedBytes(n) <= l.maxSharedBytes,
    );
    // Binders take no head wider than the last form's.
    return (fitting[0] ?? candidates.at(-1)) as Form;
  };

  return {
    attention(q, k, v, o, lse, B, T, H, KV, n, group, shift, causal) {
      const { launch, own, threads, sharedBytes } = formOf("forward", n, q, k, v, o);
      const scale = 1 / Math.sqrt(n);
      const blocks = Math.ceil(T / own) * H * B;
      const sizes = [T, H, KV, n, group, shift, causal];
      launch(blocks, threads, sharedBytes(n), q, k, v, o, lse, ...sizes, scale);
    },

    attentionGrad(dOut, q, k, v, o, lse, dq, dk, dv, ...sizes) {
      const [, T, H, KV, n, , , causal] = sizes;
      const dqForm = formOf("dq", n, dOut, q, k, v, dq);
      const dkvForm = formOf("dkv", n, dOut, q, k, v, dk, dv);
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
 *
 * @throws ResourceExhaustedError where that is too much too
 */
function* partsOf(
  [B, T, H, KV, , group, shift]: HeadSizes,
  bytes: number,
): Generator<Part, void, void> {
  if (4 * B * T * H <= bytes) {
    yield { B, heads: H, kvHeads: KV, group, shift, query: 0, key: 0 };
    return;
  }
  const least = 4 * T * Math.min(H, group);
  if (least > bytes) {
    throw new ResourceExhaustedError(
      `cuda backend: attentionGrad over ${T} tokens and ${group} query heads to a key-value head keeps ${least} bytes where ${bytes} are; use shorter sequences`,
    );
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
