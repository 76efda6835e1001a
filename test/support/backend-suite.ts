// The suite that every backend passes.
import { expect } from "chai";
import type { Layout } from "../../shared/mesh/placement.ts";
import { shardIntervals } from "../../shared/mesh/placement.ts";
import type { StoredTensor } from "../../shared/program/program.ts";
import { fillUniformSlice } from "../../shared/random/uniform.ts";
import type { Backend } from "../../worker/backend/backend.ts";
import {
  expectedOf,
  type OpCase,
  precisionOf,
  programOf,
  pseudoRandom,
  runOp,
  type Tensor,
  worstError,
} from "./conformance.ts";
import { OP_CASES } from "./op-cases.ts";

/** Largest relative difference of a fused update from the two ops it fuses: float32 roundings in another order. */
const FUSED_TOL = 1e-6;

interface SliceCase {
  readonly globalShape: readonly number[];
  readonly layout: Layout;
  readonly sizes: readonly number[];
  readonly rank: number;
}

const SLICES: readonly SliceCase[] = [
  { globalShape: [], layout: ["R"], sizes: [1], rank: 0 },
  { globalShape: [7], layout: ["R"], sizes: [2], rank: 1 },
  { globalShape: [300], layout: ["S0"], sizes: [3], rank: 2 },
  { globalShape: [6, 77], layout: ["S0"], sizes: [2], rank: 1 },
  { globalShape: [77, 6], layout: ["S1"], sizes: [2], rank: 1 },
  { globalShape: [50, 333], layout: ["S1"], sizes: [3], rank: 1 },
  { globalShape: [5, 6, 7], layout: ["S1"], sizes: [3], rank: 2 },
  { globalShape: [4, 6, 10], layout: ["S2", "S0"], sizes: [2, 2], rank: 3 },
  { globalShape: [8, 9], layout: ["S0", "S0"], sizes: [2, 2], rank: 2 },
  { globalShape: [2, 3, 2, 3, 2, 3, 2, 4], layout: ["S7", "S4"], sizes: [2, 2], rank: 1 },
  { globalShape: [0, 4], layout: ["R"], sizes: [1], rank: 0 },
];

/** Fails with the worst element when `got` is further from `want` than the case allows. */
export function expectClose(
  op: OpCase,
  got: readonly ArrayLike<number>[],
  want: readonly number[][],
): void {
  want.forEach((values, i) => {
    const { error, at } = worstError(got[i] ?? [], values);
    const message = `output ${i} at ${at}: got ${got[i]?.[at]}, want ${values[at]}; relative error`;
    expect(error, message).to.be.at.most(op.tolerance);
  });
}

/**
 * The conformance suite: every op that the backend's precisions hold, initial values, and the fused update, against the
 * reference in float64.
 *
 * @param make is called while tests are collected
 * @param select leaves cases out
 */
export function describeBackend(
  title: string,
  make: () => Backend,
  select: (cases: readonly OpCase[]) => readonly OpCase[] = (cases) => cases,
): void {
  describe(`backend ${title}`, () => {
    const backend = make();
    after(() => backend.close());
    const cases = select(OP_CASES.filter((c) => backend.precisions.includes(precisionOf(c))));
    for (const op of new Set(cases.map((c) => c.op))) {
      describe(op, () => {
        for (const c of cases.filter((candidate) => candidate.op === op)) {
          it(`is right for ${c.title}`, () => expectClose(c, runOp(backend, c), expectedOf(c)));
        }
      });
    }

    describe("initial values", () => {
      for (const c of SLICES) {
        it(`are those of the whole tensor for ${sliceTitle(c)}`, () => {
          const { got, want, constant } = initialize(backend, c);
          expect([...got]).to.deep.equal([...want]);
          expect([...constant].every((x) => x === 0.25)).to.equal(true);
        });
      }
    });

    it("updates from factors as linearDw and adamw do in two steps", () => {
      const [M, O, I] = [8, 30, 50];
      const [dy, x]: Tensor[] = [{ shape: [M, O] }, { shape: [M, I] }];
      const state = [11, 12, 13].map(
        (salt): Tensor => ({ shape: [O, I], values: (i) => Math.abs(pseudoRandom(i, salt)) }),
      );
      const [w, m, v] = state as [Tensor, Tensor, Tensor];
      const base = { title: "", tolerance: FUSED_TOL };
      const factors = [dy, x] as Tensor[];
      const [dw] = runOp(backend, { ...base, op: "linearDw", inputs: factors, outputs: [w] });
      const g: Tensor = { shape: [O, I], values: (i) => dw?.[i] ?? Number.NaN };
      const attrs = { hasFactor: 0, tileRows: 0 };
      const two: OpCase = { ...base, op: "adamw", inputs: [w, g, m, v], outputs: [0, 2, 3], attrs };
      const one: OpCase = {
        ...base,
        op: "adamwFromFactors",
        inputs: [...factors, w, m, v],
        outputs: [2, 3, 4],
        attrs,
      };
      expectClose(
        one,
        runOp(backend, one),
        runOp(backend, two).map((values) => [...values]),
      );
    });
  });
}

function sliceTitle({ globalShape, layout, sizes, rank }: SliceCase): string {
  return `[${globalShape.join(", ")}] as ${layout.join(" ")} on a mesh of ${sizes.join(" x ")} at rank ${rank}`;
}

/** A slice as the backend makes it, as JavaScript makes it, and filled with a constant. */
function initialize(
  backend: Backend,
  { globalShape, layout, sizes, rank }: SliceCase,
): { got: Float32Array; want: Float32Array; constant: Float32Array } {
  const mesh = { axes: sizes.map((size, axis) => ({ name: `axis${axis}`, size })) };
  const intervals = shardIntervals(globalShape, layout, mesh, rank);
  const shape = intervals.map(({ start, end }) => end - start);
  const op: OpCase = {
    op: "fill",
    title: "",
    inputs: [],
    outputs: [{ shape }],
    attrs: { value: 0 },
    mesh,
    rank,
    tolerance: 0,
  };
  const { program, instruction } = programOf(op);
  const slot = instruction.outputs[0] ?? -1;
  const name = "layers.0.w1.weight";
  const [seed, bound] = [2 ** 40 + 12345, 1 / Math.sqrt(300)];
  const uniform = { kind: "uniform", bound } as const;
  const tensor: StoredTensor = {
    name,
    role: "parameter",
    globalShape,
    layout,
    slot,
    init: uniform,
  };
  const length = shape.reduce((product, n) => product * n, 1);
  const [got, want, constant] = [
    new Float32Array(length),
    new Float32Array(length),
    new Float32Array(length),
  ];
  fillUniformSlice(want, { seed, name, bound, globalShape, intervals });
  const loaded = backend.load(program, rank);
  loaded.initialize(tensor, seed);
  loaded.read(slot, new Uint8Array(got.buffer));
  loaded.initialize({ ...tensor, init: { kind: "constant", value: 0.25 } }, seed);
  loaded.read(slot, new Uint8Array(constant.buffer));
  loaded.dispose();
  return { got, want, constant };
}
