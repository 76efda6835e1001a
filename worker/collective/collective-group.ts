import { InternalError, PeerError, UnavailableError } from "../../shared/errors.ts";
import { groupOf } from "../../shared/mesh/mesh.ts";
import {
  type Collective,
  type CollectiveOp,
  dtypeBytes,
  type Program,
} from "../../shared/program/program.ts";
import { bestSumKernel } from "./best-sum.ts";
import type {
  CollectiveBuffers,
  CollectiveGroup,
  CollectiveKey,
  Frame,
  Transport,
} from "./collective.ts";
import { CollectiveRun } from "./collective-run.ts";
import type { Schedule } from "./schedule.ts";
import { scheduleOf, shapeOf } from "./schedule-of.ts";
import type { SumKernel } from "./sum-kernel.ts";

/** A collective that waits for a peer this long without progress fails. */
export const DEFAULT_COLLECTIVE_TIMEOUT_MS = 60_000;

/** Frames that one peer may send ahead of this rank's program before its stream is paused. */
const DEFAULT_EARLY_BYTES = 16 << 20;

/** Own frames that a rank has out before any comes in: with the largest segments 4 MiB. */
const PACE_BYTES = 4 << 20;
const MIN_PACE_FRAMES = 8;

/** What metrics want to know. Called on the main thread; must not throw. */
export interface CollectiveObserver {
  /** A collective ended well. */
  finished?(op: CollectiveOp, seconds: number, sentBytes: number, receivedBytes: number): void;
  /** Nothing could be done until a frame of `peer` came. */
  waited?(peer: number, seconds: number): void;
}

export interface PeerCollectiveGroupOptions {
  readonly program: Pick<Program, "mesh" | "collectives">;
  readonly rank: number;
  readonly transport: Transport;
  /** @default DEFAULT_COLLECTIVE_TIMEOUT_MS */
  readonly timeoutMs?: number;
  /** @default the fastest that this machine has */
  readonly sum?: SumKernel;
  readonly observer?: CollectiveObserver;
  /** Bytes of frames for collectives not begun that are held per peer. @default 16 MiB */
  readonly earlyBytes?: number;
  /** Own frames sent ahead of those received. @default 4 MiB of them, at least 8 */
  readonly paceFrames?: number;
}

/** How this rank takes part in one collective of the program. */
interface Part {
  readonly descriptor: Collective;
  readonly group: readonly number[];
  readonly index: number;
  readonly schedule: Schedule;
  /** Step and microbatch of the last run begun. */
  lastStep: number;
  lastMicrobatch: number;
}

interface PendingRun {
  readonly run: CollectiveRun;
  readonly part: Part;
  readonly beganMs: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  sentBytes: number;
  receivedBytes: number;
}

/** Frames of collectives that this rank has not begun. */
interface EarlyFrames {
  frames: Frame[];
  bytes: number;
  paused: boolean;
}

/**
 * Runs collectives over a transport. Several may be in flight: frames find theirs by key. The first error ends
 * the group, because a generation that has lost a frame cannot go on.
 *
 * Frames that come early are held, up to a limit, then the peer's stream is paused. That cannot deadlock:
 * all ranks begin collectives in program order, and a peer is ahead of this rank only with collectives that
 * this rank begins before it waits for anything that the peer has not sent before them. A collective that has begun gets all of
 * its input whatever its peers do, so frames that wait for some of it cannot hold up their stream for good either.
 */
export class PeerCollectiveGroup implements CollectiveGroup {
  readonly #options: PeerCollectiveGroupOptions;
  readonly #timeoutMs: number;
  readonly #sum: SumKernel;
  readonly #transport: Transport;
  readonly #parts: (Part | undefined)[] = [];
  readonly #pending: PendingRun[] = [];
  readonly #early = new Map<number, EarlyFrames>();
  readonly #lost = new Map<number, Error>();
  #failure: Error | undefined;
  #watch: NodeJS.Timeout | undefined;
  #sentBytes = 0;
  #receivedBytes = 0;

  constructor(options: PeerCollectiveGroupOptions) {
    this.#options = options;
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_COLLECTIVE_TIMEOUT_MS;
    this.#sum = options.sum ?? bestSumKernel().sum;
    this.#transport = options.transport;
    this.#transport.onFrame((peer, frame) => this.#take(peer, frame));
    this.#transport.onPeerLost((peer, cause) => this.#lose(peer, cause));
  }

