import {
  AttentionShape,
  headPositions,
  type LocalHeads,
  localHeads,
  unitOf,
} from "./attention-heads.ts";
import type { OpDefinition, ReferenceCall, ReferenceTensor, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import { at, elements, inputOf, operand, outputOf, row } from "./shapes.ts";

/** Floating-point operations of one product of all queries with all keys, or of their weights with all values. */
export function productFlops(q: ValueType | undefined): number {
  return 2 * elements(q?.shape ?? []) * (q?.shape[1] ?? 0);
}

/**
 * o [B, T, H * hd] = softmax(q k^T / sqrt(hd)) v for q [B, T, H * hd] and k, v [B, T, KV * hd].
 * attrs: heads and kvHeads (of all ranks), headDim, causal (1: a token sees itself and those before it).
 */
const attention: OpDefinition = {
  name: "attention",
  numInputs: 3,
  halfInputs: [0, 1, 2],
  modelAttrs: ["heads", "kvHeads", "headDim", "causal"],
  infer([q, k, v], attrs) {
    const shape = new AttentionShape("attention", attrs, q);
    shape.keyed("k", k);
    shape.keyed("v", v);
    return operand([q], 0) as ValueType;
  },
  gradient(g) {
    const [q, k, v] = [operand(g.inputs, 0), operand(g.inputs, 1), operand(g.inputs, 2)];
    const lse = g.emit("attentionStats", [q, k], g.attrs);
    const operands = [g.outputGradient, q, k, v, g.output, lse];
    return ["attentionDq", "attentionDk", "attentionDv"].map((op, input) =>
      g.needs(input) ? g.emit(op, operands, g.attrs) : undefined,
    );
  },
  strategies: () => [
    row(["R", "R", "R"], "R"),
    row(["S0", "S0", "S0"], "S0"),
    row(["S2", "S2", "S2"], "S2"),
    row(["S2", "R", "R"], "S2"),
  ],
  flops: ([q]) => 2 * productFlops(q),
  positions: headPositions(0, 1),
  unit: unitOf([1, 2]),
  fusesWith: { partners: ["attentionStats"], into: "attentionWithStats" },
  reference(call) {
    writeOutput(call, outputOf(call));
  },
};

/** lse [B, T, H]: the logarithm of each query's sum of exp(score) over its keys. attrs: as attention. */
const attentionStats: OpDefinition = {
  name: "attentionStats",
  infer([q, k], attrs) {
    const shape = new AttentionShape("attentionStats", attrs, q);
    shape.keyed("k", k);
    return shape.statisticsType();
  },
  strategies: () => [
    row(["R", "R"], "R"),
    row(["S0", "S0"], "S0"),
    row(["S2", "S2"], "S2"),
    row(["S2", "R"], "S2"),
  ],
  flops: ([q]) => productFlops(q),
  positions: headPositions(0, 1),
  unit: unitOf([1], -1),
  reference(call) {
    writeStatistics(call, outputOf(call));
  },
};

/** [q, k, v] -> [o, lse]: both in one pass over the keys. */
const attentionWithStats: OpDefinition = {
  name: "attentionWithStats",
  infer: attention.infer,
  strategies: () => [],
  flops: attention.flops,
  positions: headPositions(0, 1),
  reference(call) {
    writeOutput(call, outputOf(call, 0));
    writeStatistics(call, outputOf(call, 1));
  },
};

function writeOutput(call: ReferenceCall, o: ReferenceTensor): void {
  const v = inputOf(call, 2);
  forEachQuery(call, localHeads(call, 0, 1), ({ q, kv, scores, lse, headDim, stride }) => {
    for (let d = 0; d < headDim; d++) {
      let sum = 0;
      for (let s = 0; s < scores.length; s++)
        sum += Math.exp(at(scores, s) - lse) * at(v.data, kv + s * stride + d);
      o.data[q + d] = sum;
    }
  });
}

function writeStatistics(call: ReferenceCall, target: ReferenceTensor): void {
  forEachQuery(call, localHeads(call, 0, 1), ({ statistic, lse }) => {
    target.data[statistic] = lse;
  });
}

interface QueryVisit {
  /** Index of the query's first feature, of its head's first key's, and of its statistic. */
  readonly q: number;
  readonly kv: number;
  readonly statistic: number;
  /** Features between one key and the next. */
  readonly stride: number;
  readonly headDim: number;
  /** Scaled scores with the keys that the query sees, and the logarithm of the sum of their exponentials. */
  readonly scores: Float64Array;
  readonly lse: number;
}

function forEachQuery(
  call: ReferenceCall,
  heads: LocalHeads,
  visit: (query: QueryVisit) => void,
): void {
  const [q, k] = [inputOf(call, 0).data, inputOf(call, 1).data];
  const { B, T, H, KV, headDim, scale, causal, kvHead } = heads;
  const stride = KV * headDim;
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const kv = b * T * stride + kvHead(h) * headDim;
      for (let t = 0; t < T; t++) {
        const own = ((b * T + t) * H + h) * headDim;
        const scores = new Float64Array(causal ? t + 1 : T).map((_, s) => {
          let sum = 0;
          for (let d = 0; d < headDim; d++) sum += at(q, own + d) * at(k, kv + s * stride + d);
          return sum * scale;
        });
        const max = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
        const sum = scores.reduce((total, score) => total + Math.exp(score - max), 0);
        const lse = max + Math.log(sum);
        visit({ q: own, kv, statistic: (b * T + t) * H + h, stride, headDim, scores, lse });
      }
    }
  }
}

registerOps(attention, attentionStats, attentionWithStats);
