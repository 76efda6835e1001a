import { InternalError } from "../../shared/errors.ts";
import { axisSize } from "../../shared/mesh/mesh.ts";
import type { OpDefinition, ReferenceTensor, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import {
  allDims,
  at,
  attr,
  elements,
  inputOf,
  operand,
  outputOf,
  row,
  splitTogether,
} from "./shapes.ts";

// slice and mask are made by redistribution, so they have no strategies of their own.

/** This rank's part of dim attrs.dim, cut into as many equal parts as mesh axis attrs.axis has ranks. */
const slice: OpDefinition = {
  name: "slice",
  infer() {
    throw new InternalError("a slice's shape comes with the node");
  },
  strategies: () => [],
  flops: () => 0,
  reference(call) {
    const axis = attr(call.attrs, "axis");
    copyPart(
      inputOf(call, 0),
      outputOf(call),
      attr(call.attrs, "dim"),
      operand(call.coordinates, axis),
      axisSize(call.mesh, axis),
    );
  },
};

/** The value on the rank with coordinate 0 of attrs.axis, zeros elsewhere: a replicated value made partial. */
const mask: OpDefinition = {
  name: "mask",
  infer: ([x]) => operand([x], 0) as ValueType,
  strategies: () => [],
  flops: () => 0,
  reference(call) {
    const [x, y] = [inputOf(call, 0), outputOf(call)];
    const keep = operand(call.coordinates, attr(call.attrs, "axis")) === 0;
    for (let i = 0; i < elements(x.shape); i++) y.data[i] = keep ? at(x.data, i) : 0;
  },
};

/** Part number `microbatch` of attrs.parts equal parts of dim 0: the rows of one microbatch. */
const takeRows: OpDefinition = {
  name: "takeRows",
  infer([x], attrs) {
    const { shape, dtype } = operand([x], 0) as ValueType;
    return { shape: [(shape[0] ?? 0) / attr(attrs, "parts"), ...shape.slice(1)], dtype };
  },
  // Every rank takes part of its own rows: the union over ranks is the microbatch, whatever rows that are.
  strategies: (_inputs, y) => [row(["R"], "R"), ...splitTogether(1, allDims(y))],
  flops: () => 0,
  reference(call) {
    copyPart(
      inputOf(call, 0),
      outputOf(call),
      0,
      call.scalars.microbatch,
      attr(call.attrs, "parts"),
    );
  },
};

function copyPart(
  x: ReferenceTensor,
  y: ReferenceTensor,
  dim: number,
  part: number,
  parts: number,
): void {
  const outer = elements(x.shape.slice(0, dim));
  const length = elements(x.shape.slice(dim)) / parts;
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < length; i++)
      y.data[o * length + i] = at(x.data, (o * parts + part) * length + i);
  }
}

/** x cut along attrs.dim into attrs.parts blocks: [parts, ...], each dense. */
const splitBlocks: OpDefinition = {
  name: "splitBlocks",
  infer() {
    throw new InternalError("a block's shape comes with the node");
  },
  strategies: () => [],
  flops: () => 0,
  reference(call) {
    const [x, blocks] = [inputOf(call, 0), outputOf(call)];
    const parts = attr(call.attrs, "parts");
    const block = elements(blocks.shape.slice(1));
    for (let part = 0; part < parts; part++) {
      const target = {
        data: blocks.data.subarray(part * block, (part + 1) * block),
        shape: blocks.shape.slice(1),
      };
      copyPart(x, target, attr(call.attrs, "dim"), part, parts);
    }
  },
};

/** Blocks [parts, ...] joined along attrs.dim: the inverse of splitBlocks. */
const joinBlocks: OpDefinition = {
  name: "joinBlocks",
  infer() {
    throw new InternalError("a joined shape comes with the node");
  },
  strategies: () => [],
  flops: () => 0,
  reference(call) {
    const [blocks, y] = [inputOf(call, 0), outputOf(call)];
    const parts = attr(call.attrs, "parts");
    const outer = elements(y.shape.slice(0, attr(call.attrs, "dim")));
    const length = elements(y.shape) / (outer * parts);
    for (let part = 0; part < parts; part++) {
      for (let o = 0; o < outer; o++) {
        for (let i = 0; i < length; i++) {
          y.data[(o * parts + part) * length + i] = at(
            blocks.data,
            (part * outer + o) * length + i,
          );
        }
      }
    }
  },
};

/** Sum over the step's microbatches, in a buffer that lives through them. In a program: [acc, x] -> acc. */
const accumulate: OpDefinition = {
  name: "accumulate",
  infer: (inputs) => operand(inputs, 0),
  strategies: (_inputs, y) => [row(["R"], "R"), ...splitTogether(1, allDims(y)), row(["P"], "P")],
  flops: (_inputs, y) => elements(y.shape),
  reference(call) {
    const [acc, x, y] = [inputOf(call, 0), inputOf(call, 1), outputOf(call)];
    const first = call.scalars.microbatch === 0;
    for (let i = 0; i < elements(x.shape); i++)
      y.data[i] = (first ? 0 : at(acc.data, i)) + at(x.data, i);
  },
};

/** All inputs' elements one after another: [total]. */
const pack: OpDefinition = {
  name: "pack",
  infer() {
    throw new InternalError("a pack's shape comes with the node");
  },
  strategies: () => [],
  flops: () => 0,
  reference(call) {
    const y = outputOf(call);
    let offset = 0;
    for (const x of call.inputs) {
      for (let i = 0; i < elements(x.shape); i++) y.data[offset++] = at(x.data, i);
    }
  },
};

/** The output's elements out of a packed input, from attrs.offset on. */
const unpack: OpDefinition = {
  name: "unpack",
  infer() {
    throw new InternalError("an unpacked shape comes with the node");
  },
  strategies: () => [],
  flops: () => 0,
  reference(call) {
    const [x, y] = [inputOf(call, 0), outputOf(call)];
    const offset = attr(call.attrs, "offset");
    for (let i = 0; i < elements(y.shape); i++) y.data[i] = at(x.data, offset + i);
  },
};

registerOps(slice, mask, splitBlocks, joinBlocks, takeRows, accumulate, pack, unpack);
