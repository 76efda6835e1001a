import { randomBytes } from "node:crypto";
import { mkdir, open, rename, unlink } from "node:fs/promises";
import { join } from "node:path";
import { type HuggingFaceConfig, huggingFaceConfigJson } from "../../shared/hugging-face/config.ts";
import { fileError } from "../../shared/safetensors/file-error.ts";
import type { Gang } from "../gang/gang.ts";
import type { WrittenFile } from "../job/job-files.ts";
import type { ProgramOutline } from "../planner.ts";
import { huggingFaceForm } from "./output-form.ts";
import { writeOutput } from "./write-output.ts";

/**
 * Pulls the parameters from the gang's ranks and writes them as a Hugging Face checkpoint: model.safetensors, whole or not at
 * all, and then config.json.
 * @param folder created when it is not there
 * @returns the file of weights
 * @throws as `writeOutput`
 */
export async function writeHuggingFaceOutput(
  folder: string,
  config: HuggingFaceConfig,
  gang: Gang,
  silenceMs: number,
): Promise<WrittenFile> {
  await makeFolder(folder);
  const form = huggingFaceForm(config.model);
  const written = await writeOutput(join(folder, "model.safetensors"), gang, silenceMs, form);
  await writeConfig(folder, config, sequenceLength(gang.plan.program));
  return written;
}

/** @throws InvalidArgumentError when the folder that it is in is missing or may not be written to */
export async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") return;
    throw fileError(folder, "write", error);
  }
}

/**
 * Writes config.json, whole or not at all.
 * @param maxPositions longest sequence of the model's training
 */
export async function writeConfig(
  folder: string,
  { model, carried }: HuggingFaceConfig,
  maxPositions: number,
): Promise<void> {
  const path = join(folder, "config.json");
  const scratch = `${path}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`;
  try {
    const handle = await open(scratch, "wx");
    try {
      await handle.writeFile(huggingFaceConfigJson(model, maxPositions, carried));
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(scratch, path);
  } catch (error) {
    await unlink(scratch).catch(() => undefined);
    throw fileError(path, "write", error);
  }
}

/** Tokens of a row of the job's data. */
function sequenceLength({ inputs }: ProgramOutline): number {
  return inputs[0]?.globalShape[1] ?? 1;
}
