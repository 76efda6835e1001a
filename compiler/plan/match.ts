import type { Fault } from "../../shared/errors.ts";
import { InvalidArgumentError } from "../../shared/errors.ts";
import { nearestNames } from "../../shared/nearest.ts";
import { parseStyle, type Style } from "./style.ts";

/** A layer's style and the pattern it came from. */
export interface MatchedStyle {
  readonly pattern: string;
  readonly style: Style;
}

/**
 * Layer to style. Patterns match whole layer paths atom by atom, `*` any characters within one atom:
 * `layers.*.attention.w?` matches `layers.3.attention.wq`. Faults (unknown style, a pattern that matches nothing, a layer
 * matched twice) are added to `faults` with the path `<field>["<pattern>"]`.
 */
export function matchStyles(
  styles: Readonly<Record<string, string>>,
  layers: readonly string[],
  field: string,
  faults: Fault[],
): Map<string, MatchedStyle> {
  const matched = new Map<string, MatchedStyle>();
  const known = new Set(layers);
  for (const [pattern, text] of Object.entries(styles)) {
    const path = `${field}[${JSON.stringify(shorten(pattern))}]`;
    let style: Style | undefined;
    try {
      style = parseStyle(text);
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      faults.push({ path, message: error.message });
    }
    // Most patterns are plain names: a model's own plan may hold one for each of thousands of layers.
    const hits = /[*?]/.test(pattern)
      ? layers.filter((layer) => matchesPattern(pattern, layer))
      : known.has(pattern)
        ? [pattern]
        : [];
    if (hits.length === 0) faults.push({ path, message: noMatch(pattern, layers) });
    for (const layer of hits) {
      const other = matched.get(layer);
      if (other !== undefined) {
        faults.push({
          path,
          message: `layer "${layer}" is matched twice, by "${shorten(other.pattern)}" and "${shorten(pattern)}"; let one pattern match it`,
        });
      } else if (style !== undefined) {
        matched.set(layer, { pattern, style });
      }
    }
  }
  return matched;
}

function noMatch(pattern: string, layers: readonly string[]): string {
  const near = nearestNames(pattern, layers);
  const inside = layers.filter((layer) => layer.startsWith(`${pattern}.`));
  if (inside.length > 0) {
    return `"${shorten(pattern)}" is not a layer but holds some; name them: ${inside.slice(0, 3).join(", ")}`;
  }
  const known = near.length > 0 ? near : layers.slice(0, 5);
  return `matches no layer; ${near.length > 0 ? "nearest" : "the model has"}: ${known.map((l) => `"${l}"`).join(", ")}`;
}

function shorten(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}

/** Whether `pattern` matches the whole of `layer`, atom by atom. */
export function matchesPattern(pattern: string, layer: string): boolean {
  const wanted = pattern.split(".");
  const atoms = layer.split(".");
  return (
    wanted.length === atoms.length && wanted.every((glob, i) => matchesAtom(glob, atoms[i] ?? ""))
  );
}

/** `*` any run of characters, `?` any one; remembers the last star only, so a hostile pattern costs no more than |glob| * |atom|. */
function matchesAtom(glob: string, atom: string): boolean {
  let [g, a, star, resume] = [0, 0, -1, 0];
  while (a < atom.length) {
    if (glob[g] === "*") {
      star = g++;
      resume = a;
    } else if (g < glob.length && (glob[g] === "?" || glob[g] === atom[a])) {
      g++;
      a++;
    } else if (star >= 0) {
      g = star + 1;
      a = ++resume;
    } else {
      return false;
    }
  }
  while (glob[g] === "*") g++;
  return g === glob.length;
}
