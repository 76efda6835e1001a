import type { ForwardGraph, GraphInput, GraphNode, GraphParameter } from "../graph/graph.ts";
import type { InitSpec } from "../program/program.ts";
import type { FaultList, Path } from "./faults.ts";
import {
  MAX_DIM,
  MAX_ELEMENTS,
  MAX_LAYER_NAME_BYTES,
  MAX_NODES,
  MAX_PARAMETERS,
  MAX_PLAN_ENTRIES,
} from "./limits.ts";
import {
  dictionary,
  isMap,
  list,
  object,
  optional,
  refined,
  required,
  type Schema,
  withDefault,
} from "./schema-types.ts";
import { choice, finiteNumber, integer, text } from "./schema-values.ts";

/** A parameter as the message has it: how it starts is `bound` or `constant`; `init` is the form of the TypeScript type. */
interface RawParameter {
  readonly name: string;
  readonly dims: readonly number[];
  readonly bound?: number;
  readonly constant?: number;
  readonly init?: RawInit;
}

interface RawInit {
  readonly kind: "uniform" | "constant";
  readonly bound?: number;
  readonly value?: number;
}

const dims = list(integer({ min: 1, max: MAX_DIM }), { min: 0, max: 8, what: "positive integers" });
const layerName = text(MAX_LAYER_NAME_BYTES);

const graphInput = object<GraphInput>({
  name: required(layerName),
  dtype: withDefault(choice(["float32", "int32"]), "float32"),
  dims: withDefault(dims, []),
});

const rawInit = object<RawInit>({
  kind: required(choice(["uniform", "constant"])),
  bound: optional(finiteNumber({ min: 0 })),
  value: optional(finiteNumber()),
});

const rawParameter = object<RawParameter>({
  name: required(layerName),
  dims: withDefault(dims, []),
  bound: optional(finiteNumber({ min: 0 })),
  constant: optional(finiteNumber()),
  init: optional(rawInit),
});

const graphParameter: Schema<GraphParameter> = refined(rawParameter, resolveParameter, (value) => {
  if (!isMap(value) || !isMap(value["init"])) return value;
  const { init, ...rest } = value;
  return init["kind"] === "uniform"
    ? { ...rest, bound: init["bound"] }
    : { ...rest, constant: init["value"] };
});

const graphNode = object<GraphNode>({
  op: required(layerName),
  inputs: withDefault(list(integer({ min: 0 }), { min: 0, max: 1024, what: "value numbers" }), []),
  attrs: withDefault(
    dictionary(finiteNumber(), { maxEntries: 64, maxKeyBytes: 64, what: "attributes" }),
    {},
  ),
  layer: withDefault(text(MAX_LAYER_NAME_BYTES, 0), ""),
});

const rawGraph = object<ForwardGraph>({
  inputs: required(list(graphInput, { min: 1, max: 64, what: "inputs" })),
  parameters: withDefault(
    list(graphParameter, { min: 0, max: MAX_PARAMETERS, what: "parameters" }),
    [],
  ),
  nodes: required(list(graphNode, { min: 1, max: MAX_NODES, what: "nodes" })),
  output: required(integer({ min: 0 })),
  defaultPlan: withDefault(
    dictionary(text(MAX_LAYER_NAME_BYTES), {
      maxEntries: MAX_PLAN_ENTRIES,
      maxKeyBytes: MAX_LAYER_NAME_BYTES,
      what: "layer patterns to styles",
    }),
    {},
  ),
});

/**
 * A traced model that came from outside: values in range and in topological order, names unique, sizes within limits.
 * Whether its ops exist and their shapes fit is the compiler's check.
 */
export const graphSchema: Schema<ForwardGraph> = refined(rawGraph, checkGraph, (value) => value);

function resolveParameter(
  raw: RawParameter,
  path: Path,
  faults: FaultList,
): GraphParameter | undefined {
  const inits: InitSpec[] = [];
  if (raw.bound !== undefined) inits.push({ kind: "uniform", bound: raw.bound });
  if (raw.constant !== undefined) inits.push({ kind: "constant", value: raw.constant });
  if (raw.init?.kind === "uniform")
    inits.push({ kind: "uniform", bound: raw.init.bound ?? Number.NaN });
  if (raw.init?.kind === "constant")
    inits.push({ kind: "constant", value: raw.init.value ?? Number.NaN });
  const [init] = inits;
  const isComplete =
    init !== undefined && !Number.isNaN(init.kind === "uniform" ? init.bound : init.value);
  if (!isComplete || inits.length > 1) {
    faults.add(
      path,
      "must say how it starts with exactly one of bound (uniform on [-bound, bound)) and constant",
    );
    return undefined;
  }
  const elements = raw.dims.reduce((product, dim) => product * dim, 1);
  if (elements > MAX_ELEMENTS) {
    faults.add(
      [...path, "dims"],
      `[${raw.dims.join(", ")}] has ${elements} elements; at most ${MAX_ELEMENTS}`,
    );
    return undefined;
  }
  return { name: raw.name, dims: raw.dims, init };
}

function checkGraph(graph: ForwardGraph, path: Path, faults: FaultList): ForwardGraph | undefined {
  const before = faults.count;
  reportRepeatedNames(graph.inputs, [...path, "inputs"], faults);
  reportRepeatedNames(graph.parameters, [...path, "parameters"], faults);
  graph.inputs.forEach((input, index) => {
    const elements = input.dims.reduce((product, dim) => product * dim, 1);
    if (elements > MAX_DIM) {
      const message = `[${input.dims.join(", ")}] has ${elements} elements a row; at most ${MAX_DIM}`;
      faults.add([...path, "inputs", index, "dims"], message);
    }
  });
  const firstNode = graph.inputs.length + graph.parameters.length;
  graph.nodes.forEach((node, index) => {
    node.inputs.forEach((value, operand) => {
      if (value < firstNode + index) return;
      const at = [...path, "nodes", index, "inputs", operand];
      faults.add(
        at,
        `is value ${value}; node ${index} makes value ${firstNode + index} and takes only earlier ones`,
      );
    });
  });
  const count = firstNode + graph.nodes.length;
  if (graph.output >= count) {
    faults.add(
      [...path, "output"],
      `is value ${graph.output}; the graph has values 0 to ${count - 1}`,
    );
  }
  return faults.count === before ? graph : undefined;
}

function reportRepeatedNames(
  named: readonly { readonly name: string }[],
  path: Path,
  faults: FaultList,
): void {
  const firstAt = new Map<string, number>();
  named.forEach(({ name }, index) => {
    const first = firstAt.get(name);
    if (first === undefined) firstAt.set(name, index);
    else
      faults.add(
        [...path, index, "name"],
        `is the name of entry ${first} too; names must be unique`,
      );
  });
}
