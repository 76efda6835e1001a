import type { Command } from "commander";
import { anyPath } from "../../coordinator/data/paths.ts";
import { exportWeights } from "../../coordinator/weights/convert.ts";
import { resolveExportFolder } from "../../coordinator/weights/export-folder.ts";
import { readHuggingFaceConfig } from "../../coordinator/weights/hugging-face-checkpoint.ts";
import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import type { HuggingFaceConfig } from "../../shared/hugging-face/config.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import { resolveJobSpec } from "../../shared/job/resolve.ts";
import { sequenceLength } from "../../shared/job/sequences.ts";
import type { CommandContext } from "../command-context.ts";
import { type LoadedJob, loadJobFile } from "../job-file.ts";

interface ExportFlags {
  readonly model: string;
  readonly weights: string;
  readonly out: string;
}

/** What transformers takes for a model whose configuration does not say how long its sequences may be. */
const DEFAULT_POSITIONS = 2048;

export function addExportCommand(program: Command, context: CommandContext): void {
  program
    .command("export")
    .description(
      "write the weights of a trained Llama as a Hugging Face checkpoint that other tools load",
    )
    .requiredOption("--model <job.yaml>", "job file that says the model")
    .requiredOption("--weights <file>", "weights, as output.safetensors of the job has them")
    .requiredOption("--out <folder>", "folder for config.json and model.safetensors")
    .action((flags: ExportFlags) => exportModel(flags, context));
}

async function exportModel(flags: ExportFlags, context: CommandContext): Promise<void> {
  const here = anyPath(process.cwd());
  const loaded = await loadJobFile(flags.model);
  const { spec, config } = await modelOf(loaded);
  const faults: Fault[] = [];
  const weights = await here.input(flags.weights, "--weights").catch(collect(faults));
  const target: JobSpec = { ...spec, output: { huggingFace: flags.out } };
  // The model's own folder is relative to the job file, the export's to this process.
  const paths = { ...anyPath(loaded.folder), outputFolder: here.outputFolder };
  const exported = await resolveExportFolder(target, paths, "--out");
  faults.push(...exported.faults);
  if (faults.length > 0 || weights === undefined || exported.folder === undefined)
    throw new InvalidArgumentError(faults);
  const positions = sequenceLength(spec.data) ?? DEFAULT_POSITIONS;
  const path = await exportWeights(weights, config, exported.folder.real, positions);
  context.stdout.write(`${path}\n`);
}

/** @throws InvalidArgumentError with the faults of the job file, or for a model that is no Llama */
async function modelOf(job: LoadedJob): Promise<{ spec: JobSpec; config: HuggingFaceConfig }> {
  const resolved = resolveJobSpec(job.spec);
  if (!resolved.ok) throw new InvalidArgumentError(job.locate(resolved.faults));
  const { spec } = resolved;
  const { model } = spec;
  try {
    if ("llama" in model) return { spec, config: { model: model.llama, carried: { extras: {} } } };
    if ("huggingFace" in model) {
      const config = await readHuggingFaceConfig(model.huggingFace.path, anyPath(job.folder));
      return { spec, config };
    }
    const message = "only llama and huggingFace models can be exported";
    throw new InvalidArgumentError([{ path: "model", message }]);
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    throw new InvalidArgumentError(job.locate(error.faults), { cause: error });
  }
}

/** Keeps the faults of what failed for later. */
function collect(faults: Fault[]): (error: unknown) => undefined {
  return (error) => {
    if (!(error instanceof InvalidArgumentError)) throw error;
    faults.push(...error.faults);
    return undefined;
  };
}
