import { InternalError, ResourceExhaustedError } from "../../../../shared/errors.ts";
import type { Program } from "../../../../shared/program/program.ts";
import type { Address } from "../../kernels.ts";
import type { DeviceLink } from "./device-link.ts";

/** Where addresses of the arena begin: anything but NULL. */
export const ARENA: Address = 1 << 20;
/** Where those of the kernels' workspace begin, far above any arena. */
export const WORKSPACE: Address = 2 ** 52;
/** What kernels keep from one launch to the next: sums of groups, statistics of rows. */
export const WORKSPACE_BYTES = 64 * 1024;

/** Buffers that an arena may be cut into. */
const MAX_BUFFERS = 16;
const CUT_ALIGN = 256;

interface Part {
  readonly buffer: number;
  readonly start: Address;
  readonly end: Address;
}

/** The device's memory of one program, at addresses of its own: an arena in one or several buffers, and the device's workspace. */
export class DeviceMemory {
  readonly #link: DeviceLink;
  readonly #workspace: number;
  readonly #parts: Part[] = [];

  /**
   * @param workspace a buffer of WORKSPACE_BYTES
   * @throws ResourceExhaustedError when the adapter cannot hold or bind it, or refuses it; nothing is kept then
   */
  constructor(link: DeviceLink, program: Program, workspace: number) {
    this.#link = link;
    this.#workspace = workspace;
    const { name, maxBindingBytes } = link.adapter;
    const large = program.slots.find(({ sizeBytes }) => sizeBytes > maxBindingBytes);
    if (large !== undefined) {
      throw new ResourceExhaustedError(
        `gpujs backend: ${large.name} takes ${large.sizeBytes} bytes, ${name} binds ${maxBindingBytes} at a time; use more ranks`,
      );
    }
    try {
      const cuts = cutArena(program, link.adapter.maxBufferBytes);
      cuts.forEach((end, i) => {
        this.#add(`the arena of program ${program.name}`, ARENA + (cuts[i - 1] ?? 0), ARENA + end);
      });
    } catch (error) {
      this.free();
      throw error;
    }
  }

  /** The buffer that holds an address, and where in it. */
  locate(address: Address): { readonly buffer: number; readonly offset: number } {
    if (address >= WORKSPACE) return { buffer: this.#workspace, offset: address - WORKSPACE };
    // An empty tensor may lie at the very end.
    const part = this.#parts.findLast(({ start }) => address >= start);
    if (part === undefined || address > part.end)
      throw new InternalError(`no device memory at ${address}`);
    return { buffer: part.buffer, offset: address - part.start };
  }

  free(): void {
    for (const { buffer } of this.#parts.splice(0)) this.#link.destroyBuffer(buffer);
  }

  #add(label: string, start: Address, end: Address): void {
    const bytes = Math.max(4, Math.ceil((end - start) / 4) * 4);
    this.#parts.push({ buffer: this.#link.addBuffer(label, bytes), start, end });
  }
}

/**
 * Ends of the pieces of an arena, none longer than `maxBytes`: cut where no slot is cut.
 * @throws ResourceExhaustedError when there is no such place
 */
export function cutArena(
  { name, arenaBytes, slots }: Pick<Program, "name" | "arenaBytes" | "slots">,
  maxBytes: number,
): number[] {
  if (arenaBytes > MAX_BUFFERS * maxBytes) {
    throw new ResourceExhaustedError(
      `gpujs backend: program ${name} needs ${arenaBytes} bytes, ${MAX_BUFFERS} buffers hold ${maxBytes} each; use more ranks`,
    );
  }
  const ends: number[] = [];
  let start = 0;
  while (arenaBytes - start > maxBytes) {
    const end = lastCut(slots, start + Math.floor(maxBytes / CUT_ALIGN) * CUT_ALIGN);
    if (end <= start) {
      throw new ResourceExhaustedError(
        `gpujs backend: program ${name} overlays its buffers so that ${maxBytes} bytes from ${start} on cannot be cut off; use more ranks`,
      );
    }
    ends.push(end);
    start = end;
  }
  return [...ends, arenaBytes];
}

/** The highest offset up to `limit` that lies inside no slot. */
function lastCut(slots: Program["slots"], limit: number): number {
  let cut = limit;
  for (;;) {
    const crossed = slots.filter(
      ({ offsetBytes, sizeBytes }) => offsetBytes < cut && cut < offsetBytes + sizeBytes,
    );
    if (crossed.length === 0) return cut;
    cut = Math.min(...crossed.map(({ offsetBytes }) => offsetBytes));
  }
}
