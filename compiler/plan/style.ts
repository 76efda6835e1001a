import { InvalidArgumentError } from "../../shared/errors.ts";
import { didYouMean } from "../../shared/nearest.ts";

/** A layout that a style option asks for; dims may count from the end (-1). */
export type StyleLayout =
  | { readonly kind: "replicate" }
  | { readonly kind: "shard"; readonly dim: number };

export type StyleName = "colwise" | "rowwise" | "sequence" | "replicate";

/** A parsed plan entry, `rowwise(input=replicate, output=shard(1))`. */
export interface Style {
  readonly name: StyleName;
  readonly input: StyleLayout | undefined;
  readonly output: StyleLayout | undefined;
  /** What does not divide is left off, and said so, where it would be a fault otherwise. */
  readonly optional: boolean;
}

const names: readonly StyleName[] = ["colwise", "rowwise", "sequence", "replicate"];

/** @throws InvalidArgumentError with the nearest name for an unknown style or option. */
export function parseStyle(text: string): Style {
  const match = /^\s*([A-Za-z]+)\s*(?:\((.*)\))?\s*$/s.exec(text);
  const name = match?.[1] ?? text.trim();
  if (match === null || !names.some((known) => known === name)) {
    const shown = name.length > 60 ? `${name.slice(0, 60)}...` : name;
    throw new InvalidArgumentError(
      `unknown style "${shown}"; use ${names.join(", ")}${didYouMean(name, names, 1)}`,
    );
  }
  const options = new Map<string, StyleLayout>();
  let optional = false;
  for (const part of splitOptions(match[2] ?? "")) {
    if (part === "optional") {
      optional = true;
      continue;
    }
    const [key = "", value = ""] = part.split("=").map((s) => s.trim());
    if (key !== "input" && key !== "output") {
      throw new InvalidArgumentError(
        `unknown option "${key.slice(0, 60)}" of style "${name}"; use input, output or optional`,
      );
    }
    if (options.has(key))
      throw new InvalidArgumentError(`option "${key}" of style "${name}" is given twice`);
    options.set(key, parseLayout(value, `option "${key}" of style "${name}"`));
  }
  return {
    name: name as StyleName,
    input: options.get("input"),
    output: options.get("output"),
    optional,
  };
}

function splitOptions(text: string): string[] {
  const parts = text.split(",").map((s) => s.trim());
  return parts.length === 1 && parts[0] === "" ? [] : parts;
}

function parseLayout(text: string, where: string): StyleLayout {
  if (text === "replicate") return { kind: "replicate" };
  const match = /^shard\(\s*(-?\d{1,3})\s*\)$/.exec(text);
  if (match?.[1] === undefined) {
    throw new InvalidArgumentError(
      `${where}: "${text.slice(0, 60)}" is no layout; use replicate or shard(DIM)`,
    );
  }
  return { kind: "shard", dim: Number(match[1]) };
}
