import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/**
 * Keeps a worker's resident memory near what it needs. Node collects short-lived buffers only when some 35 MB of them
 * have gathered, which is more than all of the worker's own data; a minor collection every few megabytes costs
 * a fraction of a millisecond each.
 */
export class BufferGarbage {
  readonly #everyBytes: number;
  readonly #collect: () => void;
  #bytes = 0;

  constructor(everyBytes = 8 << 20, collect = minorCollection()) {
    this.#everyBytes = everyBytes;
    this.#collect = collect;
  }

  /** Notes that buffers of so many bytes were received, and are or soon will be garbage. */
  add(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes < this.#everyBytes) return;
    this.#bytes = 0;
    this.#collect();
  }
}

/**
 * Stops the main thread's young generation from growing to its usual 32 MB of address space, most of it resident. A
 * new thread resets it, so it is said again after each.
 */
export function keepYoungGenerationSmall(): void {
  setFlagsFromString("--semi-space-growth-factor=1");
}

/** Node's own hook into its collector. Without it, buffers are collected when Node sees fit. */
function minorCollection(): () => void {
  setFlagsFromString("--expose-gc");
  // A context of its own, made after the flag was set, has the function; the main one does not.
  const gc = runInNewContext("globalThis.gc") as ((options: { type: "minor" }) => void) | undefined;
  return gc === undefined ? () => undefined : () => gc({ type: "minor" });
}
