import type { StepScalars } from "../../shared/optimizer/step-scalars.ts";
import type { ComputeInstruction, Program, StoredTensor } from "../../shared/program/program.ts";

export type BackendName = "cpu" | "reference";

/**
 * A device that runs a program's compute instructions. It lives in the compute thread; every call is synchronous.
 * Backends know slots, shapes and ops, and nothing of meshes, gRPC or jobs.
 */
export interface Backend {
  readonly name: BackendName;
  /** What it computes with, for logs and the gang's fingerprint: `OpenBLAS 0.3.21 Zen, 2 threads, x86-64`. */
  readonly device: string;
  /** Equal on two hosts whose copies of a value come out bit-identical: backend, build, BLAS and its core, threads, CPU. */
  readonly fingerprint: string;
  /** Everything asked of the system, by kind. */
  readonly memory: MemoryAccount;
  /** Allocates the arena and binds every instruction. One program at a time. @throws RankmeshError when memory is refused. */
  load(program: Program, rank: number): LoadedProgram;
}

export interface LoadedProgram {
  /** Runs one compute instruction of the program (the object must be one of its own). */
  run(instruction: ComputeInstruction, scalars: StepScalars): void;
  /** Fills a stored tensor's slice by its init spec, keyed by seed, name and global element index. */
  initialize(tensor: StoredTensor, seed: number): void;
  /** Copies bytes into a slot at `offsetBytes`. @throws InternalError past the slot's end. */
  write(slot: number, bytes: Uint8Array, offsetBytes?: number): void;
  /** Copies bytes out of a slot. */
  read(slot: number, into: Uint8Array, offsetBytes?: number): void;
  /** Address of host-visible arena memory, for collectives run by another thread of this process. */
  hostAddress(slot: number): bigint;
  /** Waits until all work handed over is done. */
  synchronize(): void;
  /** Frees the arena. Use after it throws. */
  dispose(): void;
}

/** High-water mark of what a backend asked the system for. Sampling nothing, it misses nothing. */
export interface MemoryAccount {
  allocate(kind: string, bytes: number): void;
  free(kind: string, bytes: number): void;
  readonly currentBytes: number;
  readonly peakBytes: number;
  /** Bytes held now by kind: `arena` parts as the program names them, `workspace`. */
  byKind(): Readonly<Record<string, number>>;
}
