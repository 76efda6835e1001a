import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import type { Program } from "../../shared/program/program.ts";
import { BatchReader } from "../data/batch-reader.ts";
import { type DataSource, dataInputs } from "../data/data-source.ts";
import { DEFAULT_STREAM_LIMITS, openDataSource } from "../data/open-source.ts";
import { type JobPaths, type PathPolicy, resolveJobPaths } from "../data/paths.ts";
import type { Gang } from "../gang/gang.ts";
import type { StreamedBatches } from "../streamed-batches.ts";
import { InitialWeights } from "../weights/initial-weights.ts";
import { writeOutput } from "../weights/write-output.ts";
import type { JobFiles, WrittenFile } from "./job-files.ts";

/** The files of this machine, as far as a policy allows, and batches pushed by clients. */
export class LocalJobFiles implements JobFiles {
  readonly #policy: PathPolicy;
  readonly #streams: StreamedBatches;

  constructor(policy: PathPolicy, streams: StreamedBatches) {
    this.#policy = policy;
    this.#streams = streams;
  }

  async check(spec: JobSpec, program: Program | undefined): Promise<readonly Fault[]> {
    const { paths, faults } = await resolveJobPaths(spec, this.#policy);
    if (program === undefined) return faults;
    const found: Fault[] = [...faults];
    const dataUsable = !("safetensors" in spec.data) || paths.data !== undefined;
    if (dataUsable && !("stream" in spec.data)) {
      found.push(...(await faultsOf(() => openDataSource(spec, dataInputs(program), paths))));
    }
    const { init } = paths;
    if (init !== undefined)
      found.push(...(await faultsOf(() => InitialWeights.open(init, program))));
    return found;
  }

  accepted(jobId: string, spec: JobSpec, program: Program): void {
    if ("stream" in spec.data) this.#stream(jobId, spec, program);
  }

  async openBatches(jobId: string, spec: JobSpec, program: Program): Promise<BatchReader> {
    const source: DataSource =
      "stream" in spec.data
        ? this.#stream(jobId, spec, program)
        : await openDataSource(spec, dataInputs(program), await this.#paths(spec));
    return new BatchReader(source, program, {
      batchSize: spec.data.batchSize,
      shuffleSeed: spec.data.shuffle ? spec.init.seed : undefined,
    });
  }

  weightsOpener(spec: JobSpec, program: Program): (() => Promise<InitialWeights>) | undefined {
    if (spec.init.safetensors === undefined) return undefined;
    return async () => {
      const { init } = await this.#paths(spec);
      if (init === undefined) throw new InvalidArgumentError("init.safetensors names no file");
      return InitialWeights.open(init, program);
    };
  }

  async writeOutput(
    spec: JobSpec,
    gang: Gang,
    silenceMs: number,
  ): Promise<WrittenFile | undefined> {
    if (spec.output.safetensors === undefined) return undefined;
    const { output } = await this.#paths(spec);
    if (output === undefined) return undefined;
    return writeOutput(output.real, gang, silenceMs);
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

  #stream(jobId: string, spec: JobSpec, program: Program) {
    return this.#streams.source(jobId, dataInputs(program), {
      ...DEFAULT_STREAM_LIMITS,
      batchSize: spec.data.batchSize,
      steps: spec.steps,
    });
  }
}

/** The faults that opening something finds; what opens is closed again. */
async function faultsOf(
  open: () => Promise<{ close(): Promise<void> }>,
): Promise<readonly Fault[]> {
  try {
    await (await open()).close();
    return [];
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error.faults;
    throw error;
  }
}
