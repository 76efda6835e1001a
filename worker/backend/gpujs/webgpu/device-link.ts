import {
  MessageChannel,
  type MessagePort,
  receiveMessageOnPort,
  Worker,
} from "node:worker_threads";
import {
  DeviceError,
  FailedPreconditionError,
  InternalError,
  ResourceExhaustedError,
} from "../../../../shared/errors.ts";
import { type Dispatch, dispatchWords, writeDispatch } from "./dispatch.ts";
import type {
  AdapterFacts,
  DeviceFailure,
  DeviceRange,
  DeviceReply,
  DeviceRequest,
  DeviceStart,
  SharedRange,
} from "./messages.ts";

/** Dispatches that go to the device at a time: few submissions, and yet it begins while the rest of a step is being handed over. */
const BATCH = 128;
const PARAMETER_ALIGN = 256;
const MAX_PARAMETER_BYTES = 2048;
const PARAMETER_BYTES = 128 * 1024;
const STAGING_BYTES = 1 << 20;
const NUM_STAGINGS = 2;

/** Memory that the device's thread takes for itself: parameters, and what results come back through. */
export const LINK_BYTES = PARAMETER_BYTES + NUM_STAGINGS * STAGING_BYTES;

/** A device that says nothing for so long is given up; a kernel on a software adapter may take minutes. */
const SILENCE_MS = 600_000;
const START_MS = 60_000;
/** Bytes on their way to the device before a writer waits for it. */
const MAX_UNDERWAY_BYTES = 64 << 20;

/**
 * The compute thread's side of the device: requests go to the thread that owns it, in order and without waiting; where an
 * answer is needed, this thread sleeps until it is there. Once something has failed, every use throws that.
 */
export class DeviceLink {
  readonly adapter: AdapterFacts;
  readonly #port: MessagePort;
  readonly #replies = new Int32Array(new SharedArrayBuffer(4));
  readonly #bytes = new Map<number, Uint8Array>();
  readonly #done = new Set<number>();
  readonly #refused = new Map<number, string>();
  readonly #words = new Uint32Array(64 * 1024);
  #length = 0;
  #dispatches = 0;
  #parameterBytes = 0;
  #underwayBytes = 0;
  #lastId = 0;
  #failure: DeviceError | undefined;
  #closed = false;
  /** Dawn ends the process when its thread goes while it owes an answer. */
  readonly #onExit = (): void => this.close();

