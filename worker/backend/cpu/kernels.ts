import type { LibraryHandle } from "koffi";

/** Address of native memory. User-space addresses fit in 48 bits, so a number holds them, and koffi takes numbers faster. */
export type Address = number;

/** "Left out" where a kernel takes an optional operand. */
export const NULL: Address = 0;

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
