import { availableParallelism, freemem, totalmem } from "node:os";

/** Cores that this process may use. */
export function numCores(): number {
  return Math.max(1, availableParallelism());
}

/** Memory of the machine or of the container, whichever is less. */
export function machineMemoryBytes(): { readonly total: number; readonly available: number } {
  const limit = process.constrainedMemory();
  const total = limit > 0 && limit < totalmem() ? limit : totalmem();
  return { total, available: Math.min(process.availableMemory?.() ?? freemem(), total) };
}

/** Threads of each of `ranks` workers on this machine. */
export function threadsPerRank(ranks: number): number {
  return Math.max(1, Math.floor(numCores() / ranks));
}
