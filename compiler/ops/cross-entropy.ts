import { InvalidArgumentError } from "../../shared/errors.ts";
import { shard } from "../../shared/mesh/placement.ts";
import type { OpDefinition, PositionAttr, ReferenceCall, StrategyRow, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  at,
  attr,
  elements,
  inputOf,
  isFloat,
  lastDim,
  leadDims,
  operand,
  outputOf,
  placeOf,
  row,
  rowCount,
  sameShape,
  scalar,
  show,
} from "./shapes.ts";

// Legend: z logits [..., V], t targets [...], s statistics [..., 3] of each token: the largest logit, the sum of
// exp(z - largest), and the target's logit. Where ranks hold a part of the classes each, their statistics are merged
// (placement L), which costs three numbers a token instead of three dependent reductions.

const STATISTICS = 3;
/** Where a maximum starts: finite, so that a difference of two is a number. */
const LOWEST = -3.4028234663852886e38;
const FLOPS_PER_LOGIT = 10;

const classAxes = (operandIndex: number, z: ValueType | undefined): PositionAttr => ({
  attr: "classAxes",
  operand: operandIndex,
  dim: (z?.shape.length ?? 1) - 1,
});

const lead = (type: ValueType | undefined): number[] => leadDims(operand([type], 0) as ValueType);
const lastShard = (type: ValueType | undefined) => shard((type?.shape.length ?? 1) - 1);

/** First class that this rank holds. */
const firstClass = (call: ReferenceCall, V: number): number => V * placeOf(call, "classAxes").index;

/** @throws InvalidArgumentError unless z holds logits of t's tokens */
function checkLogits(op: string, z: ValueType | undefined, t: ValueType | undefined): void {
  const [logits, targets] = [operand([z], 0) as ValueType, operand([t], 0) as ValueType];
  if (!isFloat(logits.dtype) || targets.dtype !== "int32") {
    throw new InvalidArgumentError(
      `${op}: needs float32 logits and int32 targets, got ${logits.dtype} and ${targets.dtype}`,
    );
  }
  if (
    logits.shape.length < 1 ||
    lastDim(logits.shape) < 1 ||
    !sameShape(logits.shape.slice(0, -1), targets.shape)
  ) {
    throw new InvalidArgumentError(
      `${op}: logits ${show(logits.shape)} must be those of targets ${show(targets.shape)}, with one more dim for the classes`,
    );
  }
}

/** [z, t] -> s of the classes held here; a target among other ranks' classes has logit 0. attrs: classes (of all). */
const ceStats: OpDefinition = {
  name: "ceStats",
  halfInputs: [0],
  infer([z, t]) {
    checkLogits("ceStats", z, t);
    return { shape: [...(t?.shape ?? []), STATISTICS], dtype: "float32" };
  },
  strategies: ([z]) => [
    row(["R", "R"], "R"),
    ...lead(z).map((d) => row([shard(d), shard(d)], shard(d))),
    row([lastShard(z), "R"], "L"),
  ],
  flops: ([z]) => FLOPS_PER_LOGIT * elements(z?.shape ?? []),
  positions: ([z]) => [classAxes(0, z)],
  reference(call) {
    const [z, t, s] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
    const [M, V] = [rowCount(z.shape), lastDim(z.shape)];
    const first = firstClass(call, V);
    for (let m = 0; m < M; m++) {
      let max = LOWEST;
      for (let j = 0; j < V; j++) max = Math.max(max, at(z.data, m * V + j));
      let sum = 0;
      for (let j = 0; j < V; j++) sum += Math.exp(at(z.data, m * V + j) - max);
      const target = at(t.data, m) - first;
      s.data[m * STATISTICS] = max;
      s.data[m * STATISTICS + 1] = sum;
      s.data[m * STATISTICS + 2] = target >= 0 && target < V ? at(z.data, m * V + target) : 0;
    }
  },
};

