import type { Address } from "../kernels.ts";

/** A row-major matrix product over device memory, on the compute stream. */
export interface Product {
  /** Rows of c. */
  readonly m: number;
  /** Columns of c. */
  readonly n: number;
  /** Terms of each sum. */
  readonly k: number;
  /** op(a) is [m, k]: a itself, or a given as [k, m] where `transposeA`. */
  readonly a: Address;
  readonly transposeA: boolean;
  /** op(b) is [k, n]. */
  readonly b: Address;
  readonly transposeB: boolean;
  readonly c: Address;
  /** dtype of a and b. */
  readonly inputs: "float32" | "bfloat16";
  /** dtype of c; sums are formed in float32. */
  readonly output: "float32" | "bfloat16";
}

export interface CudaBlas {
  /** c = op(a) op(b). */
  multiply(product: Product): void;
}
