import koffi from "koffi";

/**
 * Address of memory that kernels read and write: of the host for `cpu`, of a device for `cuda`, an arena offset elsewhere.
 * User-space and device addresses fit in 48 bits, so a number holds them, and koffi takes numbers faster.
 */
export type Address = number;

/** "Left out" where a kernel takes an optional operand. */
export const NULL: Address = 0;

/** A small table that a kernel takes beside its operands: frequencies, or addresses. Fixed once made. */
export interface HostTable<T extends Float32Array | BigUint64Array> {
  readonly values: T;
  /** Of `values`, good for as long as this object lives. */
  readonly address: Address;
}

/** @param values become the table's own */
export function hostTable<T extends Float32Array | BigUint64Array>(values: T): HostTable<T> {
  // A buffer of its own: V8 moves the contents of small typed arrays that have none.
  const kept = values.buffer.byteLength === 0 ? values : own(values);
  return { values: kept, address: kept.length === 0 ? NULL : Number(koffi.address(kept)) };
}

function own<T extends Float32Array | BigUint64Array>(values: T): T {
  const buffer = new ArrayBuffer(values.byteLength);
  new Uint8Array(buffer).set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  return (
    values instanceof Float32Array ? new Float32Array(buffer) : new BigUint64Array(buffer)
  ) as T;
}

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
 * What a backend computes with: one method per kernel, the same for every backend that runs programs over an arena. The binders
 * (`worker/backend/binding`) have checked every size before a kernel sees it. Kernels may be asynchronous: they are
 * done in the order of the calls. Sizes are in elements unless named bytes; tensors are dense and row-major.
 * A set of kernels is for one precision: in that of bfloat16 activations and the weights of products are bfloat16, and
 * parameters, gradients of weights, statistics and scalars stay float32.
 * What each computes stands in `worker/backend/cpu/native`, whose functions have the same names.
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
  /** y = the sum of the operands, from the first on. */
  addN(operands: HostTable<BigUint64Array>, y: Address, n: number): void;
  addNDouble(operands: HostTable<BigUint64Array>, y: Address, n: number): void;
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
    frequencies: HostTable<Float32Array>,
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
  /** y: the float32 x as bfloat16, to nearest even. */
  round(x: Address, y: Address, n: number): void;
  /** y: the bfloat16 x as float32, exactly. */
  widen(x: Address, y: Address, n: number): void;
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
}
