// Linear layers and updates from factors where compiled programs have their operands, at multiples of 256 bytes, at the seams of
// kernels for few rows and of tiles for many; and all of it with factors of bfloat16.
import type { DType } from "../../shared/program/program.ts";
import type { OpCase, Tensor } from "./conformance.ts";
import { DOT, DOUBLE, dims, doubles, positive, TRANSCENDENTAL, t } from "./op-case-tensors.ts";

/** One rounding to bfloat16 of a sum in float32. */
const HALF = 2 ** -8 + TRANSCENDENTAL;

const of = (dtype: DType, ...shape: number[]): Tensor => ({ shape, dtype });
const named = (dtype: DType): string => (dtype === "bfloat16" ? "bfloat16 " : "");

/**
 * Row counts around those that kernels are made for; weights that end in a part of what a block, a warp or a vector takes; sums
 * over so many weight rows that several blocks share them; and rows of elements that are no whole vectors.
 */
const PRODUCTS: readonly (readonly [M: number, O: number, I: number])[] = [
  [1, 37, 264],
  [2, 5, 136],
  [3, 33, 520],
  [4, 130, 40],
  [5, 6, 8],
  [7, 64, 300],
  [8, 520, 136],
  [9, 35, 264],
  [16, 530, 24],
  [16, 70, 45],
  [17, 40, 264],
  [33, 65, 24],
  [60, 70, 136],
];

const products = PRODUCTS.flatMap(([M, O, I]) =>
  (["float32", "bfloat16"] as const).flatMap((dtype): OpCase[] => {
    const [x, w, y] = [of(dtype, M, I), of(dtype, O, I), of(dtype, M, O)];
    const common = { alignment: 256, tolerance: dtype === "float32" ? DOT : HALF };
    const factors = `${named(dtype)}dy${dims(M, O)} x${dims(M, I)} aligned`;
    return [
      {
        ...common,
        op: "linear",
        title: `${named(dtype)}x${dims(M, I)} w${dims(O, I)} aligned`,
        inputs: [x, w],
        outputs: [y],
      },
      {
        ...common,
        op: "linearDx",
        title: `${named(dtype)}dy${dims(M, O)} w${dims(O, I)} aligned`,
        inputs: [y, w],
        outputs: [x],
      },
      {
        ...common,
        op: "linearDw",
        title: factors,
        inputs: [y, x],
        outputs: [t(O, I)],
        tolerance: DOT,
      },
      {
        ...common,
        op: "sumSquaresFromFactors",
        title: factors,
        inputs: [y, x],
        outputs: [doubles()],
        // Many rows of bfloat16: squares of float32 sums.
        tolerance: dtype === "float32" || M <= 48 ? DOUBLE : DOT,
      },
    ];
  }),
);

/** Gram matrices of many tiles, in chunks of columns. */
const norms = (
  [
    [65, 40, 520],
    [8, 300, 260],
  ] as const
).map(
  ([M, O, I]): OpCase => ({
    op: "sumSquaresFromFactors",
    title: `dy${dims(M, O)} x${dims(M, I)} in chunks`,
    inputs: [t(M, O), t(M, I)],
    outputs: [doubles()],
    tolerance: DOUBLE,
  }),
);

/** Few rows; then several tiles, the last ones cut short; and weights so small that their gradient is formed whole. */
const FACTORS: readonly (readonly [M: number, O: number, I: number, tileRows: number])[] = [
  [0, 5, 8, 0],
  [1, 37, 132, 0],
  [8, 70, 264, 0],
  [8, 35, 130, 0],
  [33, 9, 136, 8],
  [48, 40, 24, 0],
  [49, 136, 136, 16],
  [49, 20, 45, 4],
  [70, 40, 136, 40],
  [130, 24, 40, 8],
];

const updates = FACTORS.flatMap(([M, O, I, tileRows]) =>
  (["float32", "bfloat16"] as const).flatMap((dtype): OpCase[] => {
    const [dy, x, w, m, v] = [of(dtype, M, O), of(dtype, M, I), t(O, I), t(O, I), positive(O, I)];
    const last = [positive(), ...(tileRows > 0 ? [t(tileRows, I)] : [])];
    const size = `${named(dtype)}dy${dims(M, O)} x${dims(M, I)}`;
    const title = `${size}${tileRows ? ` in tiles of ${tileRows}` : ""} times a factor aligned`;
    const common = { title, alignment: 256, tolerance: DOT };
    return [
      {
        ...common,
        op: "adamwFromFactors",
        inputs: [dy, x, w, m, v, ...last],
        outputs: [2, 3, 4],
        attrs: { hasFactor: 1, tileRows },
      },
      {
        ...common,
        op: "sgdFromFactors",
        inputs: [dy, x, w, ...last],
        outputs: [2],
        attrs: { hasFactor: 1, hasMomentum: 0, tileRows },
        sgd: true,
      },
      {
        ...common,
        op: "sgdFromFactors",
        title: `${title} with momentum`,
        inputs: [dy, x, w, m, ...last],
        outputs: [2, 3],
        attrs: { hasFactor: 1, hasMomentum: 1, tileRows },
        sgd: true,
      },
    ];
  }),
);

export const LINEAR_CASES: readonly OpCase[] = [...products, ...norms, ...updates];
