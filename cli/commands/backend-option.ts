import { InvalidArgumentError, type Option } from "commander";
import { nearestNames } from "../../shared/nearest.ts";
import { envOption } from "../option-values.ts";

/** Backends that `--backend` takes; `auto` is the best one that runs on the machine. */
const BACKENDS = ["auto", "cuda", "cpu", "gpujs", "reference"];

/** `--backend` / RANKMESH_BACKEND. */
export function backendOption(): Option {
  return envOption("--backend <name>", "what computes", "BACKEND")
    .choices(BACKENDS)
    .default("auto");
}

/** `--device` / RANKMESH_DEVICE of one worker. */
export function deviceOption(): Option {
  return envOption(
    "--device <name>",
    "device of the backend: of cuda, an index or a UUID (default: the first)",
    "DEVICE",
  );
}

/** `--backend cpu,cuda,gpujs`: those of the ranks, in turn. */
export function backendsOption(): Option {
  return envOption(
    "--backend <names>",
    `what computes, one for all ranks or one for each, by commas (choices: ${BACKENDS.join(", ")})`,
    "BACKEND",
  )
    .argParser(backendNames)
    .default(["auto"], "auto");
}

/** `--device 0,1`: those of the ranks, in turn. */
export function devicesOption(): Option {
  return envOption(
    "--device <names>",
    "devices of the ranks in turn, by commas: of cuda, indexes or UUIDs (default: all GPUs)",
    "DEVICE",
  )
    .argParser((text) => text.split(",").map((name) => name.trim()))
    .default([], "");
}

function backendNames(text: string): string[] {
  return text.split(",").map((part) => {
    const name = part.trim();
    if (BACKENDS.includes(name)) return name;
    const [nearest] = nearestNames(name, BACKENDS);
    const hint = nearest === undefined ? "" : ` Did you mean ${nearest}?`;
    throw new InvalidArgumentError(`Allowed choices are ${BACKENDS.join(", ")}.${hint}`);
  });
}
