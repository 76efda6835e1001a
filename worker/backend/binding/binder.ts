import type { Mesh } from "../../../shared/mesh/mesh.ts";
import { partOf } from "../../../shared/mesh/placement.ts";
import type { StepScalars } from "../../../shared/optimizer/step-scalars.ts";
import { dtypeBytes } from "../../../shared/program/program.ts";
import type { Address, Kernels } from "../kernels.ts";
import type { Operand, Operands } from "./operands.ts";

/** One instruction with everything but the step's scalars resolved. */
export interface BoundInstruction {
  (scalars: StepScalars): void;
  /** Its kernels' arguments differ from step to step: a device cannot record them once and replay them. */
  readonly perStep?: true;
}

export function perStep(run: (scalars: StepScalars) => void): BoundInstruction {
  return Object.assign(run, { perStep: true as const });
}

/** What binding needs beside the operands. */
export interface BindContext {
  /** Those for the instruction's precision. */
  readonly kernels: Kernels;
  /** The step's scalars where kernels read them. */
  readonly scalars: { readonly address: Address };
  readonly mesh: Mesh;
  /** This rank's, one per mesh axis. */
  readonly coordinates: readonly number[];
}

/** Resolves one instruction; checks all that the kernel takes on trust. */
export type Binder = (o: Operands, c: BindContext) => BoundInstruction;

/** Which of how many parts of a dim this rank holds, where attribute `name` is the bit mask of the axes that split it. */
export function partAt(
  o: Operands,
  { mesh, coordinates }: BindContext,
  name: string,
): { readonly index: number; readonly parts: number } {
  const axes = o.attr(name);
  if (!Number.isInteger(axes) || axes < 0 || axes >= 2 ** mesh.axes.length) {
    o.fail(`attribute ${name} is ${axes}, no set of the mesh's ${mesh.axes.length} axes`);
  }
  return partOf(axes, mesh, coordinates);
}

/** Copies all bytes of one operand to another of the same dtype and size; nothing to do where they are the same bytes. */
export function copyAll(kernels: Kernels, from: Operand, to: Operand): () => void {
  if (from.address === to.address) return () => undefined;
  const bytes = from.n * dtypeBytes(from.dtype);
  return () => kernels.copy(to.address, bytes, from.address, bytes, bytes, 1);
}

/** Output 0 with the dtype of input 0, of `n` elements. */
export function sameType(o: Operands, n: number): Operand {
  return o.output(0, n, o.anyInput(0).dtype);
}
