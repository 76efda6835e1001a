import { InvalidArgumentError } from "../../shared/errors.ts";
import type { Attrs, OpDefinition } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  allDims,
  attr,
  elements,
  inputOf,
  operand,
  outputOf,
  row,
  splitTogether,
} from "./shapes.ts";

/** Attribute `to` of a cast. */
export const TO_FLOAT32 = 0;
export const TO_BFLOAT16 = 1;

const dtypeOf = (attrs: Attrs): "float32" | "bfloat16" =>
  attr(attrs, "to") === TO_BFLOAT16 ? "bfloat16" : "float32";

/** The same numbers in another precision: rounded to nearest even, or widened exactly. */
const cast: OpDefinition = {
  name: "cast",
  infer: (inputs, attrs) => {
    const { shape, dtype } = operand(inputs, 0);
    const wanted = dtypeOf(attrs);
    if (dtype === wanted || (dtype !== "float32" && dtype !== "bfloat16")) {
      throw new InvalidArgumentError(`cast of ${dtype} to ${wanted}`);
    }
    return { shape, dtype: wanted };
  },
  // A weight's gradient is formed in float32 whatever its factors are: then nothing is left to do.
  gradient: (g) => {
    if (!g.needs(0)) return [undefined];
    const given = g.typeOf(g.outputGradient).dtype;
    const wanted = g.typeOf(g.inputs[0] ?? -1).dtype;
    if (given === wanted) return [g.outputGradient];
    return [
      g.emit("cast", [g.outputGradient], { to: wanted === "bfloat16" ? TO_BFLOAT16 : TO_FLOAT32 }),
    ];
  },
  // Summands are widened one by one exactly; rounded one by one they would lose what their sum keeps.
  strategies: (_inputs, y, attrs) => [
    row(["R"], "R"),
    ...splitTogether(1, allDims(y)),
    ...(dtypeOf(attrs) === "float32" ? [row(["P"], "P")] : []),
  ],
  flops: (_inputs, y) => elements(y.shape),
  reference: (call) => {
    outputOf(call, 0).data.set(inputOf(call, 0).data);
  },
};

registerOps(cast);
