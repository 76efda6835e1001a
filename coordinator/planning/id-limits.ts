import { hasOp, opDefinition } from "../../compiler/ops/index.ts";
import type { ValueType } from "../../compiler/ops/op.ts";
import type { ForwardGraph, LossKind } from "../../shared/graph/graph.ts";

/**
 * How many ids an integer input may choose from: the rows of the embeddings that it reads, and for the loss's targets the
 * number of classes. Kernels trust these bounds, so that data is held against them before it is sent.
 */
export function idLimits(graph: ForwardGraph, loss: LossKind): Record<string, number> {
  const limits: Record<string, number> = {};
  const limit = (name: string | undefined, ids: number | undefined): void => {
    if (name === undefined || ids === undefined) return;
    limits[name] = Math.min(ids, limits[name] ?? ids);
  };
  const firstNode = graph.inputs.length + graph.parameters.length;
  for (const { op, inputs } of graph.nodes) {
    const [ids = -1, table = -1] = inputs;
    if (op !== "embedding" || table >= firstNode) continue;
    limit(graph.inputs[ids]?.name, graph.parameters[table - graph.inputs.length]?.dims[0]);
  }
  if (loss === "cross_entropy") limit("targets", outputType(graph)?.shape.at(-1));
  return limits;
}

/** Type of the graph's output for a batch of one row; undefined for a graph that does not fit together. */
function outputType(graph: ForwardGraph): ValueType | undefined {
  const types: ValueType[] = [
    ...graph.inputs.map(({ dims, dtype }) => ({ shape: [1, ...dims], dtype })),
    ...graph.parameters.map(({ dims }) => ({ shape: dims, dtype: "float32" as const })),
  ];
  try {
    for (const { op, inputs, attrs } of graph.nodes) {
      const operands = inputs.map((value) => types[value]);
      if (!hasOp(op) || operands.includes(undefined)) return undefined;
      types.push(
        opDefinition(op).infer(
          operands.filter((type) => type !== undefined),
          attrs,
        ),
      );
    }
  } catch {
    return undefined; // its faults are the compiler's to tell
  }
  return types[graph.output];
}
