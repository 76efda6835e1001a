import { realpath } from "node:fs/promises";
import { join } from "node:path";
import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import { quote } from "../../shared/quote.ts";
import type { PathPolicy, ResolvedPath } from "../data/paths.ts";
import { inFolder } from "./hugging-face-checkpoint.ts";

/**
 * The folder that a job exports its model to; undefined where it wants none, or with faults. It is neither that of the checkpoint
 * that the model comes from nor one whose weights the job's other output is.
 * @param field where faults are
 */
export async function resolveExportFolder(
  spec: JobSpec,
  policy: PathPolicy,
  field = "output.huggingFace",
): Promise<{ readonly folder: ResolvedPath | undefined; readonly faults: readonly Fault[] }> {
  const given = spec.output.huggingFace;
  if (given === undefined) return { folder: undefined, faults: [] };
  const faults: Fault[] = [];
  const fault = (message: string): void => {
    faults.push({ path: field, message });
  };
  let folder: ResolvedPath | undefined;
  try {
    folder = await policy.outputFolder(given, field);
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    faults.push(...error.faults);
  }
  if (folder !== undefined) {
    if (await isSourceFolder(folder, spec, policy))
      fault(`${quote(given)} is the folder that the model comes from; write to another one`);
    const { safetensors } = spec.output;
    const output =
      safetensors === undefined
        ? undefined
        : await policy.output(safetensors, field).catch(() => undefined);
    if (output?.real === join(folder.real, "model.safetensors"))
      fault(
        `${quote(given)} would get its weights where output.safetensors goes; write to another folder`,
      );
  }
  return { folder: faults.length === 0 ? folder : undefined, faults };
}

/** Whether both have one config.json. Faults of the model's own path are told where it is read. */
async function isSourceFolder(
  folder: ResolvedPath,
  { model }: JobSpec,
  policy: PathPolicy,
): Promise<boolean> {
  if (!("huggingFace" in model)) return false;
  const source = await policy
    .input(inFolder(model.huggingFace.path, "config.json"), folder.field)
    .catch(() => undefined);
  const target = await realpath(join(folder.real, "config.json")).catch(() => undefined);
  return source !== undefined && source.real === target;
}
