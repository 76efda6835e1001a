import {
  DataLossError,
  DeviceError,
  FailedPreconditionError,
  InternalError,
  InvalidArgumentError,
  PeerError,
  RankmeshError,
  ResourceExhaustedError,
  UnavailableError,
} from "../../shared/errors.ts";
import type { PlainError } from "./messages.ts";

/** The error as plain data, to cross from thread to thread. */
export function toPlainError(error: unknown, step?: number): PlainError {
  return {
    code: error instanceof RankmeshError ? error.code : undefined,
    message: error instanceof Error ? error.message : String(error),
    stack: error instanceof Error ? error.stack : undefined,
    step,
    peer: error instanceof PeerError ? { rank: error.rank, peer: error.peer } : undefined,
    device: error instanceof DeviceError ? deviceFacts(error) : undefined,
  };
}

function deviceFacts({ call, status, fatal }: DeviceError): PlainError["device"] {
  return { call, status, fatal };
}

/** The error again, of the class its code stands for. Its stack is the other thread's. */
export function fromPlainError(plain: PlainError): Error {
  const error = rebuild(plain);
  if (plain.stack !== undefined) error.stack = plain.stack;
  return error;
}

function rebuild({ code, message, device, peer, step }: PlainError): Error {
  if (peer !== undefined && isPeerCode(code)) {
    return new PeerError(message, { code, ...peer, ...(step === undefined ? {} : { step }) });
  }
  if (device !== undefined && (code === "RESOURCE_EXHAUSTED" || code === "UNAVAILABLE")) {
    return new DeviceError(message, { code, ...device });
  }
  switch (code) {
    case "INVALID_ARGUMENT":
      return new InvalidArgumentError(message);
    case "FAILED_PRECONDITION":
      return new FailedPreconditionError(message);
    case "RESOURCE_EXHAUSTED":
      return new ResourceExhaustedError(message);
    case "DATA_LOSS":
      return new DataLossError(message);
    case "UNAVAILABLE":
      return new UnavailableError(message);
    default:
      return new InternalError(message.replace(/^internal: /, ""));
  }
}

const PEER_CODES: readonly PeerError["code"][] = [
  "UNAVAILABLE",
  "DEADLINE_EXCEEDED",
  "ABORTED",
  "DATA_LOSS",
];

function isPeerCode(code: string | undefined): code is PeerError["code"] {
  return PEER_CODES.some((known) => known === code);
}
