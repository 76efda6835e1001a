import type { LibraryHandle } from "koffi";

/** Address of native memory. User-space addresses fit in 48 bits, so a number holds them, and koffi takes numbers faster. */
export type Address = number;

/** "Left out" where a kernel takes an optional operand. */
export const NULL: Address = 0;

/** Sizes of an attention op: local heads, and how many query heads share a key-value head, counted from `shift`. */
export type HeadSizes = readonly [
  B: number,
  T: number,
  H: number,
  KV: number,
  headDim: number,
  group: number,
  shift: number,
  causal: number,
];

/**
 * The functions of librankmesh_cpu that are called with addresses; `worker/backend/cpu/native` documents them.
 * Sizes are in elements unless named bytes.
 */
export interface Kernels {
  linear(x: Address, w: Address, y: Address, M: number, O: number, I: number): void;
  linearDx(dy: Address, w: Address, dx: Address, M: number, O: number, I: number): void;
  linearDw(dy: Address, x: Address, dw: Address, M: number, O: number, I: number): void;
  bias(x: Address, b: Address, y: Address, M: number, O: number): void;
  biasDb(dy: Address, db: Address, M: number, O: number): void;
  unary(op: number, x: Address, y: Address, n: number): void;
  unaryGrad(op: number, dy: Address, x: Address, dx: Address, n: number): void;
  binary(op: number, a: Address, b: Address, y: Address, n: number): void;
  addN(operands: Address, count: number, y: Address, n: number): void;
  addNDouble(operands: Address, count: number, y: Address, n: number): void;
  scale(x: Address, y: Address, n: number, factor: number): void;
  sum(x: Address, n: number, divisor: number, s: Address): void;
  mse(x: Address, y: Address, n: number, count: number, s: Address): void;
  mseGrad(ds: Address, x: Address, y: Address, dx: Address, n: number, count: number): void;
  broadcast(s: Address, y: Address, n: number, factor: number): void;
  fill(y: Address, n: number, value: number): void;
  zero(y: Address, bytes: number): void;
  copy(
    to: Address,
    toStrideBytes: number,
    from: Address,
    fromStrideBytes: number,
    rowBytes: number,
    rows: number,
  ): void;
  sumSquares(x: Address, n: number, s: Address): void;
  sumSquaresFromFactors(dy: Address, x: Address, M: number, O: number, I: number, s: Address): void;
  sqrt(x: Address, y: Address): void;
  clipFactor(norm: Address, factor: Address, maxNorm: number): void;
  adamw(
    w: Address,
    g: Address,
    m: Address,
    v: Address,
    n: number,
    factor: Address,
    scalars: Address,
  ): void;
  sgd(w: Address, g: Address, m: Address, n: number, factor: Address, scalars: Address): void;
  adamwFromFactors(
    dy: Address,
    x: Address,
    w: Address,
    m: Address,
    v: Address,
    M: number,
    O: number,
    I: number,
    factor: Address,
    scalars: Address,
    scratch: Address,
    tileRows: number,
  ): void;
  sgdFromFactors(
    dy: Address,
    x: Address,
    w: Address,
    m: Address,
    M: number,
    O: number,
    I: number,
    factor: Address,
    scalars: Address,
    scratch: Address,
    tileRows: number,
  ): void;
  rope(
    x: Address,
    frequencies: Address,
    y: Address,
    B: number,
    T: number,
    F: number,
    headDim: number,
    first: number,
    direction: number,
  ): void;
  attention(
    q: Address,
    k: Address,
    v: Address,
    o: Address,
    lse: Address,
    ...sizes: HeadSizes
  ): void;
  attentionGrad(
    dOut: Address,
    q: Address,
    k: Address,
    v: Address,
    o: Address,
    lse: Address,
    dq: Address,
    dk: Address,
    dv: Address,
    ...sizes: HeadSizes
  ): void;
  attentionCached(
    q: Address,
    k: Address,
    v: Address,
    keys: Address,
    values: Address,
    o: Address,
    H: number,
    KV: number,
    headDim: number,
    group: number,
    shift: number,
    position: number,
  ): void;
  sampleToken(
    z: Address,
    V: number,
    temperature: number,
    topK: number,
    u: number,
    id: Address,
  ): void;
  ceStats(z: Address, t: Address, s: Address, M: number, V: number, first: number): void;
  ceMerge(blocks: Address, s: Address, parts: number, M: number): void;
  ceLoss(s: Address, loss: Address, M: number, count: number): void;
  ceGrad(
    ds: Address,
    z: Address,
    t: Address,
    s: Address,
    dz: Address,
    M: number,
    V: number,
    first: number,
    count: number,
  ): void;
  embedding(
    ids: Address,
    w: Address,
    y: Address,
    M: number,
    V: number,
    D: number,
    start: number,
  ): void;
  embeddingDw(
    dy: Address,
    ids: Address,
    dw: Address,
    M: number,
    V: number,
    D: number,
    start: number,
  ): void;
  adamwFromRows(
    dy: Address,
    ids: Address,
    w: Address,
    m: Address,
    v: Address,
    M: number,
    V: number,
    D: number,
    start: number,
    factor: Address,
    scalars: Address,
    scratch: Address,
  ): void;
  sgdFromRows(
    dy: Address,
    ids: Address,
    w: Address,
    m: Address,
    M: number,
    V: number,
    D: number,
    start: number,
    factor: Address,
    scalars: Address,
    scratch: Address,
  ): void;
  sumSquaresFromRows(
    dy: Address,
    ids: Address,
    M: number,
    V: number,
    D: number,
    start: number,
    scratch: Address,
    s: Address,
  ): void;
  norm(x: Address, g: Address, b: Address, y: Address, M: number, D: number, eps: number): void;
  normGrad(
    layer: number,
    dy: Address,
    x: Address,
    g: Address,
    dx: Address,
    dg: Address,
    M: number,
    D: number,
    eps: number,
  ): void;
  swiglu(a: Address, b: Address, y: Address, n: number): void;
  swigluDa(dy: Address, a: Address, b: Address, da: Address, n: number): void;
  swigluDb(dy: Address, a: Address, db: Address, n: number): void;
  swigluGrad(dy: Address, a: Address, b: Address, da: Address, db: Address, n: number): void;
  dropout(
    x: Address,
    y: Address,
    shape: BigUint64Array,
    dims: number,
    seed: bigint,
    name: bigint,
    step: number,
    threshold: number,
    scale: number,
  ): void;
  transpose(
    x: Address,
    y: Address,
    outer: number,
    A: number,
    between: number,
    B: number,
    inner: number,
  ): void;
  fillUniform(
    y: Address,
    shape: BigUint64Array,
    dims: number,
    seed: bigint,
    nameHash: bigint,
    bound: number,
  ): void;
  map(bytes: number): bigint | null;
  unmap(start: Address, bytes: number): number;
  read(host: Uint8Array, arena: Address, bytes: number): void;
  write(arena: Address, host: Uint8Array, bytes: number): void;
  setThreads(threads: number): number;
  useSgemm(address: bigint | null): void;
  vectorLanes(): number;
}

