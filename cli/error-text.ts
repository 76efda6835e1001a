import { CommanderError } from "commander";
import { InternalError, InvalidArgumentError, RankmeshError } from "../shared/errors.ts";
import { ExitRequest } from "./exit-codes.ts";
import { plural, printable } from "./format.ts";

/** What a failed command says to its user: one line a fault, a stack only where the fault is ours. */
export function errorLines(error: unknown): string[] {
  return linesOf(error).map(printable);
}

function linesOf(error: unknown): string[] {
  // These have said what there is to say already.
  if (error instanceof ExitRequest || error instanceof CommanderError) return [];
  if (error instanceof InvalidArgumentError && error.faults.some((fault) => fault.path !== "")) {
    const lines = error.faults.map(
      ({ path, message }) => `  ${path === "" ? "" : `${path}: `}${message}`,
    );
    return [`rankmesh: the job is not valid (${plural(error.faults.length, "fault")}):`, ...lines];
  }
  if (error instanceof RankmeshError && !(error instanceof InternalError))
    return [`rankmesh: ${error.message}`];
  if (error instanceof Error) return [`rankmesh: ${error.stack ?? error.message}`];
  return [`rankmesh: ${String(error)}`];
}
