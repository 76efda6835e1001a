import type { FaultList, Path } from "./faults.ts";
import type { Gpt2Model, JobSpec, LlamaModel } from "./job-spec.ts";
import { MAX_ELEMENTS } from "./limits.ts";

/** Faults that span keys of the model. Keys in `broken` hold stand-ins, of which nothing is said. */
export function checkModel(spec: JobSpec, broken: ReadonlySet<string>, faults: FaultList): void {
  const { model } = spec;
  if ("feedForward" in model) {
    checkWeight(model.feedForward.dim, model.feedForward.hidden, ["model", "feedForward"], faults);
  }
  if ("mlp" in model) {
    const { dims } = model.mlp;
    for (let i = 1; i < dims.length; i++) {
      checkWeight(dims[i - 1] ?? 1, dims[i] ?? 1, ["model", "mlp", "dims", i], faults);
    }
  }
  if ("llama" in model) checkLlama(model.llama, broken, faults);
  if ("gpt2" in model) checkGpt2(model.gpt2, broken, faults);
  if ("graph" in model) checkTargetName(model.graph.inputs, spec.loss, faults);
}

function checkLlama(model: LlamaModel, broken: ReadonlySet<string>, faults: FaultList): void {
  const path = ["model", "llama"];
  const isGiven = (...keys: string[]) => keys.every((key) => !broken.has(`model.llama.${key}`));
  const { dim, heads, kvHeads, hidden, vocab, ropeScaling } = model;
  if (isGiven("dim", "heads")) {
    const headDim = dim / heads;
    // Rotary embedding turns pairs of features.
    const works = (count: number) => (dim / count) % 2 === 0;
    if (!Number.isInteger(headDim)) {
      const message = `${heads} heads do not divide dim ${dim}${useDivisor(dim, heads, works)}`;
      faults.add([...path, "heads"], message);
    } else if (headDim % 2 !== 0) {
      const message = `${heads} heads of dim ${dim} have ${headDim} features each; rotary embedding needs an even number${useDivisor(dim, heads, works)}`;
      faults.add([...path, "heads"], message);
    }
  }
  if (isGiven("heads", "kvHeads") && heads % kvHeads !== 0) {
    const message = `${kvHeads} kvHeads do not divide heads ${heads}${useDivisor(heads, kvHeads)}`;
    faults.add([...path, "kvHeads"], message);
  }
  checkWeight(dim, hidden, [...path, "hidden"], faults);
  checkWeight(dim, vocab, [...path, "vocab"], faults);
  checkWeight(dim, dim, [...path, "dim"], faults);
  if (ropeScaling !== undefined && ropeScaling.highFrequency <= ropeScaling.lowFrequency) {
    const { lowFrequency, highFrequency } = ropeScaling;
    const message = `is ${highFrequency}; must be above lowFrequency ${lowFrequency}`;
    faults.add([...path, "ropeScaling", "highFrequency"], message);
  }
}

function checkGpt2(model: Gpt2Model, broken: ReadonlySet<string>, faults: FaultList): void {
  const path = ["model", "gpt2"];
  const { dim, heads, vocab, contextLength } = model;
  const isGiven = !broken.has("model.gpt2.dim") && !broken.has("model.gpt2.heads");
  if (isGiven && dim % heads !== 0) {
    faults.add(
      [...path, "heads"],
      `${heads} heads do not divide dim ${dim}${useDivisor(dim, heads)}`,
    );
  }
  checkWeight(dim, 4 * dim, [...path, "dim"], faults);
  checkWeight(dim, vocab, [...path, "vocab"], faults);
  checkWeight(dim, contextLength, [...path, "contextLength"], faults);
}

/** The target that a loss adds must not have the name of an input. */
function checkTargetName(
  inputs: readonly { readonly name: string }[],
  loss: JobSpec["loss"],
  faults: FaultList,
): void {
  const name = loss === "mse" ? "y" : loss === "cross_entropy" ? "targets" : undefined;
  const target = inputs.findIndex((input) => input.name === name);
  if (target < 0) return;
  const message = `"${name}" is the name of the target that loss ${loss} adds; give the input another name`;
  faults.add(["model", "graph", "inputs", target, "name"], message);
}

function checkWeight(inFeatures: number, outFeatures: number, path: Path, faults: FaultList): void {
  if (inFeatures * outFeatures <= MAX_ELEMENTS) return;
  faults.add(
    path,
    `${inFeatures} x ${outFeatures} weights are more than the ${MAX_ELEMENTS} that one parameter may have`,
  );
}

/** `; use 4 or 8`: the divisors of `total` next to `wanted` that work, or nothing where none does. */
function useDivisor(
  total: number,
  wanted: number,
  works: (divisor: number) => boolean = () => true,
): string {
  const divisors: number[] = [];
  for (let d = 1; d * d <= total; d++) if (total % d === 0) divisors.push(d, total / d);
  const usable = divisors.filter(works);
  const near = [
    Math.max(...usable.filter((d) => d < wanted)),
    Math.min(...usable.filter((d) => d > wanted)),
  ].filter(Number.isFinite);
  return near.length === 0 ? "" : `; use ${near.join(" or ")}`;
}