// Argument kinds: a address, n size, d double, i int, u uint64 as BigInt, p host array or pointer.
const ARGUMENTS: Readonly<Record<string, string>> = {
  a: "uint64_t",
  n: "uint64_t",
  d: "double",
  i: "int",
  u: "uint64_t",
  p: "void *",
};

const SIGNATURES: Readonly<
  Record<keyof Kernels, readonly [symbol: string, args: string, result?: string]>
> = {
  linear: ["rm_linear", "aaannn"],
  linearDx: ["rm_linear_dx", "aaannn"],
  linearDw: ["rm_linear_dw", "aaannn"],
  bias: ["rm_bias", "aaann"],
  biasDb: ["rm_bias_db", "aann"],
  unary: ["rm_unary", "iaan"],
  unaryGrad: ["rm_unary_grad", "iaaan"],
  binary: ["rm_binary", "iaaan"],
  addN: ["rm_add_n", "anan"],
  addNDouble: ["rm_add_n_double", "anan"],
  scale: ["rm_scale", "aand"],
  sum: ["rm_sum", "anda"],
  mse: ["rm_mse", "aanda"],
  mseGrad: ["rm_mse_grad", "aaaand"],
  broadcast: ["rm_broadcast", "aand"],
  fill: ["rm_fill", "and"],
  zero: ["rm_zero", "an"],
  copy: ["rm_copy", "anannn"],
  sumSquares: ["rm_sum_squares", "ana"],
  sumSquaresFromFactors: ["rm_sum_squares_from_factors", "aannna"],
  sqrt: ["rm_sqrt", "aa"],
  clipFactor: ["rm_clip_factor", "aad"],
  adamw: ["rm_adamw", "aaaanaa"],
  sgd: ["rm_sgd", "aaanaa"],
  adamwFromFactors: ["rm_adamw_from_factors", "aaaaannnaaan"],
  sgdFromFactors: ["rm_sgd_from_factors", "aaaannnaaan"],
  rope: ["rm_rope", "aaannnnni"],
  attention: ["rm_attention", "aaaaannnnnnni"],
  attentionGrad: ["rm_attention_grad", "aaaaaaaaannnnnnni"],
  attentionCached: ["rm_attention_cached", "aaaaaannnnnn"],
  sampleToken: ["rm_sample_token", "andnda"],
  ceStats: ["rm_ce_stats", "aaannn"],
  ceMerge: ["rm_ce_merge", "aann"],
  ceLoss: ["rm_ce_loss", "aand"],
  ceGrad: ["rm_ce_grad", "aaaaannnd"],
  embedding: ["rm_embedding", "aaannnn"],
  embeddingDw: ["rm_embedding_dw", "aaannnn"],
  adamwFromRows: ["rm_adamw_from_rows", "aaaaannnnaaa"],
  sgdFromRows: ["rm_sgd_from_rows", "aaaannnnaaa"],
  sumSquaresFromRows: ["rm_sum_squares_from_rows", "aannnnaa"],
  norm: ["rm_norm", "aaaannd"],
  normGrad: ["rm_norm_grad", "iaaaaannd"],
  swiglu: ["rm_swiglu", "aaan"],
  swigluDa: ["rm_swiglu_da", "aaaan"],
  swigluDb: ["rm_swiglu_db", "aaan"],
  swigluGrad: ["rm_swiglu_grad", "aaaaan"],
  dropout: ["rm_dropout", "aapiuunnd"],
  transpose: ["rm_transpose", "aannnnn"],
  fillUniform: ["rm_fill_uniform", "apiuud"],
  map: ["rm_map", "n", "void *"],
  unmap: ["rm_unmap", "an", "int"],
  read: ["rm_read", "pan"],
  write: ["rm_write", "apn"],
  setThreads: ["rm_set_threads", "i", "int"],
  useSgemm: ["rm_use_sgemm", "p"],
  vectorLanes: ["rm_vector_lanes", "", "int"],
};

/** Binds all kernels. @throws Error of koffi's naming a function that the library lacks. */
export function bindKernels(library: LibraryHandle): Kernels {
  const bound = Object.entries(SIGNATURES).map(([name, [symbol, args, result]]) => [
    name,
    library.func(
      symbol,
      result ?? "void",
      [...args].map((kind) => ARGUMENTS[kind] ?? kind),
    ) as unknown,
  ]);
  return Object.fromEntries(bound) as Kernels;
}
