import { InternalError, PeerError, UnavailableError } from "../../shared/errors.ts";
import type { Frame, Transport } from "./collective.ts";

/** Numbers in [0, 1). */
type Random = () => number;

export interface MemoryNetworkOptions {
  /** @default 1 */
  readonly seed?: number;
  /** Longest random delay of a delivery, in turns of the event loop. @default 0 */
  readonly maxDelayTurns?: number;
  /** Chance that a frame is refused room for a while, as a full socket does. @default 0 */
  readonly backpressure?: number;
  /** Chance that a frame is lost. @default 0 */
  readonly dropRate?: number;
}

/**
 * Ranks of one process, joined by queues: for tests, and to run a job's ranks without a network. Frames keep
 * their order between two ranks; everything else is shuffled by the seed, so that a failing run can be repeated.
 */
export class MemoryNetwork {
  readonly transports: readonly MemoryTransport[];
  readonly #random: Random;
  readonly #options: Required<MemoryNetworkOptions>;

  constructor(ranks: number, options: MemoryNetworkOptions = {}) {
    this.#options = { seed: 1, maxDelayTurns: 0, backpressure: 0, dropRate: 0, ...options };
    this.#random = seededRandom(this.#options.seed);
    this.transports = Array.from({ length: ranks }, (_, rank) => new MemoryTransport(rank, this));
  }

  transport(rank: number): MemoryTransport {
    const found = this.transports[rank];
    if (found === undefined)
      throw new InternalError(`no rank ${rank} among ${this.transports.length}`);
    return found;
  }

  /** Ends `rank` as a crash would: all others lose it. */
  kill(rank: number, reason = "Connection dropped"): void {
    for (const transport of this.transports) {
      if (transport.rank !== rank)
        transport.lose(rank, new UnavailableError(`rank ${rank}: ${reason}`));
    }
  }

  drops(): boolean {
    return this.#options.dropRate > 0 && this.#random() < this.#options.dropRate;
  }

  /** Turns of the event loop that the next event takes. */
  delayTurns(): number {
    return Math.floor(this.#random() * (this.#options.maxDelayTurns + 1));
  }

  isFull(): boolean {
    return this.#options.backpressure > 0 && this.#random() < this.#options.backpressure;
  }
}

export class MemoryTransport implements Transport {
  readonly rank: number;
  /** While true, nothing that this rank sends arrives: it is alive and silent. */
  silent = false;
  readonly #network: MemoryNetwork;
  readonly #inboxes = new Map<number, { frames: Frame[]; busy: boolean; paused: boolean }>();
  /** The last frame to each peer that waits for room. */
  readonly #outgoing = new Map<number, Promise<void>>();
  readonly #lost = new Set<number>();
  #frameHandler: (peer: number, frame: Frame) => void = () => undefined;
  #lostHandler: (peer: number, cause: Error) => void = () => undefined;
  #closed = false;

  constructor(rank: number, network: MemoryNetwork) {
    this.rank = rank;
    this.#network = network;
  }

  connect(): Promise<void> {
    return Promise.resolve();
  }

  send(peer: number, frame: Frame): Promise<void> | undefined {
    if (this.#lost.has(peer)) {
      const text = `rank ${this.rank} -> rank ${peer}: lost`;
      return Promise.reject(new PeerError(text, { code: "UNAVAILABLE", rank: this.rank, peer }));
    }
    const deliver = (): void => {
      if (this.silent || this.#network.drops()) return;
      this.#network.transport(peer).accept(this.rank, { ...frame, payload: frame.payload.slice() });
    };
    const before = this.#outgoing.get(peer);
    if (before === undefined && !this.#network.isFull()) {
      deliver();
      return undefined;
    }
    const sent = (before ?? Promise.resolve())
      .then(() => turns(1 + this.#network.delayTurns()))
      .then(() => {
        if (this.#outgoing.get(peer) === sent) this.#outgoing.delete(peer);
        deliver();
      });
    this.#outgoing.set(peer, sent);
    return sent;
  }

  onFrame(handler: (peer: number, frame: Frame) => void): void {
    this.#frameHandler = handler;
  }

  onPeerLost(handler: (peer: number, cause: Error) => void): void {
    this.#lostHandler = handler;
  }

  pause(peer: number): void {
    this.#inbox(peer).paused = true;
  }

  resume(peer: number): void {
    this.#inbox(peer).paused = false;
    this.#drain(peer);
  }

  close(): Promise<void> {
    this.#closed = true;
    return Promise.resolve();
  }

  /** Frames that have arrived and were not taken. */
  queued(peer: number): number {
    return this.#inbox(peer).frames.length;
  }

  /** Another rank's frame arrives. */
  accept(peer: number, frame: Frame): void {
    this.#inbox(peer).frames.push(frame);
    this.#drain(peer);
  }

  /** Another rank is gone. */
  lose(peer: number, cause: Error): void {
    if (this.#lost.has(peer)) return;
    this.#lost.add(peer);
    setImmediate(() => {
      if (!this.#closed) this.#lostHandler(peer, cause);
    });
  }

  #drain(peer: number): void {
    const inbox = this.#inbox(peer);
    if (inbox.busy) return;
    inbox.busy = true;
    const next = async (): Promise<void> => {
      while (!inbox.paused && !this.#closed) {
        await turns(this.#network.delayTurns());
        // The state may have changed meanwhile.
        if (inbox.paused || this.#closed) break;
        const frame = inbox.frames.shift();
        if (frame === undefined) break;
        this.#frameHandler(peer, frame);
      }
      inbox.busy = false;
      if (inbox.frames.length > 0 && !inbox.paused && !this.#closed) this.#drain(peer);
    };
    void next();
  }

  #inbox(peer: number): { frames: Frame[]; busy: boolean; paused: boolean } {
    const found = this.#inboxes.get(peer) ?? { frames: [], busy: false, paused: false };
    this.#inboxes.set(peer, found);
    return found;
  }
}

/** Resolves after so many turns of the event loop; 0: in the next microtask. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++)
    await new Promise<void>((resolve) => setImmediate(resolve));
}

/** mulberry32. */
function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
