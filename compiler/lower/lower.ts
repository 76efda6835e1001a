import { InternalError } from "../../shared/errors.ts";
import { axisSize, type Mesh } from "../../shared/mesh/mesh.ts";
import {
  isShard,
  type Layout,
  localShape,
  type Placement,
  shardDim,
} from "../../shared/mesh/placement.ts";
import { type DType, dtypeBytes, type Phase } from "../../shared/program/program.ts";
import type { TrainingGraph } from "../ir/training-graph.ts";
import type { Attrs } from "../ops/op.ts";
import { opDefinition } from "../ops/registry.ts";
import { elements } from "../ops/shapes.ts";
import type { Choice } from "../spmd/choose.ts";
import { bytesMoved, type Move, movesBetween } from "../spmd/redistribute.ts";
import type { RankValue } from "./rank-graph.ts";

/** A rank's values, and where the training graph's values went. */
export interface Lowered {
  readonly values: RankValue[];
  /** Training-graph value to the rank value that holds it in its canonical layout. */
  readonly canonical: ReadonlyMap<number, number>;
}

/**
 * Turns placements into one rank's values: local ops, with slices, masks and collectives where an op wants a value
 * in another layout than the one it has. Copies are kept per joint layout and used again.
 * @param equalCopies ranks may round differently, and updated parameters have equal bits on all ranks nonetheless
 */
