import { join } from "node:path";
import { InvalidArgumentError } from "../../shared/errors.ts";
import type { HuggingFaceConfig } from "../../shared/hugging-face/config.ts";
import { huggingFaceTensors } from "../../shared/hugging-face/names.ts";
import type { StoredTensor } from "../../shared/program/program.ts";
import { wholeIntervals } from "../../shared/safetensors/box.ts";
import { SafetensorsWriter } from "../../shared/safetensors/writer.ts";
import type { ResolvedPath } from "../data/paths.ts";
import { makeFolder, writeConfig } from "./hugging-face-output.ts";
import { InitialWeights } from "./initial-weights.ts";
import { huggingFaceForm } from "./output-form.ts";

/**
 * Writes a file of weights, as `output.safetensors` has them, as a Hugging Face checkpoint.
 * @param maxPositions longest sequence of the model's training
 * @returns the file of weights
 * @throws InvalidArgumentError with every fault, when the file does not hold exactly the model's parameters
 */
export async function exportWeights(
  weights: ResolvedPath,
  config: HuggingFaceConfig,
  folder: string,
  maxPositions: number,
): Promise<string> {
  const stored = huggingFaceTensors(config.model).map(
    ({ parameter, shape }, slot): StoredTensor => ({
      name: parameter,
      role: "parameter",
      globalShape: shape,
      layout: ["R"],
      slot,
      init: { kind: "constant", value: 0 },
    }),
  );
  const mesh = { axes: [{ name: "one", size: 1 }] };
  const source = await InitialWeights.open(weights, { stored, mesh });
  try {
    const faults = await source.valueFaults();
    if (faults.length > 0) throw new InvalidArgumentError(faults);
    await makeFolder(folder);
    const form = huggingFaceForm(config.model);
    const path = join(folder, "model.safetensors");
    const writer = await SafetensorsWriter.create(path, form.specs, form.metadata);
    try {
      for (const [index, { name, globalShape }] of stored.entries()) {
        await form.write(writer, name, wholeIntervals(globalShape), source.read(index, 0));
      }
      await writer.commit();
    } catch (error) {
      await writer.abort();
      throw error;
    }
    await writeConfig(folder, config, maxPositions);
    return path;
  } finally {
    await source.close();
  }
}
