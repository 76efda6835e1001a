import { EMBEDDING } from "../../shared/hugging-face/names.ts";
import { didYouMean } from "../../shared/nearest.ts";
import type { StoredTensor } from "../../shared/program/program.ts";
import { quote } from "../../shared/quote.ts";
import type { SafetensorsHeader } from "../../shared/safetensors/header.ts";
import { isFloatDtype } from "../../shared/safetensors/to-float32.ts";

const OUR_EMBEDDING = "tok_embeddings.weight";

/** Names listed in one fault. */
const MAX_LISTED = 8;

/**
 * Names of an output projection and of the embedding whose weight it shares in a tied model. Files of such a model, written by
 * others, hold both or the embedding alone.
 */
const TIED: ReadonlyMap<string, string> = new Map([
  ["output.weight", OUR_EMBEDDING],
  ["lm_head.weight", "wte.weight"],
]);

/** What is wrong with a file of weights for these stored tensors: missing, of another shape or dtype, or too many. */
export function weightFaults(header: SafetensorsHeader, stored: readonly StoredTensor[]): string[] {
  const parameters = stored.filter((tensor) => tensor.role === "parameter");
  const names = new Set(parameters.map((tensor) => tensor.name));
  if (
    names.has(OUR_EMBEDDING) &&
    !header.tensors.has(OUR_EMBEDDING) &&
    header.tensors.has(EMBEDDING)
  ) {
    return [
      "has the names and the order of rows of a Hugging Face checkpoint; load its folder with model.huggingFace",
    ];
  }
  const faults: string[] = [];
  for (const { name, globalShape } of parameters) {
    const found = header.tensors.get(name);
    const wanted = `float32 [${globalShape.join(", ")}]`;
    if (found === undefined) {
      const spare = [...header.tensors.keys()].filter((other) => !names.has(other));
      faults.push(`has no tensor ${quote(name)} (${wanted})${didYouMean(name, spare)}`);
    } else if (!isFloatDtype(found.dtype)) {
      faults.push(
        `tensor ${quote(name)} is ${found.dtype}, the model's is F32; convert it (F16 and BF16 are converted when loaded)`,
      );
    } else if (found.shape.join() !== globalShape.join()) {
      faults.push(
        `tensor ${quote(name)} is [${found.shape.join(", ")}], the model's is [${globalShape.join(", ")}]`,
      );
    }
  }
  const aliases = new Set(tiedAliases(header, parameters).map(([alias]) => alias));
  const extra = [...header.tensors.keys()].filter((name) => !names.has(name) && !aliases.has(name));
  if (extra.length > 0) faults.push(extraTensors(extra));
  return faults;
}

/** `has 2 tensors that the model does not: ...` */
export function extraTensors(extra: readonly string[]): string {
  const listed = extra.slice(0, MAX_LISTED).map(quote).join(", ");
  const more = extra.length > MAX_LISTED ? ` and ${extra.length - MAX_LISTED} more` : "";
  return (
    `has ${extra.length} ${extra.length === 1 ? "tensor" : "tensors"} that the model does not: ${listed}${more}; ` +
    "leave out what is no parameter"
  );
}

/** Tensors of the file that stand for a parameter of another name, with that name. */
export function tiedAliases(
  header: SafetensorsHeader,
  parameters: readonly StoredTensor[],
): [alias: string, name: string][] {
  const shapes = new Map(parameters.map(({ name, globalShape }) => [name, globalShape.join()]));
  return [...TIED].filter(([alias, name]) => {
    const [found, partner] = [header.tensors.get(alias), header.tensors.get(name)];
    return (
      !shapes.has(alias) &&
      found !== undefined &&
      partner !== undefined &&
      isFloatDtype(found.dtype) &&
      found.shape.join() === shapes.get(name) &&
      partner.shape.join() === shapes.get(name)
    );
  });
}
