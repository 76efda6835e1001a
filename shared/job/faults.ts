import type { Fault } from "../errors.ts";
import { quote } from "../quote.ts";

/** Faults kept; a spec that is wrong in more places than this is told how many more there are. */
const MAX_FAULTS = 100;

/** A field name, an index of a list, or the key of a user's own map (always printed in brackets). */
export type Segment = string | number | { readonly key: string };

export type Path = readonly Segment[];

/** `optimizer.adamw.lr`, `model.graph.nodes[3].op`, `plan["layers.*.w1"]`. */
export function formatPath(path: Path): string {
  let text = "";
  for (const segment of path) {
    if (typeof segment === "number") text += `[${segment}]`;
    else if (typeof segment === "object") text += `[${quote(segment.key)}]`;
    else if (/^[A-Za-z_$][\w$]{0,79}$/.test(segment)) text += text === "" ? segment : `.${segment}`;
    else text += `[${quote(segment)}]`;
  }
  return text;
}

/** Collects the faults of one spec and remembers which of its parts they are in. */
export class FaultList {
  readonly #faults: Fault[] = [];
  readonly #broken = new Set<string>();
  #unlisted = 0;

  add(path: Path, message: string): void {
    for (let length = 0; length <= path.length && length <= 4; length++) {
      this.#broken.add(formatPath(path.slice(0, length)));
    }
    if (this.#faults.length < MAX_FAULTS) this.#faults.push({ path: formatPath(path), message });
    else this.#unlisted += 1;
  }

  /** Faults added so far, listed or not. */
  get count(): number {
    return this.#faults.length + this.#unlisted;
  }

  /** Whether further faults would only be counted, so that a caller may stop looking. */
  get full(): boolean {
    return this.#unlisted > 0;
  }

  /** Paths that have a fault at or below them, to a depth of four: `""`, `optimizer`, `optimizer.adamw`, ... */
  get broken(): ReadonlySet<string> {
    return this.#broken;
  }

  toArray(): Fault[] {
    if (this.#unlisted === 0) return [...this.#faults];
    return [...this.#faults, { path: "", message: `and at least ${this.#unlisted} more` }];
  }
}
