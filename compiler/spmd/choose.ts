import { InternalError } from "../../shared/errors.ts";
import { isShard, type Placement, shardDim } from "../../shared/mesh/placement.ts";
import { dtypeBytes } from "../../shared/program/program.ts";
import type { Node } from "../ir/graph.ts";
import type { TrainingGraph } from "../ir/training-graph.ts";
import type { StrategyRow } from "../ops/op.ts";
import { opDefinition } from "../ops/registry.ts";
import { elements } from "../ops/shapes.ts";
import type { AxisPins } from "./pins.ts";
import { type MovedValue, movePrice } from "./price.ts";

/** What was settled for one value on one axis. */
export interface Choice {
  /** Placements in which the op takes its inputs. */
  readonly inputs: readonly Placement[];
  /** Placement in which the op leaves its output. */
  readonly output: Placement;
  /** Placement that the value is moved to once computed, and in which others find it. */
  readonly canonical: Placement;
}

export interface AxisProblem {
  readonly training: TrainingGraph;
  readonly pins: AxisPins;
  readonly size: number;
  /** Ranks on the other axes that a value's dim, or the whole value, is split over. */
  otherShards(value: number, dim?: number): number;
  /** Whether weight gradients may be formed from gathered factors in place of being reduced. */
  readonly exchangeFactors: boolean;
  /** Floating-point operations in the time of one byte. */
  readonly flopsPerByte: number;
}

/** The placement of a value's gradient that costs no move: ranks that share a value sum its gradient. */
const dual = (placement: Placement): Placement => (isShard(placement) ? placement : "R");

/**
 * Placements of all values on one axis, by one sweep in topological order: pins first; each accumulated gradient
 * takes the dual of its value's placement; the rest is the row with the fewest bytes to move, ties to fewer moves, then to
 * the earlier row. No global search: docs/decisions/0002-placement-choice.md has the comparison with one.
 */
