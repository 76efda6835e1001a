import type { Option } from "commander";
import { envOption } from "../option-values.ts";

/** Backends that `--backend` takes; `auto` is the best one that runs on the machine. */
const BACKENDS = ["auto", "cpu", "reference"] as const;

/** `--backend` / RANKMESH_BACKEND. */
export function backendOption(): Option {
  return envOption("--backend <name>", "what computes", "BACKEND")
    .choices([...BACKENDS])
    .default("auto");
}
