import { InvalidArgumentError, RankmeshError } from "../../shared/errors.ts";
import { nearestNames } from "../../shared/nearest.ts";
import { quote } from "../../shared/quote.ts";
import type { BackendChoice } from "../compute/backend-loader.ts";
import type { Backend, BackendName } from "./backend.ts";
import { CpuBackend } from "./cpu/cpu-backend.ts";
import { CudaBackend } from "./cuda/cuda-backend.ts";
import { createGpujs } from "./gpujs/create-gpujs.ts";
import { ReferenceBackend } from "./reference/reference-backend.ts";

/** A backend, and why it is this one. */
export type ChosenBackend = Backend & { readonly reason: string };

/** A backend, and what else is to be said of how it came about. */
type Made = Backend & { readonly note?: string };

const MAKERS: Readonly<Record<BackendName, (choice: BackendChoice) => Made>> = {
  cuda: ({ device }) => new CudaBackend({ device, tf32: process.env["RANKMESH_TF32"] === "1" }),
  cpu: ({ device, threads }) => {
    hostOnly(device);
    return new CpuBackend({ threads });
  },
  gpujs: createGpujs,
  reference: ({ device }) => {
    hostOnly(device);
    return new ReferenceBackend();
  },
};

/**
 * What `auto` tries, fastest first. gpujs is for who asks for it: in its WebAssembly mode it needs what cpu needs and is slower,
 * and whether a GPU beats the host's BLAS through WebGPU is nothing that can be told from here.
 */
const AUTO: readonly BackendName[] = ["cuda", "cpu", "reference"];

/**
 * Makes the backend that was asked for; `auto` takes the fastest that runs here. `reason` says how it came about.
 * @throws InvalidArgumentError for a name or device that does not exist
 * @throws FailedPreconditionError when the backend asked for by name cannot run here
 */
export function createBackend(choice: BackendChoice): ChosenBackend {
  const { backend, threads } = choice;
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1)) {
    throw new InvalidArgumentError(`threads: ${threads} is not a whole number of at least 1`);
  }
  if (backend === "auto") return fastest(choice);
  if (isBackend(backend)) return chosen(MAKERS[backend](choice), "asked for by name");
  const names = ["auto", ...Object.keys(MAKERS)];
  const [nearest] = nearestNames(backend, names);
  const hint = nearest === undefined ? "" : `; did you mean ${nearest}?`;
  throw new InvalidArgumentError(
    `backend ${quote(backend)} is not one of ${names.join(", ")}${hint}`,
  );
}

function fastest(choice: BackendChoice): ChosenBackend {
  const refused: string[] = [];
  for (const name of AUTO) {
    try {
      const backend = MAKERS[name](choice);
      const others = refused.length === 0 ? "" : ` (${refused.join("; ")})`;
      return chosen(backend, `auto: the fastest that runs here${others}`);
    } catch (error) {
      if (!(error instanceof RankmeshError)) throw error;
      refused.push(`no ${name}: ${error.message.replace(`${name} backend: `, "")}`);
    }
  }
  throw new InvalidArgumentError(`backend auto: nothing runs here: ${refused.join("; ")}`);
}

function isBackend(name: string): name is BackendName {
  return Object.hasOwn(MAKERS, name);
}

function hostOnly(device: string): void {
  if (device === "" || device === "cpu") return;
  throw new InvalidArgumentError(
    `device ${quote(device)}: this backend computes on the host's processor; leave it out or say "cpu"`,
  );
}

function chosen(backend: Made, reason: string): ChosenBackend {
  const note = backend.note === undefined ? "" : ` (${backend.note})`;
  return Object.assign(backend, { reason: `${reason}${note}` });
}
