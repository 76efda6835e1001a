import type { DataSpec, JobSpec, ModelSpec } from "./job-spec.ts";
import { MAX_RANKS } from "./limits.ts";
import { DEFAULT_FEATURES } from "./schema.ts";
import { sequenceLength, sourceKey, takesTokens } from "./sequences.ts";

/**
 * `partial` with sizes that can't contradict each other, for whichever of them the user has to change.
 * `isSourceStandIn`: its data source is none of the user's.
 */
export function withoutConflicts(
  partial: JobSpec,
  isSourceStandIn: boolean,
  broken: ReadonlySet<string>,
): JobSpec {
  const mesh = broken.has("mesh") ? standInMesh(partial) : partial.mesh;
  const gradientAccumulation = broken.has("gradientAccumulation")
    ? 1
    : partial.gradientAccumulation;
  const dataParallel = mesh.dataParallel === "auto" ? 1 : mesh.dataParallel;
  const divisible = 8 * (mesh.tensorParallel === "auto" ? 1 : mesh.tensorParallel);
  const model = broken.has("model") ? standInModel(partial.model, divisible) : partial.model;
  const batchSize = broken.has("data.batchSize")
    ? dataParallel * gradientAccumulation
    : partial.data.batchSize;
  const isSourceBroken = isSourceStandIn || broken.has(`data.${sourceKey(partial.data)}`);
  const evaluation: JobSpec["eval"] = broken.has("eval") ? { every: 0, batches: 0 } : partial.eval;
  const length = evaluation.data && sequenceLength(evaluation.data);
  const data = isSourceBroken
    ? standInData(partial.data, model, length ?? divisible)
    : partial.data;
  const isLossBroken = broken.has("loss") && takesTokens(model);
  const { huggingFace: _folder, ...otherOutput } = partial.output;
  const { safetensors: _file, ...otherInit } = partial.init;
  return {
    ...partial,
    model,
    mesh,
    gradientAccumulation,
    data: { ...data, batchSize },
    loss: isLossBroken ? "cross_entropy" : partial.loss,
    sequenceParallel: broken.has("sequenceParallel") ? "auto" : partial.sequenceParallel,
    eval: evaluation,
    init: broken.has("init.safetensors") ? otherInit : partial.init,
    output: broken.has("output.huggingFace") ? otherOutput : partial.output,
  };
}

/** Sizes that divide; what layers there are, and so what a plan may name, stays. */
function standInModel(model: ModelSpec, divisible: number): ModelSpec {
  if ("feedForward" in model) {
    const { dim, hidden } = model.feedForward;
    const given = (size: number) => (size === DEFAULT_FEATURES ? divisible : size);
    return { feedForward: { dim: given(dim), hidden: given(hidden) } };
  }
  const sizes = { dim: 8 * divisible, heads: divisible, vocab: divisible };
  if ("llama" in model) {
    const { ropeScaling: _, ...rest } = model.llama;
    return { llama: { ...rest, ...sizes, kvHeads: divisible, hidden: divisible } };
  }
  if ("gpt2" in model) return { gpt2: { ...model.gpt2, ...sizes } };
  return model;
}

/** A source that gives what the model takes, sequences of `length` tokens where it takes any. */
function standInData(data: DataSpec, model: ModelSpec, length: number): DataSpec {
  const { batchSize, shuffle } = data;
  if (takesTokens(model)) {
    const limit = "gpt2" in model ? model.gpt2.contextLength : length;
    return { batchSize, shuffle, stream: { seqLen: Math.min(limit, length) } };
  }
  return sequenceLength(data) === undefined ? data : { batchSize, shuffle, stream: {} };
}

function standInMesh(partial: JobSpec): JobSpec["mesh"] {
  const { dataParallel, tensorParallel } = partial.mesh;
  const ranks =
    (dataParallel === "auto" ? 1 : dataParallel) * (tensorParallel === "auto" ? 1 : tensorParallel);
  return ranks > MAX_RANKS ? { dataParallel: 1, tensorParallel: 1 } : partial.mesh;
}
