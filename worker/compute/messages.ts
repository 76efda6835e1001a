import type { RoundSchedule } from "../../shared/job/rounds.ts";
import type { Program } from "../../shared/program/program.ts";
import type { CollectiveOperands, EndedCollective, ExchangeOptions } from "../backend/backend.ts";
import type { BackendChoice } from "./backend-loader.ts";
import type { PhaseSeconds } from "./step-phases.ts";

/** What a compute thread is started with. */
export interface ComputeStart {
  /** URL of the module that exports `createBackend`. */
  readonly backendModule: string;
  readonly backend: BackendChoice;
  readonly program: Program;
  readonly rank: number;
  readonly control: SharedArrayBuffer;
  readonly batches: SharedArrayBuffer;
  /** The main thread counts as dead after this long without a tick. */
  readonly silenceMs: number;
  /** Collectives run on the device; undefined: by the main thread. */
  readonly exchange: ComputeExchange | undefined;
}

/** How collectives run on the device. */
export interface ComputeExchange extends ExchangeOptions {
  /** This rank makes what all meet by. */
  readonly makesIds: boolean;
}

/** Main thread to compute thread. While `run` is under way the rest waits; the control block reaches it at once. */
export type ComputeRequest =
  | { readonly kind: "initialize"; readonly stored: readonly number[]; readonly seed: number }
  | {
      readonly kind: "write" | "read";
      readonly id: number;
      readonly slot: number;
      readonly offsetBytes: number;
      readonly lengthBytes: number;
      /** Moved there and back: no copy, no garbage. */
      readonly buffer: ArrayBuffer;
    }
  /** `exchangeIds`: what the ranks meet by, where collectives run on the device. */
  | { readonly kind: "run"; readonly schedule: RoundSchedule; readonly exchangeIds: Uint8Array }
  | { readonly kind: "dispose" };

/** Compute thread to main thread; a bare number is the index of a collective that was started. */
export type ComputeReply =
  | number
  | {
      readonly kind: "loaded";
      readonly device: string;
      readonly addresses: CollectiveAddresses;
      readonly memory: MemoryReport;
      /** Of the rank that makes them; else empty. */
      readonly exchangeIds: Uint8Array;
    }
  | { readonly kind: "initialized" }
  | { readonly kind: "moved"; readonly id: number; readonly buffer: ArrayBuffer }
  /** More pieces of the input of a collective that was started are there. */
  | { readonly kind: "pieces"; readonly collective: number }
  | { readonly kind: "roomForBatches" }
  /** Collectives that ran on the device. */
  | { readonly kind: "collectives"; readonly ended: readonly EndedCollective[] }
  | { readonly kind: "step"; readonly report: StepResult }
  | { readonly kind: "evaluation"; readonly report: EvaluationResult }
  | { readonly kind: "finished"; readonly memory: MemoryReport }
  /** The abort flag ended the request under way. */
  | { readonly kind: "aborted"; readonly step: number | undefined }
  | { readonly kind: "failed"; readonly error: PlainError }
  /** `error` is what could not be given back, or what says that the device is lost. */
  | {
      readonly kind: "disposed";
      readonly heldBytes: number;
      readonly error: PlainError | undefined;
    };

/** Where the operands of collective i lie in this process; none where collectives run on the device. */
export type CollectiveAddresses = readonly CollectiveOperands[];

export interface MemoryReport {
  readonly currentBytes: number;
  readonly peakBytes: number;
  readonly byKind: Readonly<Record<string, number>>;
}

export interface StepResult {
  /** 0-based. */
  readonly step: number;
  readonly loss: number;
  readonly gradNorm: number | undefined;
  /** Wall time from the end of the step before, or of the evaluation since; of the first step, from the start. */
  readonly seconds: number;
  /** What these seconds went to. */
  readonly phases: PhaseSeconds;
  readonly batchHash: number;
  readonly peakMemoryBytes: number;
}

/** One batch of an evaluation. */
export interface EvaluationResult {
  /** Last step done. */
  readonly step: number;
  /** Number of the batch in the evaluation. */
  readonly batch: number;
  readonly loss: number;
  readonly batchHash: number;
}

/** An error as it crosses threads: classes do not. */
export interface PlainError {
  /** gRPC status name; undefined for an error that is not ours. */
  readonly code: string | undefined;
  readonly message: string;
  readonly stack: string | undefined;
  readonly step: number | undefined;
  /** Of a PeerError. */
  readonly peer: { readonly rank: number; readonly peer: number } | undefined;
  /** Of a DeviceError. */
  readonly device:
    | { readonly call: string; readonly status: string; readonly fatal: boolean }
    | undefined;
}
