import { CommanderError } from "commander";
import { DeviceError, RankmeshError } from "../shared/errors.ts";

/** What the process says to its caller. */
export const EXIT = {
  done: 0,
  jobFailed: 1,
  usage: 2,
  unreachable: 3,
  notAllowed: 4,
  interrupted: 130,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** The command line was used wrongly: a flag, a file or a combination of them. */
export class UsageError extends RankmeshError {
  readonly code = "INVALID_ARGUMENT";
}

/** Ends the command with a code after all there is to say has been said. */
export class ExitRequest extends Error {
  readonly exitCode: ExitCode;

  constructor(exitCode: ExitCode) {
    super(`exit ${exitCode}`);
    this.exitCode = exitCode;
  }
}

/** The exit code for an error that ended a command. */
export function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof ExitRequest) return error.exitCode;
  // Its codes are those of a job that it ends: the device does not answer, not a server.
  if (error instanceof DeviceError) return EXIT.jobFailed;
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
  return exitCodeOfStatus(codeOf(error));
}

/** The exit code for a gRPC status name. */
export function exitCodeOfStatus(code: string | undefined): ExitCode {
  switch (code) {
    case "INVALID_ARGUMENT":
    case "NOT_FOUND":
    case "ALREADY_EXISTS":
    case "RESOURCE_EXHAUSTED":
    case "OUT_OF_RANGE":
    case "UNIMPLEMENTED":
      return EXIT.usage;
    case "UNAVAILABLE":
    case "DEADLINE_EXCEEDED":
      return EXIT.unreachable;
    case "PERMISSION_DENIED":
    case "UNAUTHENTICATED":
      return EXIT.notAllowed;
    default:
      return EXIT.jobFailed;
  }
}

function codeOf(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  const { code } = error;
  // No class of ours stands for these two; the gRPC error is the cause of the one that carries its text.
  const status = "cause" in error ? statusOf(error.cause) : undefined;
  if (status === GRPC_PERMISSION_DENIED) return "PERMISSION_DENIED";
  if (status === GRPC_UNAUTHENTICATED) return "UNAUTHENTICATED";
  return typeof code === "string" ? code : undefined;
}

const GRPC_PERMISSION_DENIED = 7;
const GRPC_UNAUTHENTICATED = 16;

function statusOf(error: unknown): unknown {
  return typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
}