  /**
   * @param options what Dawn, which implements WebGPU here, is told
   * @throws FailedPreconditionError with what is missing when there is no adapter; DeviceError when it fails at once
   */
  constructor(options: readonly string[] = []) {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    const start: DeviceStart = {
      port: port2,
      options,
      replies: this.#replies.buffer,
      parameterBytes: PARAMETER_BYTES,
      maxParameterBytes: MAX_PARAMETER_BYTES,
      stagingBytes: STAGING_BYTES,
      numStagings: NUM_STAGINGS,
    };
    const worker = new Worker(new URL("./device-thread.js", import.meta.url), {
      workerData: start,
      transferList: [port2],
    });
    // It ends with this thread, or when told to close.
    worker.unref();
    process.once("exit", this.#onExit);
    let first: DeviceReply | undefined;
    this.#waitFor(() => {
      first = receive(this.#port);
      return first !== undefined;
    }, START_MS);
    switch (first?.kind) {
      case "ready":
        this.adapter = first.adapter;
        return;
      case "failed":
        throw deviceError(first.failure);
      case "unavailable":
        process.off("exit", this.#onExit);
        throw new FailedPreconditionError(`gpujs backend: ${first.why}`);
      default:
        throw new InternalError(`the device's thread began with ${first?.kind ?? "nothing"}`);
    }
  }

  /** Nothing more can be had from the device. */
  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** @returns a number for the pipeline, which is good at once */
  addPipeline(label: string, code: string, bindings: number): number {
    const id = ++this.#lastId;
    this.#post({ kind: "pipeline", id, label, code, bindings });
    return id;
  }

  /**
   * Allocates device memory, zeroed.
   * @returns a number for the buffer
   * @throws ResourceExhaustedError when it is refused
   */
  addBuffer(label: string, bytes: number): number {
    const id = ++this.#lastId;
    this.#post({ kind: "buffer", id, bytes, label });
    this.#waitFor(() => this.#done.has(id) || this.#refused.has(id), SILENCE_MS);
    const refusal = this.#refused.get(id);
    this.#refused.delete(id);
    this.#done.delete(id);
    if (refusal === undefined) return id;
    throw new ResourceExhaustedError(
      `gpujs backend: ${this.adapter.name} refused ${bytes} bytes for ${label} (${refusal}); free memory, or use more ranks`,
    );
  }

  destroyBuffer(buffer: number): void {
    this.#post({ kind: "destroy", buffer });
  }

  dispatch(dispatch: Dispatch): void {
    const words = dispatchWords(dispatch);
    if (
      this.#dispatches === BATCH ||
      this.#length + words > this.#words.length ||
      this.#parameterBytes + MAX_PARAMETER_BYTES > PARAMETER_BYTES
    ) {
      this.flush();
    }
    this.#length = writeDispatch(this.#words, this.#length, dispatch);
    this.#dispatches++;
    const bytes = this.#parameterBytes + dispatch.parameters.byteLength;
    this.#parameterBytes = Math.ceil(bytes / PARAMETER_ALIGN) * PARAMETER_ALIGN;
  }

  /** Lets the device begin with all dispatches so far. */
  flush(): void {
    this.#check();
    if (this.#dispatches === 0) return;
    const words = this.#words.slice(0, this.#length);
    const dispatches = this.#dispatches;
    [this.#length, this.#dispatches, this.#parameterBytes] = [0, 0, 0];
    this.#send({ kind: "batch", words, dispatches }, [words.buffer]);
  }

  /** Offset and length are multiples of 4. The bytes are the caller's again when it returns. */
  write(to: DeviceRange, bytes: Uint8Array): void {
    const copy = new Uint8Array(bytes);
    this.#underwayBytes += copy.length;
    this.#post({ kind: "write", buffer: to.buffer, offset: to.offset, bytes: copy }, [copy.buffer]);
    if (this.#underwayBytes > MAX_UNDERWAY_BYTES) this.wait();
  }

  /** Offset and length are multiples of 4. */
  read({ buffer, offset, bytes }: DeviceRange): Uint8Array {
    const id = ++this.#lastId;
    this.#post({ kind: "read", id, buffer, offset, bytes });
    this.#waitFor(() => this.#bytes.has(id), SILENCE_MS);
    const read = this.#bytes.get(id);
    this.#bytes.delete(id);
    if (read === undefined) throw new InternalError(`read ${id} without bytes`);
    return read;
  }

  /** Begins to copy device memory to shared memory. @returns what `isDone` is asked about */
  fetch(from: DeviceRange, to: SharedRange): number {
    const id = ++this.#lastId;
    this.#post({ kind: "fetch", id, from, to });
    return id;
  }

  /** Whether fetch `id` has ended; with `wait`, true when it has. It is asked about until it has. */
  isDone(id: number, wait: boolean): boolean {
    if (wait) this.#waitFor(() => this.#done.has(id), SILENCE_MS);
    else this.#drain();
    this.#check();
    return this.#done.delete(id);
  }

  /** Copies shared memory to the device. It must stay as it is until the device is waited for. */
  sendShared(from: SharedRange, to: DeviceRange): void {
    this.#post({ kind: "send", from, to });
  }

  /** Returns when the device has done all that it was asked for. */
  wait(): void {
    const id = ++this.#lastId;
    this.#post({ kind: "wait", id });
    this.isDone(id, true);
    this.#underwayBytes = 0;
  }

  /** Gives back the device, also one that has failed. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    process.off("exit", this.#onExit);
    let ended = false;
    this.#port.postMessage({ kind: "close" } satisfies DeviceRequest);
    this.#sleepUntil(() => {
      for (let reply = receive(this.#port); reply !== undefined; reply = receive(this.#port)) {
        ended ||= reply.kind === "closed";
      }
      return ended;
    }, START_MS);
    this.#port.close();
  }

  #post(request: DeviceRequest, transfer?: readonly ArrayBuffer[]): void {
    this.flush();
    this.#send(request, transfer);
  }

  #send(request: DeviceRequest, transfer: readonly ArrayBuffer[] = []): void {
    if (this.#closed) throw new InternalError("the WebGPU device was used after close()");
    this.#port.postMessage(request, transfer);
  }

  /** @throws DeviceError when the device has failed */
  #check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #drain(): void {
    for (let reply = receive(this.#port); reply !== undefined; reply = receive(this.#port)) {
      switch (reply.kind) {
        case "bytes":
          this.#bytes.set(reply.id, reply.bytes);
          break;
        case "done":
          this.#done.add(reply.id);
          break;
        case "refused":
          this.#refused.set(reply.id, reply.text);
          break;
        case "failed":
          this.#failure ??= deviceError(reply.failure);
          break;
        default:
          throw new InternalError(`the device's thread answered ${reply.kind}`);
      }
    }
  }

  #waitFor(done: () => boolean, silenceMs: number): void {
    this.#sleepUntil(() => {
      if (this.adapter !== undefined) this.#drain();
      this.#check();
      return done();
    }, silenceMs);
  }

  /** @throws DeviceError when the device's thread says nothing for `silenceMs` */
  #sleepUntil(done: () => boolean, silenceMs: number): void {
    for (;;) {
      const seen = Atomics.load(this.#replies, 0);
      if (done()) return;
      if (Atomics.wait(this.#replies, 0, seen, silenceMs) === "timed-out" && !done()) {
        throw deviceError({
          call: "wait",
          status: "lost",
          text: `nothing from the device ${this.adapter?.name ?? "that is being opened"} within ${silenceMs} ms`,
        });
      }
    }
  }
}

function receive(port: MessagePort): DeviceReply | undefined {
  return (receiveMessageOnPort(port) as { readonly message: DeviceReply } | undefined)?.message;
}

function deviceError({ call, status, text }: DeviceFailure): DeviceError {
  return new DeviceError(`gpujs backend: WebGPU ${call}: ${status}: ${text}`, {
    code: status === "out of memory" ? "RESOURCE_EXHAUSTED" : "UNAVAILABLE",
    call,
    status,
    fatal: true,
  });
}
