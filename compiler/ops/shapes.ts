import { InternalError, InvalidArgumentError } from "../../shared/errors.ts";
import { type Placement, partOf, shard } from "../../shared/mesh/placement.ts";
import type {
  Attrs,
  NumberArray,
  ReferenceCall,
  ReferenceTensor,
  StrategyRow,
  ValueType,
} from "./op.ts";

export function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Product of all dims but the last: the rows that a linear layer sees. */
export function rowCount(shape: readonly number[]): number {
  return elements(shape.slice(0, -1));
}

export function lastDim(shape: readonly number[]): number {
  const last = shape.at(-1);
  if (last === undefined) throw new InvalidArgumentError("a scalar has no last dim");
  return last;
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}

export function show(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

export const scalar = (dtype: ValueType["dtype"] = "float32"): ValueType => ({ shape: [], dtype });

export function operand<T>(list: readonly T[], index: number): T {
  const found = list[index];
  if (found === undefined) throw new InternalError(`operand ${index} of ${list.length} is missing`);
  return found;
}

export function attr(attrs: Attrs, name: string): number {
  const value = attrs[name];
  if (value === undefined) throw new InternalError(`attribute ${name} is missing`);
  return value;
}

/** Data of input or output `index` of a reference call. */
export const inputOf = (call: ReferenceCall, index: number): ReferenceTensor =>
  operand(call.inputs, index);
export const outputOf = (call: ReferenceCall, index = 0): ReferenceTensor =>
  operand(call.outputs, index);

/** Bounds are the loops' affair: every index used is below the array's length. */
export const at = (data: NumberArray, index: number): number => data[index] as number;

/** @throws InvalidArgumentError naming op and shapes when the operands are not all of one shape. */
export function inferSame(op: string, inputs: readonly ValueType[]): ValueType {
  const first = operand(inputs, 0);
  for (const other of inputs) {
    if (!sameShape(first.shape, other.shape)) {
      throw new InvalidArgumentError(
        `${op}: shapes differ: ${show(first.shape)} and ${show(other.shape)}`,
      );
    }
    if (other.dtype !== first.dtype) {
      throw new InvalidArgumentError(`${op}: dtypes differ: ${first.dtype} and ${other.dtype}`);
    }
  }
  return first;
}

/** What activations may be. */
export const isFloat = (dtype: ValueType["dtype"]): boolean =>
  dtype === "float32" || dtype === "bfloat16";

/** As `inferSame`, of floats: token ids have no arithmetic. */
export function inferFloats(op: string, inputs: readonly ValueType[]): ValueType {
  const type = inferSame(op, inputs);
  checkFloats(op, [type]);
  return type;
}

/** @throws InvalidArgumentError naming op and operand for an operand that is not of floats. */
export function checkFloats(op: string, inputs: readonly ValueType[]): void {
  inputs.forEach(({ shape, dtype }, i) => {
    if (dtype === "int32")
      throw new InvalidArgumentError(
        `${op}: input ${i} is int32${show(shape)}; it must be of floats`,
      );
  });
}

/** Which of how many parts of a dim this rank holds, by position attribute `name`; the whole where it is not set. */
export const placeOf = (
  call: ReferenceCall,
  name: string,
): { readonly index: number; readonly parts: number } =>
  partOf(call.attrs[name] ?? 0, call.mesh, call.coordinates);

/** Rows in which `count` operands and the output are split along the same dim. */
export function splitTogether(count: number, dims: readonly number[]): StrategyRow[] {
  return dims.map((dim) => ({
    inputs: new Array<Placement>(count).fill(shard(dim)),
    output: shard(dim),
  }));
}

export const row = (inputs: readonly Placement[], output: Placement): StrategyRow => ({
  inputs,
  output,
});

export const allDims = (type: ValueType): number[] => type.shape.map((_, dim) => dim);
export const leadDims = (type: ValueType): number[] => allDims(type).slice(0, -1);
