/**
 * Errors by whose fault they are. `shared/rpc/status.ts` maps each class to one gRPC status.
 * Message form: "where: what, with values; what to do".
 */

/** One fault of a job spec or of a call's arguments. */
export interface Fault {
  /** Field path in the spec, e.g. `mesh.tensorParallel` or `plan["w1"]`; empty when no field is at fault. */
  readonly path: string;
  readonly message: string;
}

/** Base of every error this project throws on purpose. */
export abstract class RankmeshError extends Error {
  abstract readonly code: string;

  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The caller's fault: carries every fault found, not only the first. */
export class InvalidArgumentError extends RankmeshError {
  readonly code = "INVALID_ARGUMENT";
  readonly faults: readonly Fault[];

  constructor(faults: readonly Fault[] | string, options?: { cause?: unknown }) {
    const list = typeof faults === "string" ? [{ path: "", message: faults }] : faults;
    super(list.map((f) => (f.path ? `${f.path}: ${f.message}` : f.message)).join("\n"), options);
    this.faults = list;
  }
}

/** The request is fine, but the present workers or state cannot serve it. */
export class FailedPreconditionError extends RankmeshError {
  readonly code = "FAILED_PRECONDITION";
}

/** A limit on size or count was passed. */
export class ResourceExhaustedError extends RankmeshError {
  readonly code = "RESOURCE_EXHAUSTED";
}

/** Work took longer than it may. */
export class DeadlineExceededError extends RankmeshError {
  readonly code = "DEADLINE_EXCEEDED";
}

export class NotFoundError extends RankmeshError {
  readonly code = "NOT_FOUND";
}

export class AlreadyExistsError extends RankmeshError {
  readonly code = "ALREADY_EXISTS";
}

/** The job or call was cancelled on request. */
export class CancelledError extends RankmeshError {
  readonly code = "CANCELLED";
}

/** Nobody answers at the other end (connection refused, lost, or deadline passed). */
export class UnavailableError extends RankmeshError {
  readonly code = "UNAVAILABLE";
}

/** Data that is present but wrong: a hash or a checksum that does not match. */
export class DataLossError extends RankmeshError {
  readonly code = "DATA_LOSS";
}

/** A peer failed, vanished, sent the wrong thing, or kept silent past a deadline. Names both ends. */
export class PeerError extends RankmeshError {
  readonly code: "UNAVAILABLE" | "DEADLINE_EXCEEDED" | "ABORTED" | "DATA_LOSS";
  /** Rank that noticed. */
  readonly rank: number;
  /** Rank it speaks of. */
  readonly peer: number;
  /** 0-based step at which it happened, when known. */
  readonly step: number | undefined;

  constructor(
    message: string,
    at: {
      code: "UNAVAILABLE" | "DEADLINE_EXCEEDED" | "ABORTED" | "DATA_LOSS";
      rank: number;
      peer: number;
      step?: number;
      cause?: unknown;
    },
  ) {
    super(message, { cause: at.cause });
    this.code = at.code;
    this.rank = at.rank;
    this.peer = at.peer;
    this.step = at.step;
  }
}

/** A call of a device's driver or library failed. Names the call, its status and its arguments. */
export class DeviceError extends RankmeshError {
  readonly code: "RESOURCE_EXHAUSTED" | "UNAVAILABLE";
  /** Function of the driver or library: `cuMemAlloc_v2`. */
  readonly call: string;
  /** `CUDA_ERROR_OUT_OF_MEMORY` */
  readonly status: string;
  /** The process cannot use the device any more: whatever comes next fails too. */
  readonly fatal: boolean;

  constructor(
    message: string,
    at: {
      readonly code: DeviceError["code"];
      readonly call: string;
      readonly status: string;
      readonly fatal: boolean;
    },
  ) {
    super(message);
    this.code = at.code;
    this.call = at.call;
    this.status = at.status;
    this.fatal = at.fatal;
  }
}

/** A broken invariant: our fault, never the user's. */
export class InternalError extends RankmeshError {
  readonly code = "INTERNAL";

  constructor(message: string, options?: { cause?: unknown }) {
    super(`internal: ${message}`, options);
  }
}

/** Closes a switch over a union: the compiler proves that it is never reached. */
export function unreachable(value: never, what: string): never {
  throw new InternalError(`unknown ${what}: ${JSON.stringify(value)}`);
}
