import { InternalError } from "../../shared/errors.ts";
import type { Phase } from "../../shared/program/program.ts";
import type { Attrs, ValueType } from "../ops/op.ts";
import { opDefinition } from "../ops/registry.ts";

/** What a value that no op computes is. */
export type Leaf =
  | { readonly kind: "input"; readonly index: number }
  | { readonly kind: "parameter"; readonly index: number }
  | { readonly kind: "moment1" | "moment2"; readonly index: number }
  /** Kept from step to step: keys or values of the positions so far. */
  | { readonly kind: "cache"; readonly index: number };

/** One value of the training graph in global shapes: a leaf, or the result of an op. */
export interface Node {
  readonly id: number;
  /** Empty for leaves. */
  readonly op: string;
  readonly inputs: readonly number[];
  readonly attrs: Attrs;
  readonly type: ValueType;
  readonly phase: Phase;
  /** Module path that the node comes from, or a name for what it is. */
  readonly layer: string;
  readonly leaf: Leaf | undefined;
}

/** An SSA graph under construction: ids grow in topological order. */
export class Graph {
  readonly nodes: Node[] = [];
  phase: Phase = "forward";

  leaf(leaf: Leaf, type: ValueType, layer: string): number {
    return this.push({ op: "", inputs: [], attrs: {}, type, layer, leaf });
  }

  /** Adds an op; `type` is given where the op's inputs do not tell it. */
  add(
    op: string,
    inputs: readonly number[],
    attrs: Attrs = {},
    layer = "",
    type?: ValueType,
  ): number {
    const inferred =
      type ??
      opDefinition(op).infer(
        inputs.map((i) => this.node(i).type),
        attrs,
      );
    return this.push({ op, inputs, attrs, type: inferred, layer, leaf: undefined });
  }

  node(id: number): Node {
    const found = this.nodes[id];
    if (found === undefined) throw new InternalError(`graph has no value %${id}`);
    return found;
  }

  private push(fields: Omit<Node, "id" | "phase">): number {
    const id = this.nodes.length;
    this.nodes.push({ id, phase: this.phase, ...fields });
    return id;
  }
}
