import koffi from "koffi";
import type { CudaContext } from "./cuda-context.ts";
import { runAll } from "./cuda-context.ts";
import { handleOf } from "./driver.ts";

/** Host memory that the device copies from and to at full speed, and without the host's waiting. */
export interface PinnedMemory {
  readonly address: bigint;
  /** Its bytes, up to 4 GiB: longer views crash Node. */
  readonly bytes: number;
}

/** @param owned takes note of how to give it back */
export function allocatePinned(
  { driver }: CudaContext,
  bytes: number,
  owned: (() => void)[],
): PinnedMemory {
  if (bytes === 0) return { address: 0n, bytes };
  const address = handleOf((out) => driver.cuMemHostAlloc(out, bytes, 0));
  owned.push(() => driver.cuMemFreeHost(address));
  return { address: BigInt(address), bytes };
}

/** CU_EVENT_DISABLE_TIMING */
const NO_TIMING = 2;

export function createEvent({ driver }: CudaContext, owned: (() => void)[]): number {
  const event = handleOf((out) => driver.cuEventCreate(out, NO_TIMING));
  owned.push(() => driver.cuEventDestroy_v2(event));
  return event;
}

const CHUNK_BYTES = 1 << 20;

interface Chunk {
  readonly address: bigint;
  readonly view: Uint8Array;
  readonly event: number;
  busy: boolean;
}

/** Two pinned chunks by which bytes go to and from the device, one filled while the other is copied. */
export class Shuttle {
  readonly #context: CudaContext;
  readonly #owned: (() => void)[] = [];
  readonly #chunks: readonly [Chunk, Chunk];
  #next = 0;

  constructor(context: CudaContext) {
    this.#context = context;
    try {
      this.#chunks = [this.#chunk(), this.#chunk()];
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Copies `bytes` to the device, after what is on the compute stream. They are the caller's again at once. */
  send(to: number, bytes: Uint8Array): void {
    const { driver, computeStream } = this.#context;
    for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
      const part = bytes.subarray(at, at + CHUNK_BYTES);
      const chunk = this.#take();
      chunk.view.set(part);
      driver.cuMemcpyHtoDAsync_v2(to + at, chunk.address, part.length, computeStream);
      driver.cuEventRecord(chunk.event, computeStream);
      chunk.busy = true;
    }
  }

  /** Copies bytes from the device, after what is on the compute stream, and waits for them. */
  fetch(into: Uint8Array, from: number): void {
    const { driver, computeStream } = this.#context;
    for (let at = 0; at < into.length; at += CHUNK_BYTES) {
      const part = into.subarray(at, at + CHUNK_BYTES);
      const chunk = this.#take();
      driver.cuMemcpyDtoHAsync_v2(chunk.address, from + at, part.length, computeStream);
      driver.cuStreamSynchronize(computeStream);
      part.set(chunk.view.subarray(0, part.length));
    }
  }

  dispose(): void {
    runAll(this.#owned);
  }

  #take(): Chunk {
    const chunk = this.#chunks[this.#next & 1 ? 1 : 0];
    this.#next++;
    if (chunk.busy) this.#context.driver.cuEventSynchronize(chunk.event);
    chunk.busy = false;
    return chunk;
  }

  #chunk(): Chunk {
    const { address } = allocatePinned(this.#context, CHUNK_BYTES, this.#owned);
    const view = new Uint8Array(koffi.view(address, CHUNK_BYTES));
    return { address, view, event: createEvent(this.#context, this.#owned), busy: false };
  }
}