  get sentBytes(): number {
    return this.#sentBytes;
  }

  get receivedBytes(): number {
    return this.#receivedBytes;
  }

  /** Ranks whose frames are missing now, ascending. */
  waitingFor(): number[] {
    const peers = this.#pending.flatMap(({ run }) => run.waitingFor().map(({ peer }) => peer));
    return [...new Set(peers)].sort((a, b) => a - b);
  }

  run(
    descriptor: Collective,
    key: CollectiveKey,
    buffers: CollectiveBuffers,
    batchHash: number,
  ): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    try {
      const part = this.#partOf(key.collective);
      checkCall(part, descriptor, key, buffers);
      return new Promise((resolve, reject) => {
        this.#begin(part, key, buffers, batchHash, resolve, reject);
      });
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new InternalError(String(error)));
    }
  }

  abort(cause: Error): void {
    this.#fail(cause);
  }

  #begin(
    part: Part,
    key: CollectiveKey,
    buffers: CollectiveBuffers,
    batchHash: number,
    resolve: () => void,
    reject: (error: Error) => void,
  ): void {
    part.lastStep = key.step;
    part.lastMicrobatch = key.microbatch;
    const { descriptor, group, index, schedule } = part;
    const paceFrames =
      this.#options.paceFrames ??
      Math.max(MIN_PACE_FRAMES, Math.floor(PACE_BYTES / descriptor.segmentBytes));
    const run = new CollectiveRun({
      descriptor,
      key,
      buffers,
      batchHash: batchHash >>> 0,
      schedule,
      group,
      index,
      paceFrames,
      sum: this.#sum,
      send: (peer, frame) => this.#transport.send(peer, frame),
      sent: (bytes) => {
        pending.sentBytes += bytes;
        this.#sentBytes += bytes;
      },
      fail: (error) => this.#fail(error),
      done: () => this.#finish(pending),
      waited: (peer, seconds) => this.#options.observer?.waited?.(peer, seconds),
      kept: (peer, bytes) => this.#keep(peer, bytes),
    });
    buffers.staging?.onArrival(() => this.#guard(() => run.resume()));
    const beganMs = performance.now();
    const pending: PendingRun = {
      run,
      part,
      beganMs,
      resolve,
      reject,
      sentBytes: 0,
      receivedBytes: 0,
    };
    this.#pending.push(pending);
    this.#watch ??= setInterval(
      () => this.#checkProgress(),
      Math.min(1000, Math.ceil(this.#timeoutMs / 8)),
    );

    for (const [peer, cause] of this.#lost) {
      // Frames that came before the loss may be all that is needed.
      const held = this.#early.get(peer)?.frames.filter((frame) => sameKey(frame, key)).length ?? 0;
      if (run.expectsFrom(peer) && held < (laneLength(schedule, group, peer) ?? 0)) {
        this.#fail(lostError(run, this.#options.rank, peer, cause));
        return;
      }
    }
    this.#guard(() => run.start());
    for (const peer of group) this.#takeEarly(peer, pending);
  }

  #take(peer: number, frame: Frame): void {
    if (this.#failure !== undefined) return;
    const pending = this.#pending.find(({ run }) => sameKey(frame, run.key));
    if (pending !== undefined) this.#deliver(pending, peer, frame);
    else this.#guard(() => this.#hold(peer, frame));
  }

  #deliver(pending: PendingRun, peer: number, frame: Frame): void {
    pending.receivedBytes += frame.payload.length;
    this.#receivedBytes += frame.payload.length;
    this.#guard(() => pending.run.deliver(peer, frame));
  }

  /** Keeps a frame for a collective not begun. @throws PeerError when none will ever want it */
  #hold(peer: number, frame: Frame): void {
    const { rank } = this.#options;
    const { step, microbatch, collective, segment, payload } = frame;
    const descriptor = this.#options.program.collectives[collective];
    const part = descriptor === undefined ? undefined : this.#partOf(collective);
    const expected = part === undefined ? 0 : (laneLength(part.schedule, part.group, peer) ?? 0);
    const over =
      part !== undefined &&
      (step < part.lastStep || (step === part.lastStep && microbatch <= part.lastMicrobatch));
    if (descriptor === undefined || segment >= expected || over) {
      const name =
        descriptor === undefined
          ? `collective ${collective}`
          : `${descriptor.op} "${descriptor.label}"`;
      const why =
        descriptor === undefined
          ? `the program has ${this.#options.program.collectives.length} collectives`
          : over
            ? "which is over"
            : `of which rank ${rank} expects ${expected} segments`;
      throw new PeerError(
        `rank ${rank} <- rank ${peer}: got segment ${segment} of ${payload.length} bytes of ${name} (step ${step}, microbatch ${microbatch}), ${why}`,
        { code: "DATA_LOSS", rank, peer, step },
      );
    }
    this.#earlyOf(peer).frames.push(frame);
    this.#keep(peer, payload.length);
  }

  #earlyOf(peer: number): EarlyFrames {
    const early = this.#early.get(peer) ?? { frames: [], bytes: 0, paused: false };
    this.#early.set(peer, early);
    return early;
  }

  /**
   * Counts bytes of a peer's frames that nothing can be done with yet, and pauses its stream while they are too many:
   * those of collectives not begun, and those that wait for input that a device is bringing.
   */
  #keep(peer: number, bytes: number): void {
    if (this.#failure !== undefined) return;
    const limit = this.#options.earlyBytes ?? DEFAULT_EARLY_BYTES;
    const early = this.#earlyOf(peer);
    early.bytes += bytes;
    if (!early.paused && early.bytes > limit) {
      early.paused = true;
      this.#transport.pause(peer);
    } else if (early.paused && early.bytes <= limit / 2) {
      early.paused = false;
      this.#transport.resume(peer);
    }
  }

  #takeEarly(peer: number, pending: PendingRun): void {
    const early = this.#early.get(peer);
    if (early === undefined || early.frames.length === 0) return;
    const mine = early.frames.filter((frame) => sameKey(frame, pending.run.key));
    if (mine.length === 0) return;
    early.frames = early.frames.filter((frame) => !sameKey(frame, pending.run.key));
    for (const frame of mine) {
      if (this.#failure !== undefined) return;
      early.bytes -= frame.payload.length;
      this.#deliver(pending, peer, frame);
    }
    this.#keep(peer, 0);
  }

  #lose(peer: number, cause: Error): void {
    if (this.#failure !== undefined || this.#lost.has(peer)) return;
    this.#lost.set(peer, cause);
    const pending = this.#pending.find(({ run }) => run.expectsFrom(peer));
    if (pending !== undefined) this.#fail(lostError(pending.run, this.#options.rank, peer, cause));
  }

  #finish(pending: PendingRun): void {
    const at = this.#pending.indexOf(pending);
    if (at >= 0) this.#pending.splice(at, 1);
    const seconds = (performance.now() - pending.beganMs) / 1000;
    const { op } = pending.part.descriptor;
    this.#options.observer?.finished?.(op, seconds, pending.sentBytes, pending.receivedBytes);
    pending.resolve();
  }

  #stuckRun(): PendingRun | undefined {
    const now = performance.now();
    return this.#pending.find(({ run }) => now - run.lastProgressMs >= this.#timeoutMs);
  }

  #checkProgress(): void {
    // Started with a run and ended a period after the last, so that runs in quick succession share one timer.
    if (this.#pending.length === 0) this.#stopWatch();
    // If this thread was held up itself, frames may lie in the sockets: look again after they have been read.
    if (this.#stuckRun() !== undefined) setImmediate(() => setImmediate(() => this.#failIfStuck()));
  }

  #failIfStuck(): void {
    const stuck = this.#stuckRun();
    if (stuck === undefined) return;
    const { rank } = this.#options;
    const { run } = stuck;
    const missing = run.missingInput();
    if (missing !== undefined) {
      // Its peers may wait for this rank, and it for them because of that: the first cause is told.
      this.#fail(
        new UnavailableError(
          `rank ${rank}: the device brought ${missing.pieces} of ${missing.of} pieces of the input of ${run.what()}, and no more within ${this.#timeoutMs} ms`,
        ),
      );
      return;
    }
    const waits = run.waitingFor();
    const first = waits[0];
    if (first === undefined) {
      this.#fail(
        new InternalError(`rank ${rank}: ${run.what()} waits for nobody and does not end`),
      );
      return;
    }
    const { peer, direction, segment } = first;
    const others = waits.slice(1).map((wait) => wait.peer);
    const also = others.length > 0 ? `; nor from rank ${others.join(", ")}` : "";
    const text =
      direction === "<-"
        ? `no segment ${segment} of ${run.what()} within ${this.#timeoutMs} ms${also}${this.#sentInstead(peer)}`
        : `segment ${segment} of ${run.what()} was not taken within ${this.#timeoutMs} ms`;
    this.#fail(
      new PeerError(`rank ${rank} ${direction} rank ${peer}: ${text}`, {
        code: "DEADLINE_EXCEEDED",
        rank,
        peer,
        step: run.key.step,
      }),
    );
  }

  /** What a peer that is waited for has sent in its place: the mark of ranks that run different programs. */
  #sentInstead(peer: number): string {
    const frame = this.#early.get(peer)?.frames[0];
    const descriptor = frame && this.#options.program.collectives[frame.collective];
    if (frame === undefined || descriptor === undefined) return "";
    return `; it sent ${descriptor.op} "${descriptor.label}" (step ${frame.step}, microbatch ${frame.microbatch}) instead`;
  }

  #guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#fail(error instanceof Error ? error : new InternalError(String(error)));
    }
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#stopWatch();
    this.#early.clear();
    for (const { run, reject } of this.#pending.splice(0)) {
      run.stop();
      reject(error);
    }
  }

  #stopWatch(): void {
    clearInterval(this.#watch);
    this.#watch = undefined;
  }

  #partOf(collective: number): Part {
    const known = this.#parts[collective];
    if (known !== undefined) return known;
    const { program, rank } = this.#options;
    const descriptor = program.collectives[collective];
    if (descriptor === undefined)
      throw new InternalError(`the program has no collective ${collective}`);
    const group = groupOf(program.mesh, descriptor.axes, rank);
    const index = group.indexOf(rank);
    const schedule = scheduleOf(shapeOf(descriptor, group.length, index));
    const part = { descriptor, group, index, schedule, lastStep: -1, lastMicrobatch: -1 };
    this.#parts[collective] = part;
    return part;
  }
}

