import { InvalidArgumentError } from "../../shared/errors.ts";
import { shard } from "../../shared/mesh/placement.ts";
import { flag } from "./attributes.ts";
import { checkContext, firstPosition } from "./first-position.ts";
import type { OpDefinition, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import { ropeFrequencies, SCALING } from "./rope-frequencies.ts";
import {
  at,
  attr,
  elements,
  inputOf,
  isFloat,
  operand,
  outputOf,
  placeOf,
  row,
  show,
} from "./shapes.ts";

// Legend: B batch, T tokens, F features: heads of headDim each.

/**
 * Rotary position embedding of x [B, T, F]: every adjacent pair (2i, 2i + 1) of a head turns by position * frequency i.
 * attrs: headDim, theta, inverse (1 turns back), and optionally the four of Llama 3.1's scaling; context in a decoder.
 */
const rope: OpDefinition = {
  name: "rope",
  numInputs: 1,
  halfInputs: [0],
  modelAttrs: ["headDim", "theta", "inverse", ...SCALING],
  infer([x], attrs) {
    const type = operand([x], 0) as ValueType;
    const headDim = 2 * ropeFrequencies(attrs).length;
    flag("rope", attrs, "inverse");
    checkContext("rope", attrs);
    if (type.shape.length !== 3 || !isFloat(type.dtype)) {
      throw new InvalidArgumentError(
        `rope: needs float32 [batch, tokens, features], got ${type.dtype} ${show(type.shape)}`,
      );
    }
    if ((type.shape[2] ?? 0) % headDim !== 0) {
      throw new InvalidArgumentError(
        `rope: ${type.shape[2]} features of ${show(type.shape)} are no whole heads of ${headDim}`,
      );
    }
    return type;
  },
  gradient: (g) => [
    g.needs(0)
      ? g.emit("rope", [g.outputGradient], { ...g.attrs, inverse: 1 - attr(g.attrs, "inverse") })
      : undefined,
  ],
  strategies: () => [
    row(["R"], "R"),
    ...[0, 1, 2].map((dim) => row([shard(dim)], shard(dim))),
    row(["P"], "P"),
  ],
  flops: (_inputs, y) => 3 * elements(y.shape),
  positions: () => [{ attr: "sequenceAxes", operand: 0, dim: 1 }],
  unit: (_operand, dim, attrs) =>
    dim === 2 ? { size: attr(attrs, "headDim"), name: "heads" } : undefined,
  mayOverwrite: 0,
  reference(call) {
    const [x, y] = [inputOf(call, 0), outputOf(call)];
    const [B = 0, T = 0, F = 0] = x.shape;
    const frequencies = ropeFrequencies(call.attrs);
    const pairs = frequencies.length;
    const part = placeOf(call, "sequenceAxes");
    const first = firstPosition(call.attrs, call.scalars, part, T);
    const direction = attr(call.attrs, "inverse") === 1 ? -1 : 1;
    for (let t = 0; t < T; t++) {
      for (let p = 0; p < F / 2; p++) {
        const angle = Math.fround((first + t) * at(frequencies, p % pairs));
        const cos = Math.fround(Math.cos(angle));
        const sin = direction * Math.fround(Math.sin(angle));
        for (let b = 0; b < B; b++) {
          const i = (b * T + t) * F + 2 * p;
          const [even, odd] = [at(x.data, i), at(x.data, i + 1)];
          y.data[i] = even * cos - odd * sin;
          y.data[i + 1] = even * sin + odd * cos;
        }
      }
    }
  },
};

registerOps(rope);
