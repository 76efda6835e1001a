import { InvalidArgumentError } from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import { sourceKey } from "../../shared/job/sequences.ts";

/**
 * Batches of one evaluation of a job whose held-out data has `rows` rows: as many whole ones as there are, or as the job
 * wants.
 * @throws InvalidArgumentError when there is not even one
 */
export function evaluationBatches({ data, eval: evaluation }: JobSpec, rows: number): number {
  const { batchSize } = data;
  const batches = Math.floor(rows / batchSize);
  if (batches === 0) {
    const key = evaluation.data === undefined ? "" : `.${sourceKey(evaluation.data)}`;
    const message = `has ${rows} rows; an evaluation takes whole batches of data.batchSize ${batchSize}`;
    throw new InvalidArgumentError([{ path: `eval.data${key}`, message }]);
  }
  return evaluation.batches === 0 ? batches : Math.min(batches, evaluation.batches);
}
