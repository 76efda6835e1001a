import type { CompileRequest } from "../compile.ts";
import { TO_BFLOAT16, TO_FLOAT32 } from "../ops/cast.ts";
import { hasOp, opDefinition } from "../ops/index.ts";
import type { Graph } from "./graph.ts";

/** Attributes of a cast to bfloat16. */
export const HALF = { to: TO_BFLOAT16 };

/**
 * Where a step in bfloat16 changes precision: each op reads what its `halfInputs` say. A parameter that only such inputs
 * read is cast as it is used, once in each phase, so that sharded weights are gathered as bfloat16 and no cast lives
 * from the forward to the backward pass.
 */
export class Casts {
  /** Whether the job computes in bfloat16. */
  readonly needed: boolean;
  readonly #graph: Graph;
  readonly #halfParameters: ReadonlySet<number>;
  readonly #made = new Map<number, number>();

  constructor(graph: Graph, { graph: model, precision }: CompileRequest) {
    this.#graph = graph;
    this.needed = precision === "bfloat16";
    const first = model.inputs.length;
    const half = new Set<number>();
    const whole = new Set<number>();
    for (const { op, inputs } of this.needed ? model.nodes : []) {
      inputs.forEach((value, input) => {
        const parameter = value - first;
        if (parameter < 0 || parameter >= model.parameters.length) return;
        (takesHalf(op, input) ? half : whole).add(parameter);
      });
    }
    this.#halfParameters = new Set([...half].filter((parameter) => !whole.has(parameter)));
  }

  /** Whether all that reads a parameter reads it as bfloat16. */
  isHalf(parameter: number): boolean {
    return this.#halfParameters.has(parameter);
  }

  /** The cast of a parameter that all read as bfloat16, once it is made. */
  known(leaf: number): number | undefined {
    const index = this.#graph.node(leaf).leaf;
    return index?.kind === "parameter" && this.isHalf(index.index)
      ? this.#made.get(leaf)
      : undefined;
  }

  /** A value as input `input` of op `op` takes it. */
  readonly operand = (value: number, op: string, input: number): number => {
    const { type, layer } = this.#graph.node(value);
    const wanted = takesHalf(op, input) ? "bfloat16" : "float32";
    if (type.dtype === wanted || (type.dtype !== "float32" && type.dtype !== "bfloat16")) {
      return value;
    }
    const known = this.#made.get(value);
    if (known !== undefined) return known;
    const to = wanted === "bfloat16" ? TO_BFLOAT16 : TO_FLOAT32;
    const made = this.#graph.add("cast", [value], { to }, layer);
    this.#made.set(value, made);
    return made;
  };
}

function takesHalf(op: string, input: number): boolean {
  return hasOp(op) && opDefinition(op).halfInputs?.includes(input) === true;
}
