import {
  DataLossError,
  FailedPreconditionError,
  InternalError,
  InvalidArgumentError,
  RankmeshError,
  ResourceExhaustedError,
} from "../../shared/errors.ts";
import type { PlainError } from "./messages.ts";

/** The error as plain data, to cross from thread to thread. */
export function toPlainError(error: unknown, step?: number): PlainError {
  return {
    code: error instanceof RankmeshError ? error.code : undefined,
    message: error instanceof Error ? error.message : String(error),
    stack: error instanceof Error ? error.stack : undefined,
    step,
  };
}

/** The error again, of the class its code stands for. Its stack is the other thread's. */
export function fromPlainError(plain: PlainError): Error {
  const error = rebuild(plain);
  if (plain.stack !== undefined) error.stack = plain.stack;
  return error;
}

function rebuild({ code, message }: PlainError): Error {
  switch (code) {
    case "INVALID_ARGUMENT":
      return new InvalidArgumentError(message);
    case "FAILED_PRECONDITION":
      return new FailedPreconditionError(message);
    case "RESOURCE_EXHAUSTED":
      return new ResourceExhaustedError(message);
    case "DATA_LOSS":
      return new DataLossError(message);
    default:
      return new InternalError(message.replace(/^internal: /, ""));
  }
}
