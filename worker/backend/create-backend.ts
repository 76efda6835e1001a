import { FailedPreconditionError, InvalidArgumentError } from "../../shared/errors.ts";
import { nearestNames } from "../../shared/nearest.ts";
import { quote } from "../../shared/quote.ts";
import type { BackendChoice } from "../compute/backend-loader.ts";
import type { Backend } from "./backend.ts";
import { CpuBackend } from "./cpu/cpu-backend.ts";
import { ReferenceBackend } from "./reference/reference-backend.ts";

/** A backend, and why it is this one. */
export type ChosenBackend = Backend & { readonly reason: string };

const NAMES = ["auto", "cpu", "reference"];

/**
 * Makes the backend that was asked for; `auto` takes the fastest that runs here. `reason` says how it came about.
 * @throws InvalidArgumentError for a name or device that does not exist
 * @throws FailedPreconditionError when the backend asked for by name cannot run here
 */
export function createBackend({ backend, device, threads }: BackendChoice): ChosenBackend {
  if (device !== "" && device !== "cpu") {
    throw new InvalidArgumentError(
      `device ${quote(device)}: this build computes on the host's processor; leave it out or say "cpu"`,
    );
  }
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1)) {
    throw new InvalidArgumentError(`threads: ${threads} is not a whole number of at least 1`);
  }
  switch (backend) {
    case "cpu":
      return chosen(new CpuBackend({ threads }), "asked for by name");
    case "reference":
      return chosen(new ReferenceBackend(), "asked for by name");
    case "auto":
      return fastest(threads);
    default: {
      const [nearest] = nearestNames(backend, NAMES);
      const hint = nearest === undefined ? "" : `; did you mean ${nearest}?`;
      throw new InvalidArgumentError(
        `backend ${quote(backend)} is not one of ${NAMES.join(", ")}${hint}`,
      );
    }
  }
}

function fastest(threads: number | undefined): ChosenBackend {
  try {
    return chosen(new CpuBackend({ threads }), "auto: the fastest that runs here");
  } catch (error) {
    if (!(error instanceof FailedPreconditionError)) throw error;
    return chosen(
      new ReferenceBackend(),
      `auto: slow, but the only one that runs here (${error.message})`,
    );
  }
}

function chosen(backend: Backend, reason: string): ChosenBackend {
  return Object.assign(backend, { reason });
}
