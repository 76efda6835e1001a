import { opDefinition } from "../../compiler/ops/index.ts";
import type { ComputeInstruction, Precision, Program, Slot } from "../../shared/program/program.ts";
import type { Ceilings } from "./ceilings.ts";

/** The least that an instruction costs. */
export interface OpCost {
  /** Bytes that must come from memory or go there: each operand once, what is updated in place twice. */
  readonly bytes: number;
  readonly flops: number;
  /** What its products are formed in. */
  readonly precision: Precision;
}

/** Inputs of which not all is read. */
const READ_IN_PART: Readonly<Record<string, (inputs: readonly Slot[], output: Slot) => number>> = {
  // As many rows of the table as there are tokens.
  embedding: ([ids], y) => (ids?.sizeBytes ?? 0) + y.sizeBytes,
};

/** Operations that are products, of matrices or of queries and keys: others are bounded by memory alone. */
const PRODUCTS = /^(?:linear|linearDx|linearDw|attention.*|.*FromFactors)$/;

export function opCost(program: Program, instruction: ComputeInstruction): OpCost {
  const slots = (indices: readonly number[]): Slot[] =>
    indices.flatMap((index) => program.slots[index] ?? []);
  // Working space of a kernel is its own affair.
  const inputs = slots(instruction.inputs).filter(({ name }) => !name.startsWith("scratch"));
  const outputs = slots(instruction.outputs);
  const [output] = outputs;
  if (output === undefined) return { bytes: 0, flops: 0, precision: "float32" };
  const sum = (operands: readonly Slot[]): number =>
    operands.reduce((total, { sizeBytes }) => total + sizeBytes, 0);
  const { op, attrs } = instruction;
  const read = READ_IN_PART[op]?.(inputs, output) ?? sum(inputs);
  // A causal token sees half of all tokens, on average.
  const share = attrs["causal"] === 1 ? 0.5 : 1;
  return {
    bytes: read + sum(outputs),
    flops: PRODUCTS.test(op) ? share * opDefinition(op).flops(inputs, output) : 0,
    precision: inputs.some(({ dtype }) => dtype === "bfloat16") ? "bfloat16" : "float32",
  };
}

/** Seconds below which nothing runs on a device of these ceilings, and which of them it is. */
export function floorOf(
  { bytes, flops, precision }: OpCost,
  ceilings: Pick<Ceilings, "bandwidth" | "flops">,
): { readonly seconds: number; readonly by: "memory" | "products" } {
  const [memory, products] = [bytes / ceilings.bandwidth, flops / ceilings.flops[precision]];
  return memory >= products
    ? { seconds: memory, by: "memory" }
    : { seconds: products, by: "products" };
}
