import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { isMainThread } from "node:worker_threads";
import koffi, { type LibraryHandle } from "koffi";
import { FailedPreconditionError } from "../../../shared/errors.ts";
import { prepareKoffi } from "../koffi-setup.ts";
import { prepareNativeEnvironment } from "./environment.ts";
import { bindKernels, type CpuKernels } from "./kernels.ts";

/** librankmesh_cpu as loaded in this thread. */
export interface CpuLibrary {
  readonly path: string;
  /** Of the file's bytes: two hosts with the same hash run the same instructions. */
  readonly buildHash: string;
  readonly kernels: CpuKernels;
}

/** Where `npm run build` puts the library, next to the compiled JavaScript. */
const FOLDER = new URL("../../../native/", import.meta.url);
const NAME = "librankmesh_cpu";

const opened = new Map<number, CpuLibrary>();

/**
 * The kernels of this host: the build for the highest x86-64 level that the processor has, else the baseline one.
 * @param maxLevel highest level wanted; lower ones run on newer processors too
 * @throws FailedPreconditionError naming the file when it is missing or cannot be loaded
 */
export function openCpuLibrary(maxLevel = 4): CpuLibrary {
  const library = opened.get(maxLevel) ?? open(maxLevel);
  opened.set(maxLevel, library);
  return library;
}

function open(maxLevel: number): CpuLibrary {
  if (isMainThread) prepareNativeEnvironment();
  prepareKoffi();
  const baseline = fileURLToPath(new URL(`${NAME}.so`, FOLDER));
  const level = (load(baseline).func("rm_cpu_level", "int", []) as () => number)();
  const best = [4, 3]
    .filter((candidate) => candidate <= Math.min(level, maxLevel))
    .map((candidate) => fileURLToPath(new URL(`${NAME}.v${candidate}.so`, FOLDER)))
    .find((path) => existsSync(path));
  const path = best ?? baseline;
  const buildHash = createHash("sha256").update(readFileSync(path)).digest("hex").slice(0, 12);
  return { path, buildHash, kernels: bindKernels(load(path)) };
}

function load(path: string): LibraryHandle {
  if (!existsSync(path)) {
    throw new FailedPreconditionError(
      `cpu backend: ${path} is missing; run \`npm run build\` to compile it`,
    );
  }
  try {
    return koffi.load(path);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new FailedPreconditionError(
      `cpu backend: ${path} cannot be loaded (${reason}); run \`npm run build\` on this host`,
      { cause },
    );
  }
}