/** Ranks from which `rank` receives in any collective of the program, ascending: those that its transport must connect to. */
export function sourcesOf(program: Pick<Program, "mesh" | "collectives">, rank: number): number[] {
  const sources = new Set<number>();
  for (const descriptor of program.collectives) {
    const group = groupOf(program.mesh, descriptor.axes, rank);
    const { receives } = scheduleOf(shapeOf(descriptor, group.length, group.indexOf(rank)));
    for (const { peer, items } of receives) {
      const source = group[peer];
      if (source !== undefined && items.length > 0) sources.add(source);
    }
  }
  return [...sources].sort((a, b) => a - b);
}

function checkCall(
  part: Part,
  descriptor: Collective,
  key: CollectiveKey,
  { input, output }: CollectiveBuffers,
): void {
  const { op, outer, chunkElements, dtype, label } = part.descriptor;
  if (descriptor !== part.descriptor && descriptor.label !== label) {
    throw new InternalError(
      `collective ${key.collective} is ${op} "${label}", not "${descriptor.label}"`,
    );
  }
  const { step, microbatch } = key;
  if (step < part.lastStep || (step === part.lastStep && microbatch <= part.lastMicrobatch)) {
    throw new InternalError(
      `${op} "${label}" of step ${step}, microbatch ${microbatch} was begun twice`,
    );
  }
  const chunk = outer * chunkElements * dtypeBytes(dtype);
  const full = op === "allReduce" ? chunk : chunk * part.group.length;
  const wantedInput = op === "allGather" ? chunk : full;
  const wantedOutput = op === "reduceScatter" ? chunk : full;
  if (input.length !== wantedInput || output.length !== wantedOutput) {
    throw new InternalError(
      `${op} "${label}" takes ${wantedInput} bytes and gives ${wantedOutput}; the buffers have ${input.length} and ${output.length}`,
    );
  }
}

function lostError(run: CollectiveRun, rank: number, peer: number, cause: Error): PeerError {
  return new PeerError(
    `rank ${rank} <- rank ${peer}: stream lost while segment ${run.nextSegment(peer)} of ${run.what()} was awaited: ${cause.message}`,
    { code: "UNAVAILABLE", rank, peer, step: run.key.step, cause },
  );
}

function laneLength(
  schedule: Schedule,
  group: readonly number[],
  peer: number,
): number | undefined {
  return schedule.receives.find((lane) => group[lane.peer] === peer)?.items.length;
}

function sameKey(frame: Frame, key: CollectiveKey): boolean {
  return (
    frame.collective === key.collective &&
    frame.step === key.step &&
    frame.microbatch === key.microbatch
  );
}
