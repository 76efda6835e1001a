// Operands and tolerances that op cases share.
import { pseudoRandom, type Tensor } from "./conformance.ts";

/** One float32 rounding of an exactly computed value. */
export const EXACT = 0;
export const ROUNDING = 1.2e-7;
/** Float32 sums of up to some hundred products in another order. */
export const DOT = 3e-6;
/** exp, tanh and erf in float32, some operations deep. */
export const TRANSCENDENTAL = 1e-6;
/** A float32 update: a handful of roundings, a root and a quotient. */
export const UPDATE = 2e-6;
/** Sums in float64. */
export const DOUBLE = 1e-12;

/** Lengths around those of vectors. */
export const SIZES = [0, 1, 3, 16, 37, 1000];

export const t = (...shape: number[]): Tensor => ({ shape });
export const doubles = (...shape: number[]): Tensor => ({ shape, dtype: "float64" });
export const positive = (...shape: number[]): Tensor => ({
  shape,
  values: (i) => 0.01 + Math.abs(pseudoRandom(i, 9)),
});
export const integers = (...shape: number[]): Tensor => ({
  shape,
  dtype: "int32",
  values: (i) => i - 5,
});
/** Integers from `least` up to, not with, `limit`. */
export const ids = (limit: number, least: number, ...shape: number[]): Tensor => ({
  shape,
  dtype: "int32",
  values: (i) => least + Math.floor(((pseudoRandom(i, 31) + 1) / 2) * (limit - least)),
});
export const dims = (...shape: number[]): string => `[${shape.join(", ")}]`;
