import { InternalError } from "../../shared/errors.ts";
import type { MemoryAccount } from "./backend.ts";

/** Counts every byte that a backend asks of the system, at the moment it asks. */
export class MemoryLedger implements MemoryAccount {
  readonly #byKind = new Map<string, number>();
  readonly #observed = new Map<string, number>();
  #currentBytes = 0;
  #peakBytes = 0;

  allocate(kind: string, bytes: number): void {
    if (!Number.isSafeInteger(bytes) || bytes < 0) {
      throw new InternalError(`memory account: ${bytes} bytes of ${kind} allocated`);
    }
    this.#byKind.set(kind, (this.#byKind.get(kind) ?? 0) + bytes);
    this.#currentBytes += bytes;
    this.#peakBytes = Math.max(this.#peakBytes, this.#currentBytes);
  }

  free(kind: string, bytes: number): void {
    const held = this.#byKind.get(kind) ?? 0;
    if (!(bytes >= 0 && bytes <= held)) {
      throw new InternalError(`memory account: ${bytes} bytes of ${kind} freed, ${held} held`);
    }
    if (held === bytes) this.#byKind.delete(kind);
    else this.#byKind.set(kind, held - bytes);
    this.#currentBytes -= bytes;
  }

  observe(kind: string, bytes: number): void {
    if (bytes === 0) this.#observed.delete(kind);
    else this.#observed.set(kind, bytes);
  }

  get currentBytes(): number {
    return this.#currentBytes;
  }

  get peakBytes(): number {
    return this.#peakBytes;
  }

  byKind(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#byKind, ...this.#observed]);
  }
}