export function lower(
  training: TrainingGraph,
  mesh: Mesh,
  chosen: readonly (readonly Choice[])[],
  equalCopies = false,
): Lowered {
  const { graph } = training;
  const values: RankValue[] = [];
  const canonical = new Map<number, number>();
  /** Training-graph value to its copies by layout. */
  const copies = new Map<number, Map<string, number>>();
  const updatedOf = new Map(training.parameters.map((p) => [p.updated ?? -1, p.leaf]));

  for (const node of graph.nodes) {
    const wanted = layoutOf(node.id, (choice) => choice.canonical);
    if (node.leaf !== undefined) {
      const id = push({
        kind: "leaf",
        op: "",
        inputs: [],
        attrs: {},
        origin: node.id,
        layout: wanted,
        phase: "forward",
      });
      settle(node.id, id);
      continue;
    }
    const output = layoutOf(node.id, (choice) => choice.output);
    const before = node.op === "addN" ? lowerSum(node.id, output) : lowerOp(node.id, output);
    const replaces = updatedOf.get(node.id);
    const made = replaces === undefined ? before : ownedOnce(node.id, before, wanted, node.phase);
    settle(node.id, redistribute(node.id, made, wanted, node.phase, replaces));
  }
  return { values, canonical };

  /**
   * An updated parameter as one rank's alone, where ranks that hold copies may round differently: the copies are summands,
   * zero on all ranks but the first, and what makes the parameter whole again makes them equal, bit by bit.
   */
  function ownedOnce(id: number, value: number, wanted: Layout, phase: Phase): number {
    if (!equalCopies) return value;
    const { layout } = rankValue(value);
    const owned = layout.map((p, axis) =>
      p === "R" && wanted[axis] === "R" && axisSize(mesh, axis) > 1 ? "P" : p,
    );
    return redistribute(id, value, owned, phase, undefined);
  }

  function lowerOp(id: number, output: Layout): number {
    const node = graph.node(id);
    const inputs = node.inputs.map((input, k) =>
      copyIn(
        input,
        layoutOf(id, (choice) => choice.inputs[k] ?? "R"),
        node.phase,
      ),
    );
    const [only] = inputs;
    if (node.op === "identity" && only !== undefined) return only;
    return push({
      kind: "compute",
      op: node.op,
      inputs,
      attrs: { ...node.attrs, ...positionAttrs(id, inputs, output) },
      origin: id,
      layout: output,
      phase: node.phase,
    });
  }

  /** Which axes split the dims that the op has to know its place in. */
  function positionAttrs(id: number, inputs: readonly number[], output: Layout): Attrs {
    const node = graph.node(id);
    const types = node.inputs.map((input) => graph.node(input).type);
    const wanted = opDefinition(node.op).positions?.(types, node.type, node.attrs) ?? [];
    return Object.fromEntries(
      wanted.map(({ attr, operand, dim }) => {
        const layout = operand < 0 ? output : rankValue(inputs[operand] ?? -1).layout;
        const axes = layout.reduce(
          (bits, p, axis) => (shardDim(p) === dim ? bits | (1 << axis) : bits),
          0,
        );
        return [attr, axes];
      }),
    );
  }

  /** Adds the operands of one layout first, so that each layout's sum moves once; then the sums in order. */
  function lowerSum(id: number, output: Layout): number {
    const node = graph.node(id);
    const groups = new Map<string, number[]>();
    for (const input of node.inputs) {
      const value = canonicalOf(input);
      const key = layoutKey(rankValue(value).layout);
      groups.set(key, [...(groups.get(key) ?? []), value]);
    }
    const sums = [...groups.values()].map((group) => {
      const sum = addAll(id, group, rankValue(group[0] ?? -1).layout, node.phase);
      return redistribute(id, sum, output, node.phase, undefined);
    });
    return addAll(id, sums, output, node.phase);
  }

  function addAll(origin: number, inputs: readonly number[], layout: Layout, phase: Phase): number {
    const [only] = inputs;
    if (inputs.length === 1 && only !== undefined) return only;
    return push({ kind: "compute", op: "addN", inputs, attrs: {}, origin, layout, phase });
  }

  /** The value in the wanted layout, from whichever copy is nearest. */
  function copyIn(id: number, wanted: Layout, phase: Phase): number {
    const known = copies.get(id);
    if (known === undefined) throw new InternalError(`%${id} is used before it is lowered`);
    const exact = known.get(layoutKey(wanted));
    if (exact !== undefined) return exact;
    const { type } = graph.node(id);
    const globalBytes = elements(type.shape) * dtypeBytes(type.dtype);
    let best: number | undefined;
    let bestBytes = Number.POSITIVE_INFINITY;
    for (const copy of known.values()) {
      const { layout } = rankValue(copy);
      // What other moves may start from: a value that ranks hold summands of only ends in its canonical layout.
      if (layout.includes("P") && copy !== canonical.get(id)) continue;
      const bytes = bytesMoved(
        layout,
        movesBetween(layout, wanted),
        (axis) => axisSize(mesh, axis),
        globalBytes,
      );
      if (bytes < bestBytes) [best, bestBytes] = [copy, bytes];
    }
    if (best === undefined) throw new InternalError(`%${id} has no copy to move`);
    const moved = redistribute(id, best, wanted, phase, undefined);
    known.set(layoutKey(wanted), moved);
    return moved;
  }

  function redistribute(
    origin: number,
    from: number,
    wanted: Layout,
    phase: Phase,
    replaces: number | undefined,
  ): number {
    let current = from;
    const moves = movesBetween(rankValue(from).layout, wanted);
    for (let i = 0; i < moves.length; ) {
      const first = moves[i];
      if (first === undefined) break;
      // Neighbouring all-reduces are one, over the ranks of all their axes.
      let count = 1;
      while (first.kind === "allReduce" && moves[i + count]?.kind === "allReduce") count++;
      const last = i + count === moves.length;
      current = applyMoves(
        origin,
        current,
        moves.slice(i, i + count),
        phase,
        last ? replaces : undefined,
      );
      if (!last) copies.get(origin)?.set(layoutKey(rankValue(current).layout), current);
      i += count;
    }
    if (moves.length === 0 && replaces !== undefined)
      values[current] = { ...rankValue(current), replaces };
    return current;
  }

  function applyMoves(
    origin: number,
    from: number,
    moves: readonly Move[],
    phase: Phase,
    replaces: number | undefined,
  ): number {
    const [move] = moves;
    if (move === undefined) throw new InternalError("a move of nothing");
    const source = rankValue(from);
    const layout = [...source.layout];
    for (const m of moves) layout[m.axis] = m.to;
    const dim = shardDim(isShard(move.to) ? move.to : move.from);
    if (move.kind === "slice" || move.kind === "mask") {
      const attrs: Attrs = move.kind === "slice" ? { axis: move.axis, dim } : { axis: move.axis };
      return push({ kind: "compute", op: move.kind, inputs: [from], attrs, origin, layout, phase });
    }
    if (move.kind === "allToAll") return exchange(origin, from, move, layout, phase);
    if (move.kind === "merge") return merge(origin, from, move, layout, phase);
    const outer = move.kind === "allReduce" ? 1 : elements(source.shape.slice(0, dim));
    // The chunk is what one rank has of the gathered tensor's row: the smaller of the two sides.
    const chunkElements =
      move.kind === "allReduce"
        ? elements(source.shape)
        : elements(source.shape.slice(dim)) /
          (move.kind === "reduceScatter" ? axisSize(mesh, move.axis) : 1);
    return push({
      kind: "collective",
      op: "",
      inputs: [from],
      attrs: {},
      origin,
      layout,
      phase,
      replaces,
      collective: {
        op: move.kind,
        axes: moves.map((m) => m.axis).sort((a, b) => a - b),
        from: move.from,
        to: move.to,
        outer,
        chunkElements,
      },
    });
  }

  /** S(a) to S(b): cut along b into a block per rank, exchange blocks, join what came along a. */
  function exchange(
    origin: number,
    from: number,
    move: Move,
    layout: Layout,
    phase: Phase,
  ): number {
    const source = rankValue(from);
    const parts = axisSize(mesh, move.axis);
    const [joined, cut] = [shardDim(move.from), shardDim(move.to)];
    const blockShape = [parts, ...source.shape.map((size, d) => (d === cut ? size / parts : size))];
    const blocks = push({
      kind: "compute",
      op: "splitBlocks",
      inputs: [from],
      attrs: { dim: cut, parts },
      origin,
      layout: source.layout,
      phase,
      shape: blockShape,
    });
    const received = push({
      kind: "collective",
      op: "",
      inputs: [blocks],
      attrs: {},
      origin,
      layout,
      phase,
      shape: blockShape,
      collective: {
        op: "allToAll",
        axes: [move.axis],
        from: move.from,
        to: move.to,
        outer: 1,
        chunkElements: elements(blockShape.slice(1)),
      },
    });
    return push({
      kind: "compute",
      op: "joinBlocks",
      inputs: [received],
      attrs: { dim: joined, parts },
      origin,
      layout,
      phase,
    });
  }

  /** Statistics of each rank's classes, gathered as a block per rank and merged in rank order. */
  function merge(origin: number, from: number, move: Move, layout: Layout, phase: Phase): number {
    const source = rankValue(from);
    const blocks = push({
      kind: "collective",
      op: "",
      inputs: [from],
      attrs: {},
      origin,
      layout,
      phase,
      shape: [axisSize(mesh, move.axis), ...source.shape],
      collective: {
        op: "allGather",
        axes: [move.axis],
        from: move.from,
        to: move.to,
        outer: 1,
        chunkElements: elements(source.shape),
      },
    });
    return push({
      kind: "compute",
      op: "ceMerge",
      inputs: [blocks],
      attrs: {},
      origin,
      layout,
      phase,
    });
  }

  function push(fields: {
    kind: RankValue["kind"];
    op: string;
    inputs: readonly number[];
    attrs: Attrs;
    origin: number;
    layout: Layout;
    phase: Phase;
    collective?: RankValue["collective"];
    replaces?: number | undefined;
    /** Where it is not the layout's: blocks on their way. */
    shape?: readonly number[];
  }): number {
    const { type } = graph.node(fields.origin);
    const id = values.length;
    const dtype: DType = type.dtype;
    values.push({
      id,
      shape: localShape(type.shape, fields.layout, mesh),
      dtype,
      collective: undefined,
      replaces: undefined,
      ...fields,
    });
    return id;
  }

  function settle(id: number, value: number): void {
    canonical.set(id, value);
    const known = copies.get(id) ?? new Map<string, number>();
    copies.set(id, known.set(layoutKey(rankValue(value).layout), value));
  }

  function layoutOf(id: number, pick: (choice: Choice) => Placement): Layout {
    return chosen.map((choices) => {
      const choice = choices[id];
      if (choice === undefined) throw new InternalError(`%${id} has no placement`);
      return pick(choice);
    });
  }

  function canonicalOf(id: number): number {
    const value = canonical.get(id);
    if (value === undefined) throw new InternalError(`%${id} is used before it is lowered`);
    return value;
  }

  function rankValue(id: number): RankValue {
    const value = values[id];
    if (value === undefined) throw new InternalError(`no rank value ${id}`);
    return value;
  }
}

const layoutKey = (layout: Layout): string => layout.join(",");
