// What expectations of ops are written in.
import type { Mesh } from "../../shared/mesh/mesh.ts";
import type { StepScalars } from "../../shared/optimizer/step-scalars.ts";

export interface OpOperands {
  /** Values of every input before the call. */
  readonly inputs: readonly (readonly number[])[];
  readonly shapes: readonly (readonly number[])[];
  readonly attrs: Readonly<Record<string, number>>;
  readonly scalars: StepScalars;
  /** Size of the mesh axis that attrs.axis names, and this rank's coordinate on it. */
  readonly axisSize: number;
  readonly coordinate: number;
  readonly mesh: Mesh;
  /** This rank's coordinate on every axis of the mesh. */
  readonly coordinates: readonly number[];
  readonly outputLength: number;
  readonly outputShape: readonly number[];
}

/** Values of every output. */
export type Expected = (o: OpOperands) => number[][];

export const product = (shape: readonly number[]): number => shape.reduce((p, n) => p * n, 1);
export const get = (list: readonly number[] | undefined, i: number): number =>
  list?.[i] ?? Number.NaN;
export const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
export const sum = (n: number, term: (i: number) => number): number => {
  let total = 0;
  for (let i = 0; i < n; i++) total += term(i);
  return total;
};
export const map =
  (f: (...x: number[]) => number): Expected =>
  ({ inputs, outputLength }) => [
    range(outputLength).map((i) => f(...inputs.map((x) => get(x, i)))),
  ];
