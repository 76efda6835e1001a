import { axisSize, type Mesh } from "../../shared/mesh/mesh.ts";
import { isShard, shardDim } from "../../shared/mesh/placement.ts";
import type { TrainingGraph } from "../ir/training-graph.ts";
import { type AxisProblem, type Choice, chooseOnAxis } from "./choose.ts";
import type { AxisPins } from "./pins.ts";

/** Sweeps over each axis against the sizes that the others leave; two rounds were stable in every case tried. */
const ROUNDS = 2;

/** Choices of every axis, in mesh order; the innermost axis is settled first. */
export function chooseOnAllAxes(
  training: TrainingGraph,
  mesh: Mesh,
  pins: readonly AxisPins[],
  prices: Pick<AxisProblem, "exchangeFactors" | "flopsPerByte">,
): Choice[][] {
  const chosen: (Choice[] | undefined)[] = mesh.axes.map(() => undefined);
  const open = mesh.axes.map((_, a) => a).filter((a) => axisSize(mesh, a) > 1);
  const rounds = open.length > 1 ? ROUNDS : 1;
  for (let round = 0; round < rounds; round++) {
    for (const axis of [...open].reverse()) {
      const own = pins[axis];
      if (own === undefined) continue;
      chosen[axis] = chooseOnAxis({
        training,
        pins: own,
        size: axisSize(mesh, axis),
        ...prices,
        otherShards(value, dim) {
          let parts = 1;
          for (const other of open) {
            if (other === axis) continue;
            const placement =
              chosen[other]?.[value]?.canonical ?? pins[other]?.fixed.get(value) ?? "R";
            if (isShard(placement) && (dim === undefined || shardDim(placement) === dim))
              parts *= axisSize(mesh, other);
          }
          return parts;
        },
      });
    }
  }
  return chosen.map((choices) => choices ?? training.graph.nodes.map(wholeChoice));
}

/** On an axis of one rank everything is whole. */
function wholeChoice(node: { readonly inputs: readonly number[] }): Choice {
  return { inputs: node.inputs.map(() => "R"), output: "R", canonical: "R" };
}
