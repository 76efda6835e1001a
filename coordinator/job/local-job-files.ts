import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import type { HuggingFaceConfig } from "../../shared/hugging-face/config.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import { sequenceLength, takesTokens } from "../../shared/job/sequences.ts";
import { BatchReader } from "../data/batch-reader.ts";
import { dataInputs } from "../data/data-source.ts";
import {
  checkSource,
  DEFAULT_STREAM_LIMITS,
  openSource,
  type SourceRequest,
} from "../data/open-source.ts";
import {
  type JobPaths,
  type PathPolicy,
  type ResolvedPath,
  resolveJobPaths,
} from "../data/paths.ts";
import { RoundReader } from "../data/round-reader.ts";
import { safetensorsSequenceLength } from "../data/safetensors-source.ts";
import type { StreamSource } from "../data/stream-source.ts";
import { tokenizes } from "../data/tokenizes.ts";
import type { Gang } from "../gang/gang.ts";
import type { ModelFacts, ProgramOutline } from "../planner.ts";
import type { StreamedBatches } from "../streamed-batches.ts";
import { resolveExportFolder } from "../weights/export-folder.ts";
import {
  HuggingFaceCheckpoint,
  readHuggingFaceConfig,
} from "../weights/hugging-face-checkpoint.ts";
import { writeHuggingFaceOutput } from "../weights/hugging-face-output.ts";
import { InitialWeights } from "../weights/initial-weights.ts";
import { writeOutput } from "../weights/write-output.ts";
import { evaluationBatches } from "./evaluation-batches.ts";
import type { FileCheck, JobFiles, PlannedData, WrittenFile } from "./job-files.ts";

/** The files of this machine, as far as a policy allows, and batches pushed by clients. */
export class LocalJobFiles implements JobFiles {
  readonly #policy: PathPolicy;
  readonly #streams: StreamedBatches;

  constructor(policy: PathPolicy, streams: StreamedBatches) {
    this.#policy = policy;
    this.#streams = streams;
  }

