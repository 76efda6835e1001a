import { InternalError } from "../../shared/errors.ts";
import type { Placement } from "../../shared/mesh/placement.ts";
import { shard } from "../../shared/mesh/placement.ts";
import type { OpDefinition, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  allDims,
  at,
  attr,
  elements,
  inferSame,
  inputOf,
  operand,
  outputOf,
  row,
  scalar,
  splitTogether,
} from "./shapes.ts";

const partialOverAnyDim = (count: number, type: ValueType | undefined) =>
  allDims(operand([type], 0) as ValueType).map((d) =>
    row(new Array<Placement>(count).fill(shard(d)), "P"),
  );

/** Scalar sum of all elements. */
const sum: OpDefinition = {
  name: "sum",
  infer: () => scalar(),
  gradient: (g) => [
    g.needs(0)
      ? g.emit("broadcast", [g.outputGradient], { factor: 1 }, g.typeOf(operand(g.inputs, 0)))
      : undefined,
  ],
  strategies: ([x]) => [row(["R"], "R"), ...partialOverAnyDim(1, x), row(["P"], "P")],
  flops: ([x]) => elements(x?.shape ?? []),
  reference(call) {
    const x = inputOf(call, 0);
    let total = 0;
    for (let i = 0; i < elements(x.shape); i++) total += at(x.data, i);
    outputOf(call).data[0] = total;
  },
};

/** Sum over the global element count, so that shards' means add up to the mean. attrs: count. */
const mean: OpDefinition = {
  name: "mean",
  infer: () => scalar(),
  gradient: (g) => [
    g.needs(0)
      ? g.emit(
          "broadcast",
          [g.outputGradient],
          { factor: 1 / attr(g.attrs, "count") },
          g.typeOf(operand(g.inputs, 0)),
        )
      : undefined,
  ],
  strategies: ([x]) => [row(["R"], "R"), ...partialOverAnyDim(1, x), row(["P"], "P")],
  flops: ([x]) => elements(x?.shape ?? []),
  reference(call) {
    const x = inputOf(call, 0);
    let total = 0;
    for (let i = 0; i < elements(x.shape); i++) total += at(x.data, i);
    outputOf(call).data[0] = total / attr(call.attrs, "count");
  },
};

/** Mean squared error over the global element count, as PyTorch's mse_loss. attrs: count. */
const mseLoss: OpDefinition = {
  name: "mseLoss",
  infer(inputs) {
    inferSame("mseLoss", inputs);
    return scalar();
  },
  gradient: (g) => [
    g.needs(0) ? g.emit("mseLossGrad", [g.outputGradient, ...g.inputs], g.attrs) : undefined,
    g.needs(1)
      ? g.emit(
          "mseLossGrad",
          [g.outputGradient, operand(g.inputs, 1), operand(g.inputs, 0)],
          g.attrs,
        )
      : undefined,
  ],
  strategies: ([x]) => [row(["R", "R"], "R"), ...partialOverAnyDim(2, x)],
  flops: ([x]) => 3 * elements(x?.shape ?? []),
  reference(call) {
    const [x, y] = [inputOf(call, 0), inputOf(call, 1)];
    let total = 0;
    for (let i = 0; i < elements(x.shape); i++) total += (at(x.data, i) - at(y.data, i)) ** 2;
    outputOf(call).data[0] = total / attr(call.attrs, "count");
  },
};

/** dx = ds * 2 (x - y) / count. */
const mseLossGrad: OpDefinition = {
  name: "mseLossGrad",
  infer: ([, x]) => operand([x], 0) as ValueType,
  strategies: (_inputs, dx) => [
    row(["R", "R", "R"], "R"),
    ...allDims(dx).map((d) => row(["R", shard(d), shard(d)], shard(d))),
    row(["P", "R", "R"], "P"),
  ],
  flops: (_inputs, dx) => 3 * elements(dx.shape),
  mayOverwrite: 1,
  reference(call) {
    const [x, y, dx] = [inputOf(call, 1), inputOf(call, 2), outputOf(call)];
    const factor = (2 * at(inputOf(call, 0).data, 0)) / attr(call.attrs, "count");
    for (let i = 0; i < elements(x.shape); i++)
      dx.data[i] = factor * (at(x.data, i) - at(y.data, i));
  },
};

/** Every element is s * factor. The output's shape is its emitter's choice. */
const broadcast: OpDefinition = {
  name: "broadcast",
  infer() {
    throw new InternalError("a broadcast's shape comes with the node");
  },
  strategies: (_inputs, y) => [
    row(["R"], "R"),
    ...allDims(y).map((d) => row(["R"], shard(d))),
    row(["P"], "P"),
  ],
  flops: (_inputs, y) => elements(y.shape),
  reference(call) {
    const value = at(inputOf(call, 0).data, 0) * attr(call.attrs, "factor");
    outputOf(call).data.fill(value, 0, elements(outputOf(call).shape));
  },
};

/** Every element is attrs.value. */
const fill: OpDefinition = {
  name: "fill",
  infer() {
    throw new InternalError("a fill's shape comes with the node");
  },
  strategies: (_inputs, y) => [row([], "R"), ...splitTogether(0, allDims(y))],
  flops: () => 0,
  reference(call) {
    const y = outputOf(call);
    y.data.fill(attr(call.attrs, "value"), 0, elements(y.shape));
  },
};

registerOps(sum, mean, mseLoss, mseLossGrad, broadcast, fill);
