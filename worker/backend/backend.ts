import type { StepScalars } from "../../shared/optimizer/step-scalars.ts";
import type {
  ComputeInstruction,
  Precision,
  Program,
  StoredTensor,
} from "../../shared/program/program.ts";
import type { OperandPieces } from "../collective/operand-pieces.ts";

export type BackendName = "cuda" | "cpu" | "gpujs" | "reference";

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
  /** What programs may hold their activations in. */
  readonly precisions: readonly Precision[];
  /** Everything asked of the system, by kind. */
  readonly memory: MemoryAccount;
  /** What it takes beside an arena when it loads a program: part of a rank's peak. */
  readonly workspaceBytes: number;
  /** Memory of the device; undefined where that is the host's. */
  readonly memoryBytes?: number;
  /** Absent where collectives always take their operands from the host. */
  readonly exchange?: ExchangeOffer;
  /**
   * Allocates the arena and binds every instruction. One program at a time.
   * @param exchange run collectives on the device; for backends that offer it
   * @throws RankmeshError when memory is refused.
   */
  load(program: Program, rank: number, exchange?: ExchangeOptions): LoadedProgram;
  /**
   * Gives back what it holds beside programs, all of which are disposed of. It may load again.
   * @throws DeviceError where the device is lost, when nothing is held any more
   */
  close(): void;
}

/** A backend's offer to run collectives from device to device, without the host. */
export interface ExchangeOffer {
  /** Version of NCCL: ranks exchange with their like. */
  readonly ncclVersion: string;
  /** Ranks on one device cannot exchange so. */
  readonly deviceUuid: string;
}

export interface ExchangeOptions {
  /** A collective that could begin and does not end for this long is an error. */
  readonly timeoutMs: number;
}

export interface LoadedProgram {
  /** Where collectives run on the device: what starts one, or waits for one, is then done for it, and the host goes on at once. */
  readonly exchange?: DeviceExchange | undefined;
  /**
   * Runs compute instructions of the program (the objects must be its own) in order. Give the same array for the same
   * stretch of the program: devices record what it launches and replay it. `between` is called now and then; it may throw.
   */
  run(
    instructions: readonly ComputeInstruction[],
    scalars: StepScalars,
    between?: () => void,
  ): void;
  /** Fills a stored tensor's slice by its init spec, keyed by seed, name and global element index. */
  initialize(tensor: StoredTensor, seed: number): void;
  /** Copies bytes into a slot at `offsetBytes`. @throws InternalError past the slot's end. */
  write(slot: number, bytes: Uint8Array, offsetBytes?: number): void;
  /** Copies bytes out of a slot. */
  read(slot: number, into: Uint8Array, offsetBytes?: number): void;
  /** Where another thread of this process finds the operands of collective `index`: the same for as long as the program is loaded. */
  collectiveOperands(index: number): CollectiveOperands;
  /** Begins to bring the input of collective `index`, as instructions before make it, to its operand. */
  startCollective(index: number): void;
  /**
   * Whether it is there; of operands in pieces, whether the first `place` + 1 in their order are. With `wait`, returns true
   * when it is.
   */
  collectiveReady(index: number, wait: boolean, place?: number): boolean;
  /** Of operands in pieces: those of the output whose bits are set are as they stay, and may go to where instructions read them. */
  returnPieces?(index: number, pieces: number): void;
  /** Collective `index` has left its result in its operand: makes it what later instructions read. */
  finishCollective(index: number): void;
  /** Waits until all work handed over is done. */
  synchronize(): void;
  /** Frees the arena. Use after it throws. */
  dispose(): void;
}

/** Collectives of a loaded program that run on devices. */
export interface DeviceExchange {
  /** What the ranks of a job meet by, made by one of them for all. It serves once. */
  makeIds(): Uint8Array;
  /**
   * Meets the other ranks; before the first collective.
   * @param guard called while this, and whatever the host waits for from now on, takes its time; what it throws ends the wait
   * @throws PeerError when they do not come in time
   */
  connect(ids: Uint8Array, guard: () => void): void;
  /** Collectives that have ended since it was last asked. */
  ended(): EndedCollective[];
}

/** One run of a collective, by the device's clock. */
export interface EndedCollective {
  readonly collective: number;
  readonly seconds: number;
}

/** Addresses of host memory. They overlap as the collective's slots do. */
export interface CollectiveOperands {
  readonly input: bigint;
  readonly output: bigint;
  /** Where the input comes, and the output goes, in pieces while the collective runs. */
  readonly pieces?: OperandPieces | undefined;
}

/** High-water mark of what a backend asked the system for. Sampling nothing, it misses nothing. */
export interface MemoryAccount {
  allocate(kind: string, bytes: number): void;
  free(kind: string, bytes: number): void;
  /** Bytes of `kind` that something else asked for on its behalf (a driver's context): told, and no part of the sums. */
  observe(kind: string, bytes: number): void;
  readonly currentBytes: number;
  readonly peakBytes: number;
  /** Bytes held now by kind: `arena` parts as the program names them, `workspace`, and what was observed. */
  byKind(): Readonly<Record<string, number>>;
}
