import {
  Client,
  type ClientReadableStream,
  connectivityState,
  credentials,
  status,
} from "@grpc/grpc-js";
import {
  AlreadyExistsError,
  PeerError,
  RankmeshError,
  UnavailableError,
} from "../../shared/errors.ts";
import { bulkChannelOptions } from "../../shared/rpc/channel.ts";
import { fromServiceError, isServiceError, toServiceError } from "../../shared/rpc/status.ts";
import type { Frame, Transport } from "./collective.ts";
import { type CollectiveHub, type PullCall, replacedError } from "./collective-hub.ts";
import { collectiveService, type PullFramesMethod } from "./collective-service.ts";
import { OutgoingFrame, type TaggedFrame } from "./frame-codec.ts";
import { relaxGarbageCollection } from "./garbage-collection.ts";
import { releaseBuffer } from "./release-buffer.ts";

export interface GrpcTransportOptions {
  readonly jobId: string;
  readonly generation: number;
  readonly rank: number;
  /** host:port of every rank of the job, by rank. */
  readonly addresses: readonly string[];
  /** Serves this rank's frames; the worker's server hosts it. */
  readonly hub: CollectiveHub;
  /** HTTP/2 receive window per peer; also what a stalled stream can hold in memory. @default 8 MiB */
  readonly windowBytes?: number;
}

const DEFAULT_WINDOW_BYTES = 8 << 20;

/** A server that accepts the connection and then says nothing is given up and dialled anew after this. */
const ATTEMPT_MS = 5_000;
const FIRST_RETRY_MS = 20;
const LAST_RETRY_MS = 500;

/** The stream that a peer has opened, and the frames that wait for it. */
interface Outlet {
  call: PullCall | undefined;
  /** A frame is on its way through the HTTP/2 stream. */
  writing: boolean;
  /** Whether a frame went out on `call`: from then on only this stream has them all. */
  begun: boolean;
  readonly queue: {
    readonly frame: TaggedFrame;
    readonly resolve: () => void;
    readonly reject: (error: Error) => void;
  }[];
  lost: Error | undefined;
}

/** The stream that this rank has opened to a peer. */
interface Inlet {
  readonly client: Client;
  readonly call: ClientReadableStream<TaggedFrame>;
}

/**
 * Frames over CollectiveService.PullFrames. Each rank opens a stream to every peer that it receives from, on a connection of its
 * own, because data flows from server to client: only a client's receive window can be enlarged.
 */
export class GrpcTransport implements Transport {
  readonly rank: number;
  readonly #options: GrpcTransportOptions;
  readonly #method: PullFramesMethod;
  readonly #outlets = new Map<number, Outlet>();
  readonly #inlets = new Map<number, Inlet>();
  readonly #unregister: () => void;
  #frameHandler: (peer: number, frame: Frame) => void = () => undefined;
  #lostHandler: (peer: number, cause: Error) => void = () => undefined;
  #closed = false;

