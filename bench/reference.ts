import { readFile } from "node:fs/promises";
import { plural } from "../cli/format.ts";
import type { JobSpecInput } from "../shared/job/job-spec.ts";
import { checkClose, type RunContext, VerificationError } from "./benchmark.ts";
import { runJob } from "./rankmesh.ts";
import { sourcePath } from "./repository.ts";

/** What reordering float32 sums makes, relative. */
export const LOSS_TOLERANCE = 1e-5;

/**
 * Runs the job of a PyTorch reference run that the tests hold too, tensor-parallel on the numbers of ranks that are to be timed.
 *
 * @param name of its folder in test/fixtures/reference
 * @param job without weights, rows, mesh and steps, which are the reference's
 * @returns the sentence that says so
 * @throws VerificationError where losses differ, or a rank ran on another backend than it should
 */
export async function matchReference(
  context: RunContext,
  name: string,
  ranks: readonly number[],
  job: Pick<JobSpecInput, "model" | "loss" | "optimizer"> & { readonly batchSize: number },
): Promise<string> {
  const folder = sourcePath(`test/fixtures/reference/${name}`);
  const expected = JSON.parse(await readFile(`${folder}/expected.json`, "utf8")) as {
    readonly loss: readonly number[];
  };
  const { batchSize, ...spec } = job;
  for (const tensorParallel of ranks) {
    const result = await runJob(context, {
      ...spec,
      init: { safetensors: `${folder}/init.safetensors` },
      mesh: { tensorParallel },
      data: { batchSize, safetensors: { path: `${folder}/data.safetensors` } },
      steps: expected.loss.length,
    });
    const what = `losses of the reference run on ${plural(tensorParallel, "rank")}`;
    checkClose(what, result.loss, expected.loss, LOSS_TOLERANCE);
    const wrong = result.ranks.find((rank) => rank.backend !== context.backend);
    if (wrong !== undefined) {
      throw new VerificationError(`rank ${wrong.rank} ran on the ${wrong.backend} backend`);
    }
  }
  return `losses of the PyTorch reference run ${name} within ${LOSS_TOLERANCE.toExponential()} relative, on ${rankList(ranks)}`;
}

function rankList(ranks: readonly number[]): string {
  const [only = 0] = ranks;
  return ranks.length === 1 ? plural(only, "rank") : `${ranks.join(" and ")} ranks`;
}
