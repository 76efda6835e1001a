import { InternalError } from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import type { DataInput, DataSource } from "./data-source.ts";
import type { JobPaths } from "./paths.ts";
import { randomSource } from "./random-source.ts";
import { openSafetensorsSource } from "./safetensors-source.ts";
import { StreamSource } from "./stream-source.ts";

export interface StreamLimits {
  /** Batches that may wait for the job before a push waits; at least 1. */
  readonly maxQueuedBatches: number;
  /** How long a step waits for its batch, and a push for room. */
  readonly timeoutMs: number;
}

export const DEFAULT_STREAM_LIMITS: StreamLimits = { maxQueuedBatches: 4, timeoutMs: 600_000 };

/**
 * The job's data, checked against what its model takes: of a file only the header is read.
 * @param paths from `resolveJobPaths` of the same spec, without faults
 * @throws InvalidArgumentError with every fault of the data
 */
export async function openDataSource(
  spec: JobSpec,
  inputs: readonly DataInput[],
  paths: JobPaths,
  limits: StreamLimits = DEFAULT_STREAM_LIMITS,
): Promise<DataSource> {
  const { data } = spec;
  if ("random" in data) return randomSource(data.random, inputs);
  if ("stream" in data) {
    return new StreamSource(inputs, { batchSize: data.batchSize, steps: spec.steps, ...limits });
  }
  if (paths.data === undefined) throw new InternalError("data.safetensors.path was not resolved");
  return openSafetensorsSource(paths.data, inputs);
}
