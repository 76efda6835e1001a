// A language model's logits by its whole graph at once: what a decoder must give position by position.
import { opDefinition } from "../../compiler/ops/index.ts";
import type { ReferenceTensor } from "../../compiler/ops/op.ts";
import type { ForwardGraph } from "../../shared/graph/graph.ts";
import { stepScalars } from "../../shared/optimizer/step-scalars.ts";

const NOTHING: ReferenceTensor = { data: new Float64Array(0), shape: [] };

/** Logits of every token of a sequence, in float64 and without dropout. */
export function fullLogits(
  graph: ForwardGraph,
  weights: ReadonlyMap<string, ArrayLike<number>>,
  tokens: readonly number[],
): Float64Array[] {
  const scalars = stepScalars({ kind: "sgd", lr: 0, momentum: 0 }, { kind: "constant" }, 0);
  const values: ReferenceTensor[] = [
    { data: Int32Array.from(tokens), shape: [1, tokens.length] },
    ...graph.parameters.map(({ name, dims }) => ({
      data: Float64Array.from(weights.get(name) ?? []),
      shape: dims,
    })),
  ];
  for (const { op, inputs, attrs } of graph.nodes) {
    const definition = opDefinition(op);
    const operands = inputs.map((value) => values[value] ?? NOTHING);
    const types = operands.map(({ data, shape }) => ({
      shape,
      dtype: data instanceof Int32Array ? ("int32" as const) : ("float32" as const),
    }));
    const { shape } = definition.infer(types, attrs);
    const output = { data: new Float64Array(shape.reduce((a, b) => a * b, 1)), shape };
    definition.reference({
      inputs: operands,
      outputs: [output],
      attrs: { ...attrs, ...definition.evaluationAttrs },
      scalars,
      mesh: { axes: [] },
      coordinates: [],
    });
    values.push(output);
  }
  const { data } = values[graph.output] ?? NOTHING;
  const vocab = data.length / tokens.length;
  return tokens.map((_, t) => Float64Array.from(data.slice(t * vocab, (t + 1) * vocab)));
}