export function chooseOnAxis(problem: AxisProblem): Choice[] {
  const { training, pins, size } = problem;
  const { graph, gradients, parameterOf } = training;
  const choices: Choice[] = [];
  const copies: Placement[][] = [];
  const gradientPins = new Map<number, Placement>();
  const keptSums = findKeptSums(training);
  /** By value: every row of every reader asks for it. */
  const movedValues: MovedValue[] = [];

  for (const node of graph.nodes) {
    const choice = chooseNode(node);
    choices.push(choice);
    const own = [choice.canonical];
    copies.push(own);
    node.inputs.forEach((input, k) => {
      const wanted = choice.inputs[k];
      const list = copies[input];
      // Gathered copies of stored parameters live within their phase only, as values of their own.
      if (wanted !== undefined && list !== undefined && !list.includes(wanted)) list.push(wanted);
    });
    const gradient = gradients.accumulated.get(node.id);
    if (gradient !== undefined && !parameterOf.has(node.id) && !pins.fixed.has(gradient)) {
      gradientPins.set(gradient, dual(choice.canonical));
    }
  }
  return choices;

  function chooseNode(node: Node): Choice {
    const pin = pinOf(node);
    if (node.leaf !== undefined) {
      const placement = pin ?? "R";
      return { inputs: [], output: placement, canonical: placement };
    }
    if (node.op === "addN") return chooseSum(node, pin);
    const rows = opDefinition(node.op).strategies(
      node.inputs.map((i) => graph.node(i).type),
      node.type,
      node.attrs,
    );
    const best = cheapest(node, pin, rows, true) ?? cheapest(node, pin, rows, false);
    if (best === undefined) {
      throw new InternalError(
        `no strategy for %${node.id} ${node.op} (layer "${node.layer}", pin ${pin ?? "none"})`,
      );
    }
    return best;
  }

  function pinOf(node: Node): Placement | undefined {
    const original = training.clones.get(node.id);
    if (original !== undefined) return canonical(original);
    const fixed = pins.fixed.get(node.id) ?? gradientPins.get(node.id);
    if (fixed !== undefined) return fixed;
    const followed = pins.followsInput.get(node.id);
    if (followed === undefined) return undefined;
    const input = canonical(followed);
    return isShard(input) && shardDim(input) < node.type.shape.length - 1 ? input : "R";
  }

  /** `keepWeights`: parameters compute where they are; without it (last resort) they may be moved like any value. */
  function cheapest(
    node: Node,
    pin: Placement | undefined,
    rows: readonly StrategyRow[],
    keepWeights: boolean,
  ): Choice | undefined {
    const definition = opDefinition(node.op);
    let best: Choice | undefined;
    let bestCost = Number.POSITIVE_INFINITY;
    let bestMoves = Number.POSITIVE_INFINITY;
    for (const row of rows) {
      if (!fits(node, row)) continue;
      let cost = 0;
      let moves = 0;
      let offered = true;
      for (const [k, input] of node.inputs.entries()) {
        const wanted = row.inputs[k] ?? "R";
        const have = copies[input] ?? [];
        if (have.includes(wanted) || isTakenBefore(node, row, k)) continue;
        if (keepWeights && parameterOf.has(input) && definition.inPlace === undefined)
          offered = false;
        let price = Number.POSITIVE_INFINITY;
        for (const from of have)
          price = Math.min(price, movePrice(from, wanted, movedValue(input), size));
        const gathers = !have.includes("R");
        if (gathers && !problem.exchangeFactors && definition.weightGradient !== undefined)
          offered = false;
        cost += price;
        moves++;
      }
      if (!offered) continue;
      const target = pin ?? row.output;
      const out = movePrice(row.output, target, movedValue(node.id), size);
      cost += out;
      if (out > 0) moves++;
      cost += sumPrice(node, row.output);
      if (definition.weightGradient !== undefined) cost += computePrice(node, row);
      if (cost < bestCost || (cost === bestCost && moves < bestMoves)) {
        best = { inputs: row.inputs, output: row.output, canonical: target };
        bestCost = cost;
        bestMoves = moves;
      }
    }
    return best;
  }

  /** Whether an operand before the k-th is the same value in the same placement: it is moved once. */
  function isTakenBefore(node: Node, row: StrategyRow, k: number): boolean {
    for (let j = 0; j < k; j++) {
      if (node.inputs[j] === node.inputs[k] && row.inputs[j] === (row.inputs[k] ?? "R"))
        return true;
    }
    return false;
  }

  /** Operands keep their placements; those of one placement are added first, then each sum is moved once. */
  function chooseSum(node: Node, pin: Placement | undefined): Choice {
    const inputs = node.inputs.map(canonical);
    const present = [...new Set(inputs)];
    const only = present[0];
    if (present.length === 1 && only !== undefined)
      return { inputs, output: only, canonical: pin ?? only };
    const targets: Placement[] =
      pin === undefined ? [...present.filter((p) => p !== "P"), "R"] : [pin];
    let best: Placement = "R";
    let bestCost = Number.POSITIVE_INFINITY;
    for (const target of targets) {
      const cost = present.reduce(
        (sum, from) => sum + movePrice(from, target, movedValue(node.id), size),
        0,
      );
      if (cost < bestCost) [best, bestCost] = [target, cost];
    }
    return { inputs, output: best, canonical: best };
  }

  /**
   * A contribution to a sum that is pinned, or that is kept over the microbatches of a step, pays for that sum's
   * move: priced alone, a cheap row would cost a reduction of a whole weight later.
   */
  function sumPrice(node: Node, output: Placement): number {
    const sum = gradients.sumOf.get(node.id);
    const kept = keptSums.get(node.id) ?? (sum === undefined ? undefined : keptSums.get(sum));
    if (kept !== undefined) {
      const target = pins.fixed.get(kept.pinned);
      return target === undefined
        ? 0
        : movePrice(output, target, movedValue(node.id), size) / kept.parts;
    }
    if (sum === undefined) return 0;
    const target = pins.fixed.get(sum) ?? gradientPins.get(sum);
    const counts = output === "P" || pins.fixed.has(sum);
    return target !== undefined && counts
      ? movePrice(output, target, movedValue(node.id), size)
      : 0;
  }

  function computePrice(node: Node, row: StrategyRow): number {
    const flops = opDefinition(node.op).flops(
      node.inputs.map((i) => graph.node(i).type),
      node.type,
    );
    const split = row.inputs.some(isShard) ? size : 1;
    const others = Math.max(
      problem.otherShards(node.id),
      ...node.inputs.map((i) => problem.otherShards(i)),
    );
    return flops / split / others / problem.flopsPerByte;
  }

  function fits(node: Node, row: StrategyRow): boolean {
    return (
      divides(node, -1, row.output) &&
      node.inputs.every((_, k) => divides(node, k, row.inputs[k] ?? "R"))
    );
  }

  /** Whether operand `k` of `node` (-1: its output) can be split so: in whole units where the op wants some. */
  function divides(node: Node, k: number, placement: Placement): boolean {
    if (!isShard(placement)) return true;
    const dim = shardDim(placement);
    const value = k < 0 ? node.id : (node.inputs[k] ?? -1);
    const length = graph.node(value).type.shape[dim];
    const unit = opDefinition(node.op).unit?.(k, dim, node.attrs)?.size ?? 1;
    return length !== undefined && length % (unit * size * problem.otherShards(value, dim)) === 0;
  }

  function movedValue(value: number): MovedValue {
    const known = movedValues[value];
    if (known !== undefined) return known;
    const node = graph.node(value);
    const count = elements(node.type.shape);
    const moved = {
      bytes: (count * dtypeBytes(node.type.dtype)) / problem.otherShards(value),
      dims: node.type.shape.length,
      elements: count,
      movesGradient: node.phase === "forward" && gradients.accumulated.has(value),
    };
    movedValues[value] = moved;
    return moved;
  }

  function canonical(value: number): Placement {
    const choice = choices[value];
    if (choice === undefined) throw new InternalError(`%${value} is used before it is placed`);
    return choice.canonical;
  }
}

/** Values summed over the microbatches of a step, with the node that pins the sum and the number of microbatches. */
function findKeptSums(training: TrainingGraph): Map<number, { pinned: number; parts: number }> {
  const { nodes } = training.graph;
  const parts = nodes.find((n) => n.op === "takeRows")?.attrs["parts"] ?? 1;
  const kept = new Map<number, { pinned: number; parts: number }>();
  for (const node of nodes) {
    const sum = node.op === "identity" ? nodes[node.inputs[0] ?? -1] : undefined;
    const value = sum?.op === "accumulate" ? sum.inputs[0] : undefined;
    if (value !== undefined) kept.set(value, { pinned: node.id, parts });
  }
  return kept;
}
