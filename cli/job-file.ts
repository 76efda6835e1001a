import { readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { type Fault, InvalidArgumentError } from "../shared/errors.ts";
import { type JobFile, locateFaults, parseJobFile } from "../shared/job/job-file.ts";
import { resolveJobSpec } from "../shared/job/resolve.ts";
import { UsageError } from "./exit-codes.ts";
import { traceModelFile } from "./model-file.ts";

/** A job file as the command line sends it: a model file is traced and its graph put in its place. */
export interface LoadedJob {
  /** The raw spec, not yet checked. */
  readonly spec: unknown;
  /** Folder that the spec's paths are relative to. */
  readonly folder: string;
  /** Steps asked for, when the file says it in a readable way. */
  readonly steps: number | null;
  /** The same faults with their place in the file. */
  locate(faults: readonly Fault[]): Fault[];
}

/**
 * Reads a job file and traces its model file, if it has one.
 *
 * @throws UsageError when the file cannot be read
 * @throws InvalidArgumentError for syntax errors, and for a model file that does not load or trace
 */
export async function loadJobFile(path: string): Promise<LoadedJob> {
  const file = parseJobFile(await readText(path), path);
  const folder = dirname(resolve(path));
  return {
    spec: await withTracedModel(file, folder),
    folder,
    steps: stepsOf(file.value),
    locate: (faults) => locateFaults(file, faults),
  };
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    const reason = isMissing(cause) ? "there is no such file" : String(cause);
    throw new UsageError(`job file ${path}: ${reason}`, { cause });
  }
}

async function withTracedModel(file: JobFile, folder: string): Promise<unknown> {
  const { value } = file;
  if (!isRecord(value) || !isRecord(value["model"])) return value;
  const { module: modulePath, ...otherModels } = value["model"];
  // Anything unusual (no text, a second model beside it) is left for the schema to find fault with.
  if (typeof modulePath !== "string" || Object.keys(otherModels).length > 0) return value;
  try {
    const graph = await traceModelFile(resolve(folder, modulePath), value, folder);
    return { ...value, model: { graph } };
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    const faults = error.faults.map(({ path, message }) => ({
      path: path || "model.module",
      message,
    }));
    // A model that does not trace hides no fault of the other keys.
    const others = resolveJobSpec(value, { modules: "allow" });
    if (!others.ok) faults.push(...others.faults);
    throw new InvalidArgumentError(locateFaults(file, faults), { cause: error });
  }
}

function stepsOf(value: unknown): number | null {
  const steps = isRecord(value) ? value["steps"] : undefined;
  return typeof steps === "number" && Number.isSafeInteger(steps) && steps >= 0 ? steps : null;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}