  /** Registers with the hub: from now on peers may open their streams. */
  constructor(options: GrpcTransportOptions) {
    relaxGarbageCollection();
    this.#options = options;
    this.rank = options.rank;
    this.#method = collectiveService().definition.PullFrames;
    const { jobId, generation, rank, addresses } = options;
    this.#unregister = options.hub.register({
      jobId,
      generation,
      rank,
      worldSize: addresses.length,
      accept: (peer, call) => this.#accept(peer, call),
    });
  }

  onFrame(handler: (peer: number, frame: Frame) => void): void {
    this.#frameHandler = handler;
  }

  onPeerLost(handler: (peer: number, cause: Error) => void): void {
    this.#lostHandler = handler;
  }

  async connect(peers: readonly number[], deadlineMs: number): Promise<void> {
    const deadline = performance.now() + deadlineMs;
    const results = await Promise.all(
      peers.map(async (peer) => ({ peer, error: await this.#open(peer, deadline) })),
    );
    const failed = results.flatMap(({ peer, error }) =>
      error === undefined ? [] : [{ peer, error }],
    );
    const [first] = failed;
    if (first === undefined) return;
    const list = failed
      .map(({ peer, error }) => `rank ${peer} at ${this.#address(peer)} (${error.message})`)
      .join(", ");
    throw new PeerError(`rank ${this.rank} could not connect within ${deadlineMs} ms to ${list}`, {
      code: first.error instanceof UnavailableError ? "UNAVAILABLE" : "ABORTED",
      rank: this.rank,
      peer: first.peer,
      cause: first.error,
    });
  }

  send(peer: number, frame: Frame): Promise<void> | undefined {
    const outlet = this.#outlet(peer);
    const tagged: TaggedFrame = { ...frame, generation: this.#options.generation };
    if (outlet.lost !== undefined) return Promise.reject(outlet.lost);
    if (outlet.call !== undefined && !outlet.writing && outlet.queue.length === 0) {
      this.#write(outlet, outlet.call, tagged);
      return undefined;
    }
    return new Promise((resolve, reject) => {
      outlet.queue.push({ frame: tagged, resolve, reject });
    });
  }

  pause(peer: number): void {
    this.#inlets.get(peer)?.call.pause();
  }

  resume(peer: number): void {
    this.#inlets.get(peer)?.call.resume();
  }

  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#closed = true;
    this.#unregister();
    for (const [peer, outlet] of this.#outlets) {
      outlet.call?.end();
      this.#loseOutlet(
        peer,
        outlet,
        new UnavailableError(`rank ${this.rank} has closed its streams`),
      );
    }
    for (const { call, client } of this.#inlets.values()) {
      call.cancel();
      client.close();
    }
    this.#inlets.clear();
    return Promise.resolve();
  }

  /** Opens the stream of one peer, trying again until the deadline. @returns what kept it from that */
  async #open(peer: number, deadline: number): Promise<Error | undefined> {
    let client: Client | undefined;
    let problem: Error = new UnavailableError("no answer");
    let tried = false;
    for (let pause = FIRST_RETRY_MS; ; pause = Math.min(LAST_RETRY_MS, pause * 2)) {
      const left = deadline - performance.now();
      if (this.#closed) problem = new UnavailableError(`rank ${this.rank} has closed its streams`);
      if (this.#closed || left <= 0) break;
      client ??= this.#dial(peer);
      const outcome = await this.#attempt(client, peer, Math.min(ATTEMPT_MS, left));
      if (outcome === "connected") return undefined;
      if (outcome === "silent") {
        const reached = client.getChannel().getConnectivityState(false) === connectivityState.READY;
        client.close();
        client = undefined;
        // An attempt cut short by the deadline says less than the one before it.
        if (left < ATTEMPT_MS && tried) break;
        const what = reached
          ? "it was not assigned to this generation"
          : "no connection, or no gRPC server behind it";
        problem = new UnavailableError(what);
        tried = true;
        continue;
      }
      tried = true;
      problem = outcome;
      if (!(problem instanceof UnavailableError)) break;
      await new Promise((resolve) => setTimeout(resolve, Math.min(pause, Math.max(0, left))));
    }
    client?.close();
    return problem;
  }

  #dial(peer: number): Client {
    const window = this.#options.windowBytes ?? DEFAULT_WINDOW_BYTES;
    return new Client(
      this.#address(peer),
      credentials.createInsecure(),
      bulkChannelOptions(window),
    );
  }

  #attempt(
    client: Client,
    peer: number,
    timeoutMs: number,
  ): Promise<"connected" | "silent" | Error> {
    const { jobId, generation, rank } = this.#options;
    const { path, requestSerialize, responseDeserialize } = this.#method;
    const request = { jobId, generation, rank, fromRank: peer };
    const call = client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
    );
    return new Promise((resolve) => {
      let connected = false;
      const timer = setTimeout(() => {
        resolve("silent");
        call.cancel();
      }, timeoutMs);
      call.on("metadata", () => {
        clearTimeout(timer);
        connected = true;
        if (this.#closed) {
          call.cancel();
        } else {
          this.#inlets.set(peer, { client, call });
        }
        resolve("connected");
      });
      const over = (cause: Error): void => {
        clearTimeout(timer);
        resolve(cause);
        if (connected) this.#loseInlet(peer, call, cause);
      };
      call.on("error", (error) => over(this.#explain(peer, error)));
      call.on("end", () => over(new UnavailableError(`rank ${peer} ended its stream`)));
      call.on("data", (frame: TaggedFrame) => this.#receive(peer, call, frame));
    });
  }

  #receive(peer: number, call: ClientReadableStream<TaggedFrame>, frame: TaggedFrame): void {
    if (this.#closed || this.#inlets.get(peer)?.call !== call) return;
    const { generation } = this.#options;
    if (frame.generation !== generation) {
      const text = `rank ${this.rank} <- rank ${peer}: got a frame of generation ${frame.generation} in generation ${generation}`;
      call.cancel();
      this.#loseInlet(
        peer,
        call,
        new PeerError(text, { code: "DATA_LOSS", rank: this.rank, peer, step: frame.step }),
      );
      return;
    }
    this.#frameHandler(peer, frame);
  }

  #loseInlet(peer: number, call: ClientReadableStream<TaggedFrame>, cause: Error): void {
    const inlet = this.#inlets.get(peer);
    if (this.#closed || inlet?.call !== call) return;
    this.#inlets.delete(peer);
    inlet.client.close();
    this.#lostHandler(peer, cause);
  }

  /** A peer has opened its stream. One that comes again (its first try timed out on its side) replaces the other. */
  #accept(peer: number, call: PullCall): void {
    const outlet = this.#outlet(peer);
    if (outlet.lost !== undefined) {
      call.emit("error", toServiceError(outlet.lost));
      return;
    }
    const before = outlet.call;
    if (outlet.begun) {
      const text = `rank ${peer} has a stream of rank ${this.rank}'s frames already`;
      call.emit("error", toServiceError(new AlreadyExistsError(text)));
      return;
    }
    outlet.call = call;
    outlet.writing = false;
    if (before !== undefined) before.emit("error", toServiceError(replacedError(peer)));
    call.on("cancelled", () => {
      if (outlet.call !== call) return;
      this.#loseOutlet(peer, outlet, new UnavailableError(`rank ${peer} has closed its stream`));
    });
    this.#drain(outlet, call);
  }

  #write(outlet: Outlet, call: PullCall, frame: TaggedFrame): void {
    outlet.writing = true;
    outlet.begun = true;
    // Nothing else is being written, so that the frame is encoded, and its payload copied, before this returns.
    const outgoing = new OutgoingFrame(frame);
    call.write(outgoing, () => {
      if (outgoing.message !== undefined) releaseBuffer(outgoing.message);
      if (outlet.call !== call) return;
      outlet.writing = false;
      this.#drain(outlet, call);
    });
  }

  #drain(outlet: Outlet, call: PullCall): void {
    if (outlet.writing) return;
    const next = outlet.queue.shift();
    if (next === undefined) return;
    this.#write(outlet, call, next.frame);
    next.resolve();
  }

  #loseOutlet(peer: number, outlet: Outlet, cause: Error): void {
    if (outlet.lost !== undefined) return;
    outlet.lost = new PeerError(`rank ${this.rank} -> rank ${peer}: ${cause.message}`, {
      code: "UNAVAILABLE",
      rank: this.rank,
      peer,
      cause,
    });
    for (const { reject } of outlet.queue.splice(0)) reject(outlet.lost);
  }

  #outlet(peer: number): Outlet {
    const found = this.#outlets.get(peer);
    if (found !== undefined) return found;
    const outlet: Outlet = {
      call: undefined,
      writing: false,
      begun: false,
      queue: [],
      lost: undefined,
    };
    this.#outlets.set(peer, outlet);
    return outlet;
  }

  #explain(peer: number, error: Error): Error {
    const explained = fromServiceError(error, `rank ${peer}`);
    // A peer that was not assigned yet, or that is starting, may be there in a moment.
    if (isServiceError(error) && error.code === status.RESOURCE_EXHAUSTED)
      return new UnavailableError(error.details);
    return explained instanceof RankmeshError ? explained : new UnavailableError(error.message);
  }

  #address(peer: number): string {
    return this.#options.addresses[peer] ?? "(no address)";
  }
}