/** Statistics of the ranks' classes [parts, ..., 3] -> those of all, merged in block order. Made by redistribution. */
const ceMerge: OpDefinition = {
  name: "ceMerge",
  infer: ([blocks]) => ({ shape: (blocks?.shape ?? []).slice(1), dtype: "float32" }),
  strategies: () => [],
  flops: ([blocks]) => elements(blocks?.shape ?? []),
  reference(call) {
    const [blocks, s] = [inputOf(call, 0), outputOf(call)];
    const [parts, M] = [blocks.shape[0] ?? 0, rowCount(s.shape)];
    for (let m = 0; m < M; m++) {
      const field = (part: number, i: number): number =>
        at(blocks.data, (part * M + m) * STATISTICS + i);
      let max = LOWEST;
      for (let p = 0; p < parts; p++) max = Math.max(max, field(p, 0));
      let [sum, target] = [0, 0];
      for (let p = 0; p < parts; p++) {
        sum += field(p, 1) * Math.exp(field(p, 0) - max);
        target += field(p, 2);
      }
      s.data[m * STATISTICS] = max;
      s.data[m * STATISTICS + 1] = sum;
      s.data[m * STATISTICS + 2] = target;
    }
  },
};

/** s -> mean over attrs.count tokens (of all ranks) of log(sum of exp(z)) - z[target], added in token order. */
const ceLoss: OpDefinition = {
  name: "ceLoss",
  infer: () => scalar(),
  // Not through the statistics: their merge has no gradient of its own, and the logits' is known in one step.
  gradient(g) {
    const s = operand(g.inputs, 0);
    const [z, t] = g.operandsOf(s);
    const logits = operand([z], 0) as number;
    g.contribute(logits, g.emit("ceGrad", [g.outputGradient, logits, t as number, s], g.attrs));
    return [undefined];
  },
  strategies: ([s]) => [row(["R"], "R"), ...lead(s).map((d) => row([shard(d)], "P"))],
  flops: ([s]) => elements(s?.shape ?? []),
  reference(call) {
    const s = inputOf(call, 0);
    let total = 0;
    for (let m = 0; m < rowCount(s.shape); m++) {
      const [max, sum, target] = [0, 1, 2].map((i) => at(s.data, m * STATISTICS + i));
      total += (max as number) + Math.log(sum as number) - (target as number);
    }
    outputOf(call).data[0] = total / attr(call.attrs, "count");
  },
};

/** [ds(), z, t, s] -> dz = ds / count * (exp(z - max) / sum - [class is the target]). attrs: count, classes. */
const ceGrad: OpDefinition = {
  name: "ceGrad",
  infer([, z, t]) {
    checkLogits("ceGrad", z, t);
    return z as ValueType;
  },
  strategies: ([, z]): StrategyRow[] => [
    row(["R", "R", "R", "R"], "R"),
    ...lead(z).map((d) => row(["R", shard(d), shard(d), shard(d)], shard(d))),
    row(["R", lastShard(z), "R", "R"], lastShard(z)),
    row(["P", "R", "R", "R"], "P"),
  ],
  flops: ([, z]) => FLOPS_PER_LOGIT * elements(z?.shape ?? []),
  positions: ([, z]) => [classAxes(1, z)],
  mayOverwrite: 1,
  reference(call) {
    const [z, t, s, dz] = [inputOf(call, 1), inputOf(call, 2), inputOf(call, 3), outputOf(call)];
    const factor = at(inputOf(call, 0).data, 0) / attr(call.attrs, "count");
    const [M, V] = [rowCount(z.shape), lastDim(z.shape)];
    const first = firstClass(call, V);
    for (let m = 0; m < M; m++) {
      const [max, sum] = [at(s.data, m * STATISTICS), at(s.data, m * STATISTICS + 1)];
      const target = at(t.data, m) - first;
      for (let j = 0; j < V; j++) {
        const p = Math.exp(at(z.data, m * V + j) - max) / sum;
        dz.data[m * V + j] = factor * (p - (j === target ? 1 : 0));
      }
    }
  },
};

registerOps(ceStats, ceMerge, ceLoss, ceGrad);
