import { InternalError, InvalidArgumentError } from "../../shared/errors.ts";
import { checkContext, firstPosition } from "./first-position.ts";
import type { OpDefinition } from "./op.ts";
import { registerOps } from "./registry.ts";
import { at, elements, inputOf, isFloat, operand, outputOf, placeOf, row, show } from "./shapes.ts";

// Legend: B batch, T positions of a sequence, L rows of the table (the longest sequence), D features.

/** y = x [B, T, D] + p [L, D] by position: row t of the sequence gets row t of p. attrs: context in a decoder. */
const addPosition: OpDefinition = {
  name: "addPosition",
  numInputs: 2,
  halfInputs: [0],
  layer: {
    kind: "position",
    styles: {
      sequence: { weight: "R", bias: "R", product: "output", output: "S1" },
      replicate: { weight: "R", bias: "R", product: "output", output: "R" },
    },
  },
  infer(inputs, attrs) {
    const [x, p] = [operand(inputs, 0), operand(inputs, 1)];
    const [, T = 0, D = 0] = x.shape;
    const fits = x.shape.length === 3 && p.shape.length === 2 && p.shape[1] === D;
    if (!fits || !isFloat(x.dtype) || p.dtype !== "float32") {
      throw new InvalidArgumentError(
        `addPosition: needs float32 x [batch, positions, features] and a float32 table [positions, features], got ${x.dtype}${show(x.shape)} and ${p.dtype}${show(p.shape)}`,
      );
    }
    if (T > (p.shape[0] ?? 0)) {
      throw new InvalidArgumentError(
        `addPosition: a sequence of ${T} positions, and a table of ${p.shape[0]}; shorten the sequence or make the table longer`,
      );
    }
    checkContext("addPosition", attrs, p.shape[0] ?? 0);
    return x;
  },
  gradient: (g) => [
    g.needs(0) ? g.outputGradient : undefined,
    g.needs(1)
      ? g.emit("addPositionDp", [g.outputGradient], {}, g.typeOf(operand(g.inputs, 1)))
      : undefined,
  ],
  strategies: () => [
    row(["R", "R"], "R"),
    row(["S0", "R"], "S0"),
    row(["S1", "R"], "S1"),
    row(["S2", "S1"], "S2"),
  ],
  positions: () => [{ attr: "sequenceAxes", operand: 0, dim: 1 }],
  flops: (_inputs, y) => elements(y.shape),
  mayOverwrite: 0,
  reference(call) {
    const [x, p, y] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
    const [B = 0, T = 0, D = 0] = x.shape;
    const start = D * firstPosition(call.attrs, call.scalars, placeOf(call, "sequenceAxes"), T);
    for (let b = 0; b < B; b++) {
      for (let i = 0; i < T * D; i++)
        y.data[b * T * D + i] = at(x.data, b * T * D + i) + at(p.data, start + i);
    }
  },
};

/** dp [L, D] = sum of dy [B, T, D] over the batch, in order; zeros at positions past the sequence. */
const addPositionDp: OpDefinition = {
  name: "addPositionDp",
  infer() {
    throw new InternalError("the shape of a position table's gradient comes with the node");
  },
  strategies: () => [
    row(["R"], "R"),
    row(["S0"], "P"),
    row(["S1"], "P"),
    row(["S2"], "S1"),
    row(["P"], "P"),
  ],
  positions: () => [{ attr: "sequenceAxes", operand: 0, dim: 1 }],
  flops: ([dy]) => elements(dy?.shape ?? []),
  reference(call) {
    const [dy, dp] = [inputOf(call, 0), outputOf(call)];
    const [B = 0, T = 0, D = 0] = dy.shape;
    const start = placeOf(call, "sequenceAxes").index * T * D;
    dp.data.fill(0, 0, elements(dp.shape));
    for (let i = 0; i < T * D; i++) {
      let sum = 0;
      for (let b = 0; b < B; b++) sum += at(dy.data, b * T * D + i);
      dp.data[start + i] = sum;
    }
  },
};

registerOps(addPosition, addPositionDp);