  async facts(
    spec: JobSpec,
  ): Promise<{ readonly facts: ModelFacts; readonly faults: readonly Fault[] }> {
    const sequence = await this.#sequenceFacts(spec);
    if (!("huggingFace" in spec.model)) return sequence;
    const { facts, faults } = sequence;
    try {
      const huggingFace = await readHuggingFaceConfig(spec.model.huggingFace.path, this.#policy);
      return { facts: { ...facts, huggingFace }, faults };
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      return { facts, faults: [...faults, ...error.faults] };
    }
  }

  async check(
    spec: JobSpec,
    plan: PlannedData | undefined,
    depth: FileCheck,
  ): Promise<readonly Fault[]> {
    const { paths, faults } = await resolveJobPaths(spec, this.#policy);
    const exported = await resolveExportFolder(spec, this.#policy);
    const found: Fault[] = [...faults, ...exported.faults];
    const attempt = async (action: () => Promise<unknown>): Promise<void> => {
      try {
        await action();
      } catch (error) {
        if (!(error instanceof InvalidArgumentError)) throw error;
        found.push(...error.faults);
      }
    };
    const checkpoint = this.#checkpointOpener(spec);
    if (plan === undefined) {
      // Its own configuration says what a checkpoint must hold.
      if (checkpoint !== undefined) await attempt(async () => (await checkpoint()).close());
      return found;
    }
    const training = trainingRequest(spec, plan, paths);
    if (training !== undefined && isUsable(training)) {
      await attempt(() => checkSource(training, depth));
    }
    const heldOut = evaluationRequest(spec, plan, paths);
    if (heldOut !== undefined && isUsable(heldOut)) {
      await attempt(async () => {
        const rows = await checkSource(heldOut, depth);
        if (rows !== undefined) evaluationBatches(spec, rows);
      });
    }
    const openWeights = this.#weightsOpener(spec, plan.program, paths.init);
    if (openWeights !== undefined) {
      await attempt(async () => {
        const weights = await openWeights();
        try {
          if (depth === "contents") found.push(...(await weights.valueFaults()));
        } finally {
          await weights.close();
        }
      });
    }
    return found;
  }

  accepted(jobId: string, spec: JobSpec, plan: PlannedData): void {
    if ("stream" in spec.data) this.#stream(jobId, spec, plan);
  }

  async openBatches(
    jobId: string,
    spec: JobSpec,
    plan: PlannedData,
    signal: AbortSignal,
  ): Promise<RoundReader> {
    const paths = await this.#paths(spec);
    const training = trainingRequest(spec, plan, paths);
    const { batchSize, shuffle } = spec.data;
    const source =
      training === undefined ? this.#stream(jobId, spec, plan) : await openSource(training, signal);
    const reader = new BatchReader(source, plan.program, {
      batchSize,
      shuffleSeed: shuffle ? spec.init.seed : undefined,
    });
    const heldOut = evaluationRequest(spec, plan, paths);
    if (heldOut === undefined) return new RoundReader(reader);
    try {
      const rows = await openSource(heldOut, signal);
      const evaluation = new BatchReader(rows, plan.program, { batchSize, shuffleSeed: undefined });
      try {
        const batches = evaluationBatches(spec, rows.rows);
        return new RoundReader(reader, { reader: evaluation, batches });
      } catch (error) {
        await evaluation.close();
        throw error;
      }
    } catch (error) {
      await reader.close();
      throw error;
    }
  }

  weightsOpener(
    spec: JobSpec,
    program: ProgramOutline,
  ): (() => Promise<InitialWeights>) | undefined {
    if (spec.init.safetensors === undefined) return this.#weightsOpener(spec, program, undefined);
    return async () => {
      const { init } = await this.#paths(spec);
      if (init === undefined) throw new InvalidArgumentError("init.safetensors names no file");
      return InitialWeights.open(init, program);
    };
  }

  async writeOutput(
    spec: JobSpec,
    facts: ModelFacts,
    gang: Gang,
    silenceMs: number,
  ): Promise<readonly WrittenFile[]> {
    const written: WrittenFile[] = [];
    if (spec.output.safetensors !== undefined) {
      const { output } = await this.#paths(spec);
      if (output !== undefined) written.push(await writeOutput(output.real, gang, silenceMs));
    }
    const { folder, faults } = await resolveExportFolder(spec, this.#policy);
    if (faults.length > 0) throw new InvalidArgumentError(faults);
    const config = huggingFaceConfig(spec, facts);
    if (folder !== undefined && config !== undefined) {
      written.push(await writeHuggingFaceOutput(folder.real, config, gang, silenceMs));
    }
    return written;
  }

  async ended(jobId: string): Promise<void> {
    await this.#streams.drop(jobId);
  }

  /** @throws InvalidArgumentError when a path that was fine at submit no longer is */
  async #paths(spec: JobSpec): Promise<JobPaths> {
    const { paths, faults } = await resolveJobPaths(spec, this.#policy);
    if (faults.length > 0) throw new InvalidArgumentError(faults);
    return paths;
  }

  /** How long the rows of the job's data are, for a model that takes tokens. */
  async #sequenceFacts(
    spec: JobSpec,
  ): Promise<{ readonly facts: ModelFacts; readonly faults: readonly Fault[] }> {
    const seqLen = sequenceLength(spec.data);
    if (seqLen !== undefined) return { facts: { seqLen }, faults: [] };
    if (!takesTokens(spec.model)) return { facts: {}, faults: [] };
    const { paths, faults } = await resolveJobPaths(spec, this.#policy);
    const { file } = paths.data;
    if (file === undefined) {
      return { facts: {}, faults: faults.filter(({ path }) => path.startsWith("data.")) };
    }
    try {
      return { facts: { seqLen: await safetensorsSequenceLength(file) }, faults: [] };
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      return { facts: {}, faults: error.faults };
    }
  }

  /** @param init file that `init.safetensors` names; undefined where it names none, or one with faults */
  #weightsOpener(
    spec: JobSpec,
    program: ProgramOutline,
    init: ResolvedPath | undefined,
  ): (() => Promise<InitialWeights>) | undefined {
    if (init !== undefined) return () => InitialWeights.open(init, program);
    const checkpoint = this.#checkpointOpener(spec);
    return checkpoint && (async () => InitialWeights.fromCheckpoint(await checkpoint(), program));
  }

  /** undefined when the job's weights come from elsewhere. */
  #checkpointOpener(spec: JobSpec): (() => Promise<HuggingFaceCheckpoint>) | undefined {
    const { model } = spec;
    if (!("huggingFace" in model)) return undefined;
    return () => HuggingFaceCheckpoint.open(model.huggingFace.path, this.#policy);
  }

  #stream(jobId: string, spec: JobSpec, { program, idLimits }: PlannedData): StreamSource {
    return this.#streams.source(jobId, dataInputs(program, idLimits), {
      ...DEFAULT_STREAM_LIMITS,
      batchSize: spec.data.batchSize,
      steps: spec.steps,
    });
  }
}

/** What the job's model is called in a checkpoint; undefined for a model that has no such form. */
function huggingFaceConfig({ model }: JobSpec, facts: ModelFacts): HuggingFaceConfig | undefined {
  if ("llama" in model) return { model: model.llama, carried: { extras: {} } };
  return "huggingFace" in model ? facts.huggingFace : undefined;
}

/** What the job trains on; undefined when a client pushes it. */
function trainingRequest(
  { data }: JobSpec,
  { program, idLimits }: PlannedData,
  paths: JobPaths,
): SourceRequest | undefined {
  if ("stream" in data) return undefined;
  return {
    source: data,
    field: "data",
    inputs: dataInputs(program, idLimits),
    paths: paths.data,
  };
}

/** What the job is evaluated on; undefined when it is not. */
function evaluationRequest(
  { eval: { every, data } }: JobSpec,
  { program, idLimits }: PlannedData,
  paths: JobPaths,
): SourceRequest | undefined {
  if (every === 0 || data === undefined) return undefined;
  return {
    source: data,
    field: "eval.data",
    inputs: dataInputs(program, idLimits),
    paths: paths.evaluation,
  };
}

/** Whether the paths of a source's files are known; where they are not, that is a fault found already. */
function isUsable({ source, paths }: SourceRequest): boolean {
  if ("random" in source) return true;
  return paths.file !== undefined && (!tokenizes(source) || paths.tokenizer !== undefined);
}
