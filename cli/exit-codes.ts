import { CommanderError } from "commander";
import { RankmeshError } from "../shared/errors.ts";

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
  return typeof error.code === "string" ? error.code : undefined;
}
