import { opDefinition } from "../../compiler/ops/index.ts";
import type { ReferenceTensor, ValueType } from "../../compiler/ops/op.ts";
import { elements } from "../../compiler/ops/shapes.ts";
import type { ForwardGraph } from "../../shared/graph/graph.ts";
import { stepScalars } from "../../shared/optimizer/step-scalars.ts";

/** The output of a traced model in float64 and plain loops, on one imaginary device. */
export function runForward(
  graph: ForwardGraph,
  parameters: ReadonlyMap<string, ArrayLike<number>>,
  batch: Readonly<Record<string, ArrayLike<number>>>,
): ReferenceTensor {
  const values: ReferenceTensor[] = [];
  const types: ValueType[] = [];
  const put = (type: ValueType, data: Float64Array): void => {
    types.push(type);
    values.push({ data, shape: type.shape });
  };
  for (const { name, dims, dtype } of graph.inputs) {
    const data = Float64Array.from(batch[name] ?? []);
    const rows = data.length / dims.reduce((product, dim) => product * dim, 1);
    put({ shape: [rows, ...dims], dtype }, data);
  }
  for (const { name, dims } of graph.parameters) {
    put({ shape: dims, dtype: "float32" }, Float64Array.from(parameters.get(name) ?? []));
  }
  for (const { op, inputs, attrs } of graph.nodes) {
    const definition = opDefinition(op);
    const operand = <T>(list: readonly T[]): T[] =>
      inputs.map((value) => {
        const found = list[value];
        if (found === undefined) throw new Error(`${op} reads value ${value}, which is not there`);
        return found;
      });
    const type = definition.infer(operand(types), attrs);
    const data = new Float64Array(elements(type.shape));
    definition.reference({
      inputs: operand(values),
      outputs: [{ data, shape: type.shape }],
      attrs,
      scalars: stepScalars({ kind: "sgd", lr: 1, momentum: 0 }, { kind: "constant" }, 0),
      mesh: { axes: [] },
      coordinates: [],
    });
    put(type, data);
  }
  const output = values[graph.output];
  if (output === undefined) throw new Error(`the graph has no value ${graph.output}`);
  return output;
}
