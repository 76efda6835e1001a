import type { Placement } from "../../shared/mesh/placement.ts";
import { productFlops } from "./attention.ts";
import { AttentionShape, headPositions, localHeads, unitOf } from "./attention-heads.ts";
import type { Attrs, OpDefinition, ReferenceCall, ReferenceTensor, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import { at, inputOf, operand, outputOf, row } from "./shapes.ts";

// All ops here take [do, q, k, v, o, lse], o and lse being the forward pass's results, and form the weights
// p = exp(score - lse) anew. With D = sum of do * o over a head's features and ds = p * (do v^T - D):
//   dq = scale ds k,  dk = scale ds^T q,  dv = p^T do.

const all = (placement: Placement): Placement[] => new Array<Placement>(6).fill(placement);
/** Queries split in heads, keys and values whole: a key's gradient is then a sum over the ranks' heads. */
const SPLIT_QUERIES: readonly Placement[] = ["S2", "S2", "R", "R", "S2", "S2"];
/** Everything is linear in do. */
const linear = row(["P", "R", "R", "R", "R", "R"], "P");

function check(op: string, inputs: readonly ValueType[], attrs: Attrs): void {
  const [dOut, q, k, v, o, lse] = inputs;
  const shape = new AttentionShape(op, attrs, q);
  shape.likeQuery("do", dOut);
  shape.keyed("k", k);
  shape.keyed("v", v);
  shape.likeQuery("o", o);
  shape.statistics(lse);
}

/** dq, of q's shape. */
const attentionDq: OpDefinition = {
  name: "attentionDq",
  infer(inputs, attrs) {
    check("attentionDq", inputs, attrs);
    return operand(inputs, 1);
  },
  strategies: () => [
    row(all("R"), "R"),
    row(all("S0"), "S0"),
    row(all("S2"), "S2"),
    row(SPLIT_QUERIES, "S2"),
    linear,
  ],
  flops: ([, q]) => 3 * productFlops(q),
  positions: headPositions(1, 2),
  unit: unitOf([2, 3], 5),
  fusesWith: { partners: ["attentionDk", "attentionDv"], into: "attentionGrad" },
  reference: (call) => addGradients(call, { dq: outputOf(call) }),
};

/** The gradient of the keys or the values, of their shape. */
function keyedGradient(name: string, output: "dk" | "dv", products: number): OpDefinition {
  return {
    name,
    infer(inputs, attrs) {
      check(name, inputs, attrs);
      return operand(inputs, 2);
    },
    strategies: () => [
      row(all("R"), "R"),
      row(all("S0"), "S0"),
      row(all("S2"), "S2"),
      row(SPLIT_QUERIES, "P"),
      linear,
    ],
    flops: ([, q]) => products * productFlops(q),
    positions: headPositions(1, 2),
    unit: unitOf([2, 3, -1], 5),
    reference: (call) => addGradients(call, { [output]: outputOf(call) }),
  };
}

/** [do, q, k, v, o, lse] -> [dq, dk, dv] in one pass. */
const attentionGrad: OpDefinition = {
  name: "attentionGrad",
  infer: attentionDq.infer,
  strategies: () => [],
  flops: ([, q]) => 5 * productFlops(q),
  positions: headPositions(1, 2),
  reference: (call) =>
    addGradients(call, { dq: outputOf(call, 0), dk: outputOf(call, 1), dv: outputOf(call, 2) }),
};

interface Gradients {
  readonly dq?: ReferenceTensor;
  readonly dk?: ReferenceTensor;
  readonly dv?: ReferenceTensor;
}

/** Adds up the gradients wanted, in zeroed outputs. */
function addGradients(call: ReferenceCall, { dq, dk, dv }: Gradients): void {
  const [dOut, q, k, v, o, lse] = [0, 1, 2, 3, 4, 5].map((i) => inputOf(call, i).data) as [
    Data,
    Data,
    Data,
    Data,
    Data,
    Data,
  ];
  const { B, T, H, KV, headDim, scale, causal, kvHead } = localHeads(call, 1, 2);
  // Sums in float64, whatever the outputs hold.
  const sums = [dq, dk, dv].map((target) => new Float64Array(target?.data.length ?? 0));
  const [sumQ, sumK, sumV] = sums as [Float64Array, Float64Array, Float64Array];
  const add = (sum: Float64Array, i: number, x: number): void => {
    if (sum.length > 0) sum[i] = at(sum, i) + x;
  };
  const dot = (a: Data, i: number, b: Data, j: number): number => {
    let sum = 0;
    for (let d = 0; d < headDim; d++) sum += at(a, i + d) * at(b, j + d);
    return sum;
  };
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let t = 0; t < T; t++) {
        const query = ((b * T + t) * H + h) * headDim;
        const shift = dot(dOut, query, o, query);
        const logSum = at(lse, (b * T + t) * H + h);
        for (let s = 0; s < (causal ? t + 1 : T); s++) {
          const key = ((b * T + s) * KV + kvHead(h)) * headDim;
          const p = Math.exp(scale * dot(q, query, k, key) - logSum);
          const ds = scale * p * (dot(dOut, query, v, key) - shift);
          for (let d = 0; d < headDim; d++) {
            add(sumQ, query + d, ds * at(k, key + d));
            add(sumK, key + d, ds * at(q, query + d));
            add(sumV, key + d, p * at(dOut, query + d));
          }
        }
      }
    }
  }
  [dq, dk, dv].forEach((target, i) => {
    target?.data.set(sums[i] ?? []);
  });
}

type Data = ReferenceTensor["data"];

registerOps(
  attentionDq,
  keyedGradient("attentionDk", "dk", 3),
  keyedGradient("attentionDv", "dv", 2),
  attentionGrad,
);
