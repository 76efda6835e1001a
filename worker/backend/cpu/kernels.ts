import type { LibraryHandle } from "koffi";
import type { Address, Kernels } from "../kernels.ts";

/**
 * The functions of librankmesh_cpu that are called with addresses; `worker/backend/cpu/native` documents them.
 * Sizes are in elements unless named bytes.
 */
export interface CpuKernels extends Kernels {
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
  Record<keyof CpuKernels, readonly [symbol: string, args: string, result?: string]>
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
  round: ["rm_round", "aan"],
  widen: ["rm_widen", "aan"],
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
export function bindKernels(library: LibraryHandle): CpuKernels {
  const bound = Object.entries(SIGNATURES).map(([name, [symbol, args, result]]) => [
    name,
    library.func(
      symbol,
      result ?? "void",
      [...args].map((kind) => ARGUMENTS[kind] ?? kind),
    ) as unknown,
  ]);
  const kernels = Object.fromEntries(bound) as unknown as CpuKernels;
  const { addN, addNDouble, rope } = kernels as unknown as NativeTableKernels;
  return {
    ...kernels,
    addN: ({ address, values }, y, n) => addN(address, values.length, y, n),
    addNDouble: ({ address, values }, y, n) => addNDouble(address, values.length, y, n),
    rope: (x, { address }, ...rest) => rope(x, address, ...rest),
  };
}

/** Kernels that take a table: in C its address. */
interface NativeTableKernels {
  addN(operands: Address, count: number, y: Address, n: number): void;
  addNDouble(operands: Address, count: number, y: Address, n: number): void;
  rope(x: Address, frequencies: Address, ...rest: number[]): void;
}
