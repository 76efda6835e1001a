import { InternalError, PeerError } from "../../shared/errors.ts";
import type { Collective } from "../../shared/program/program.ts";
import {
  chunkBytes,
  forEachRun,
  isContiguous,
  type Region,
  regionBytes,
  segmentsOf,
  storeRegion,
} from "./chunk-layout.ts";
import type { CollectiveBuffers, CollectiveKey, Frame } from "./collective.ts";
import { keepsInputApart } from "./operand-pieces.ts";
import { releaseBuffer } from "./release-buffer.ts";
import type { Lane, Schedule, ScheduledReceive, ScheduledSend } from "./schedule.ts";
import { StagedProgress } from "./staged-progress.ts";
import type { SumKernel } from "./sum-kernel.ts";

export interface RunContext {
  readonly descriptor: Collective;
  readonly key: CollectiveKey;
  readonly buffers: CollectiveBuffers;
  readonly batchHash: number;
  readonly schedule: Schedule;
  /** Ranks of the group, in order. */
  readonly group: readonly number[];
  /** This rank's place in the group. */
  readonly index: number;
  readonly sum: SumKernel;
  /**
   * Frames of its own that a rank sends ahead of what it has received. It bounds what a peer that is behind must
   * hold; ranks at the same pace never notice.
   */
  readonly paceFrames: number;
  readonly send: (peer: number, frame: Frame) => Promise<void> | undefined;
  readonly sent: (bytes: number) => void;
  readonly fail: (error: Error) => void;
  readonly done: () => void;
  /** Seconds that the run stood still for a frame of `peer`. */
  readonly waited: (peer: number, seconds: number) => void;
  /** Bytes of frames of `peer` that are kept until own input is there; negative: that are no longer kept. */
  readonly kept: (peer: number, bytes: number) => void;
}

interface SendLane extends Lane<ScheduledSend> {
  /** Next frame to hand to the transport. */
  next: number;
  /** Frames that the transport no longer borrows. */
  handed: number;
}

interface ReceiveLane extends Lane<ScheduledReceive> {
  /** Next frame to come. */
  next: number;
  /** Next frame to be worked in. */
  applied: number;
  /** Frames that came and wait for own input, from `applied` on. */
  readonly kept: Uint8Array[];
}

/** One collective in flight: carries out its schedule, event by event. Never blocks. */
export class CollectiveRun {
  readonly #context: RunContext;
  readonly #sends: SendLane[];
  readonly #receives: ReceiveLane[];
  /** Frames kept until they have been passed on, by their index in the one lane. */
  readonly #relayed = new Map<number, Uint8Array>();
  /** Frames from the one lane that are passed on: the first so many. */
  readonly #relayCount: number;
  /** Contributions to each unit, by the giver's place in the group; emptied when they are summed. */
  readonly #contributions: (Uint8Array | undefined)[][];
  /** First unit not summed yet. */
  #nextUnit = 0;
  /** What is sent and contributed: the input, or a copy where the sums would overwrite it too early. */
  readonly #own: Uint8Array;
  /** What this rank's output takes from its own input, and how much of that is done. */
  readonly #ownRegions: readonly Region[];
  #ownDone = 0;
  readonly #staged: StagedProgress | undefined;
  #open: number;
  #ended = false;
  /** performance.now() of the last frame taken or handed over, or of the last piece of input that came. */
  lastProgressMs = performance.now();

  constructor(context: RunContext) {
    this.#context = context;
    const { schedule, descriptor, group, buffers } = context;
    this.#sends = schedule.sends.map((lane) => ({ ...lane, next: 0, handed: 0 }));
    this.#receives = schedule.receives.map((lane) => ({ ...lane, next: 0, applied: 0, kept: [] }));
    this.#relayCount = schedule.sends[0]?.items.filter(({ relays }) => relays >= 0).length ?? 0;
    this.#contributions = schedule.sumUnits.map(() => []);
    this.#open = [...schedule.sends, ...schedule.receives].filter((l) => l.items.length > 0).length;
    // The sum of the first two contributions would overwrite the third in place: with more than two ranks the
    // payload is small, so keep it apart. Two ranks wait until a segment is handed over instead.
    const snapshot = keepsInputApart(descriptor, group.length);
    this.#own = snapshot ? buffers.input.slice() : buffers.input;
    if (buffers.staging !== undefined) {
      this.#staged = new StagedProgress(descriptor.op, schedule, buffers.staging);
    }
    this.#ownRegions = this.#regionsOfOwn();
  }

  get key(): CollectiveKey {
    return this.#context.key;
  }

  get descriptor(): Collective {
    return this.#context.descriptor;
  }

  get batchHash(): number {
    return this.#context.batchHash;
  }

  /** Sends what needs no peer. Ends at once when there is nothing to exchange. */
  start(): void {
    this.#takeOwn();
    this.#pump();
    this.#finishIfDone();
  }

  /** More of the input is there: goes on with what waited for it. */
  resume(): void {
    if (this.#ended) return;
    this.lastProgressMs = performance.now();
    this.#takeOwn();
    for (const lane of this.#receives) this.#applyKept(lane);
    this.#sumUnits();
    this.#pump();
    this.#finishIfDone();
  }

  /** Ends the run without a result: later events are ignored. */
  stop(): void {
    this.#ended = true;
    for (const { kept } of this.#receives) kept.length = 0;
  }

  /** Pieces of the input that are there, and all, where some are missing. */
  missingInput(): { readonly pieces: number; readonly of: number } | undefined {
    const arrived = this.#staged?.arrived;
    return arrived !== undefined && arrived.pieces < arrived.of ? arrived : undefined;
  }

  /** Whether a frame of this rank is still to come. */
  expectsFrom(peer: number): boolean {
    const lane = this.#laneOf(peer);
    return lane !== undefined && lane.next < lane.items.length;
  }

  /** Index of the next frame of `peer`. */
  nextSegment(peer: number): number {
    return this.#laneOf(peer)?.next ?? 0;
  }

  /** Ranks whose frames are missing; ranks that have not taken ours, when none is. */
  waitingFor(): {
    readonly peer: number;
    readonly direction: "<-" | "->";
    readonly segment: number;
  }[] {
    const missing = this.#receives
      .filter((lane) => lane.next < lane.items.length)
      .map((lane) => ({
        peer: this.#rank(lane.peer),
        direction: "<-" as const,
        segment: lane.next,
      }));
    if (missing.length > 0) return missing;
    return this.#sends
      .filter((lane) => lane.handed < lane.items.length)
      .map((lane) => ({
        peer: this.#rank(lane.peer),
        direction: "->" as const,
        segment: lane.handed,
      }));
  }

  /**
   * Takes the next frame of `peer`, whose key is this run's.
   * @throws PeerError when it does not fit
   */
  deliver(peer: number, frame: Frame): void {
    if (this.#ended) return;
    const lane = this.#laneOf(peer);
    const item = lane?.items[lane.next];
    this.#check(peer, frame, lane, item);
    if (lane === undefined || item === undefined) return;

    const now = performance.now();
    this.#context.waited(peer, Math.max(0, now - this.lastProgressMs) / 1000);
    this.lastProgressMs = now;
    lane.next += 1;
    if (lane.kept.length > 0 || !this.#mayApply(item)) {
      lane.kept.push(frame.payload);
      this.#context.kept(peer, frame.payload.length);
      return;
    }
    this.#applyNext(lane, item, frame.payload);
    this.#pump();
    this.#finishIfDone();
  }

  #applyNext(lane: ReceiveLane, item: ScheduledReceive, payload: Uint8Array): void {
    const position = lane.applied;
    lane.applied += 1;
    this.#apply(lane.peer, item, position, payload);
    if (lane.applied === lane.items.length) this.#open -= 1;
  }

  /** Works in the frames that waited for own input, as far as it is there. */
  #applyKept(lane: ReceiveLane): void {
    for (;;) {
      const [payload] = lane.kept;
      const item = lane.items[lane.applied];
      if (payload === undefined || item === undefined || !this.#mayApply(item)) return;
      lane.kept.shift();
      // Before it is worked in, which may empty it.
      const bytes = payload.length;
      this.#applyNext(lane, item, payload);
      this.#context.kept(this.#rank(lane.peer), -bytes);
    }
  }

  /** Whether own input that a frame is summed with, or that comes to where it is written, is there. */
  #mayApply({ action, region }: ScheduledReceive): boolean {
    const staged = this.#staged;
    if (staged === undefined) return true;
    switch (action) {
      case "store":
        return staged.mayWrite(region);
      case "reduce":
        return this.#mayTake(region);
      case "relay":
        return staged.inputThere(region);
      case "sum":
        // Its unit waits, not the frame.
        return true;
    }
  }

  /** Whether a region's own input is there, and its output may be written. */
  #mayTake(region: Region): boolean {
    const staged = this.#staged;
    return staged === undefined || (staged.inputThere(region) && staged.mayWrite(region));
  }

  /** Own input that no frame carries to the output: the own chunk of what is gathered, or all of a group of one. */
  #regionsOfOwn(): Region[] {
    const { descriptor, schedule, group, index } = this.#context;
    const { op, segmentBytes } = descriptor;
    if (group.length > 1 && op !== "allGather" && op !== "allToAll") return [];
    const { layout } = schedule;
    if (this.#staged !== undefined) return segmentsOf(layout, index, segmentBytes);
    return [{ chunk: index, start: 0, end: chunkBytes(layout, index) }];
  }

  #takeOwn(): void {
    const { descriptor, schedule, buffers } = this.#context;
    const { input, output } = buffers;
    const { layout } = schedule;
    const inPlace = this.#isOwnInPlace();
    for (; this.#ownDone < this.#ownRegions.length; this.#ownDone++) {
      const region = this.#ownRegions[this.#ownDone];
      if (region === undefined) return;
      if (!this.#mayTake(region)) return;
      if (!inPlace) {
        const bytes =
          descriptor.op === "allGather"
            ? input.subarray(region.start, region.end)
            : regionBytes(layout, region, input);
        storeRegion(layout, region, output, bytes);
      }
      this.#staged?.final(region);
    }
  }

  /** Whether own input lies where the output has it. */
  #isOwnInPlace(): boolean {
    const { descriptor, schedule, buffers, index, group } = this.#context;
    const { input, output, staging } = buffers;
    if (group.length <= 1) return input === output || staging?.pieces.outputAt === 0;
    if (descriptor.op !== "allGather" || !isContiguous(schedule.layout)) return false;
    const at = index * chunkBytes(schedule.layout, index);
    if (staging !== undefined) return staging.pieces.outputAt === -at;
    return input.buffer === output.buffer && input.byteOffset === output.byteOffset + at;
  }

  #apply(peerIndex: number, item: ScheduledReceive, position: number, payload: Uint8Array): void {
    const { descriptor, schedule, buffers, sum } = this.#context;
    const { dtype, op } = descriptor;
    const { region } = item;
    const { layout } = schedule;
    switch (item.action) {
      case "store":
        storeRegion(layout, region, buffers.output, payload);
        this.#staged?.received(item);
        if (position < this.#relayCount && !isContiguous(layout))
          this.#relayed.set(position, payload);
        return;
      case "reduce":
        if (op === "allReduce") {
          const target = regionBytes(layout, region, buffers.output);
          sum(dtype, target, payload, regionBytes(layout, region, buffers.input));
          this.#staged?.received(item);
          releaseBuffer(payload);
          return;
        }
        forEachRun(layout, region, (offset, at, length) => {
          const target = buffers.output.subarray(region.start + at, region.start + at + length);
          const own = buffers.input.subarray(offset, offset + length);
          sum(dtype, target, payload.subarray(at, at + length), own);
        });
        this.#staged?.received(item);
        releaseBuffer(payload);
        return;
      case "relay":
        forEachRun(layout, region, (offset, at, length) => {
          const partial = payload.subarray(at, at + length);
          sum(dtype, partial, partial, buffers.input.subarray(offset, offset + length));
        });
        this.#relayed.set(position, payload);
        return;
      case "sum": {
        const contributions = this.#contributions[position];
        if (contributions === undefined) throw new InternalError(`no sum unit ${position}`);
        contributions[peerIndex] = payload;
        this.#sumUnits();
        return;
      }
    }
  }

  /** Sums all units whose contributions are there, in the order of the group, whichever came first. */
  #sumUnits(): void {
    const { schedule, descriptor, buffers, group, index, sum } = this.#context;
    // In place, a segment of two ranks may be overwritten once the transport has it.
    const handed =
      group.length === 2 && descriptor.op === "allReduce"
        ? (this.#sends[0]?.handed ?? 0)
        : Infinity;
    for (;;) {
      const region = schedule.sumUnits[this.#nextUnit];
      const given = this.#contributions[this.#nextUnit];
      if (region === undefined || given === undefined || this.#nextUnit >= handed) return;
      if (this.#receives.some((lane) => given[lane.peer] === undefined)) return;
      if (!this.#mayTake(region)) return;
      given[index] = regionBytes(schedule.layout, region, this.#own);
      const target = buffers.output.subarray(region.start, region.end);
      let total = given[0];
      for (let giver = 1; giver < group.length; giver++) {
        const addend = given[giver];
        if (total === undefined || addend === undefined)
          throw new InternalError(`no contribution ${giver}`);
        sum(descriptor.dtype, target, total, addend);
        total = target;
      }
      this.#staged?.final(region);
      this.#contributions[this.#nextUnit] = [];
      given.forEach((contribution, giver) => {
        if (giver !== index && contribution !== undefined) releaseBuffer(contribution);
      });
      this.#nextUnit += 1;
    }
  }

  #pump(): void {
    for (const lane of this.#sends) this.#pumpLane(lane);
  }

  #pumpLane(lane: SendLane): void {
    const { key, batchHash, send, sent } = this.#context;
    while (!this.#ended && lane.handed === lane.next) {
      const item = lane.items[lane.next];
      if (item === undefined) return;
      const payload = this.#payloadOf(item, lane.next);
      if (payload === undefined) return;
      const segment = lane.next;
      lane.next += 1;
      const { step, microbatch, collective } = key;
      sent(payload.length);
      const busy = send(this.#rank(lane.peer), {
        step,
        microbatch,
        collective,
        segment,
        batchHash,
        payload,
      });
      if (busy === undefined) {
        this.#handedOver(lane);
      } else {
        busy
          .then(
            () => {
              if (this.#ended) return;
              this.#handedOver(lane);
              this.#pumpLane(lane);
              this.#finishIfDone();
            },
            (error: unknown) => this.#sendFailed(lane, segment, error),
          )
          .catch((error: unknown) => this.#context.fail(asError(error)));
      }
    }
  }

  #handedOver(lane: SendLane): void {
    const relays = lane.items[lane.handed]?.relays ?? -1;
    const kept = this.#relayed.get(relays);
    if (kept !== undefined) {
      this.#relayed.delete(relays);
      releaseBuffer(kept);
    }
    lane.handed += 1;
    this.lastProgressMs = performance.now();
    if (lane.handed === lane.items.length) this.#open -= 1;
    if (this.#contributions.length > 0) this.#sumUnits();
  }

  /** The bytes of a frame, or undefined while they may not be sent yet. */
  #payloadOf(item: ScheduledSend, position: number): Uint8Array | undefined {
    const { descriptor, schedule, buffers, paceFrames } = this.#context;
    const { layout } = schedule;
    const { region, relays } = item;
    if (relays < 0) {
      if (position >= paceFrames && position - paceFrames >= this.#receivedByAll())
        return undefined;
      if (this.#staged?.inputThere(region) === false) return undefined;
      if (descriptor.op === "allGather") return this.#own.subarray(region.start, region.end);
      return regionBytes(layout, region, this.#own);
    }
    const source = this.#receives[0];
    if (source === undefined || source.applied <= relays) return undefined;
    return this.#relayed.get(relays) ?? regionBytes(layout, region, buffers.output);
  }

  /** Frames that have come from every peer still sending. */
  #receivedByAll(): number {
    let least = Infinity;
    for (const lane of this.#receives) {
      if (lane.next < lane.items.length) least = Math.min(least, lane.next);
    }
    return least;
  }

  #finishIfDone(): void {
    const units = this.#contributions.length;
    const own = this.#ownRegions.length;
    if (this.#open === 0 && this.#nextUnit === units && this.#ownDone === own) this.#finish();
  }

  #finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#context.done();
  }

  #sendFailed(lane: SendLane, segment: number, error: unknown): void {
    if (this.#ended) return;
    const peer = this.#rank(lane.peer);
    const text = error instanceof Error ? error.message : String(error);
    this.#context.fail(
      this.#error(
        "UNAVAILABLE",
        peer,
        `${this.#between(peer, "->")}: segment ${segment} of ${this.what()} was not sent: ${text}`,
        error,
      ),
    );
  }

  #check(
    peer: number,
    frame: Frame,
    lane: ReceiveLane | undefined,
    item: ScheduledReceive | undefined,
  ): void {
    const { descriptor, key, batchHash } = this.#context;
    if (descriptor.sameInputs && frame.batchHash !== batchHash) {
      const text = `rank ${peer} and rank ${this.#self} were given different batches at step ${key.step} (hash ${hex(frame.batchHash)} / ${hex(batchHash)})`;
      throw this.#error("ABORTED", peer, text);
    }
    const wanted = item === undefined ? undefined : item.region.end - item.region.start;
    if (lane !== undefined && frame.segment === lane.next && frame.payload.length === wanted)
      return;
    const expected =
      wanted === undefined || lane === undefined
        ? "no more frames"
        : `segment ${lane.next} of ${wanted} bytes`;
    throw this.#error(
      "DATA_LOSS",
      peer,
      `${this.#between(peer, "<-")}: got segment ${frame.segment} of ${frame.payload.length} bytes where ${this.what()} expects ${expected}; rank ${this.#self} runs ${describe(descriptor)}, rank ${peer} sent step ${frame.step}, microbatch ${frame.microbatch}, collective ${frame.collective}`,
    );
  }

  /** `allReduce "w2.output" (step 118)` */
  what(): string {
    const { descriptor, key } = this.#context;
    return `${descriptor.op} "${descriptor.label}" (step ${key.step})`;
  }

  #error(code: PeerError["code"], peer: number, text: string, cause?: unknown): PeerError {
    return new PeerError(text, { code, rank: this.#self, peer, step: this.key.step, cause });
  }

  #between(peer: number, direction: "<-" | "->"): string {
    return `rank ${this.#self} ${direction} rank ${peer}`;
  }

  get #self(): number {
    return this.#rank(this.#context.index);
  }

  #rank(index: number): number {
    const rank = this.#context.group[index];
    if (rank === undefined)
      throw new InternalError(`no rank ${index} in a group of ${this.#context.group.length}`);
    return rank;
  }

  #laneOf(peer: number): ReceiveLane | undefined {
    return this.#receives.find((lane) => this.#context.group[lane.peer] === peer);
  }
}

/** `allReduce of 65536 float32, ring, segments of 524288 bytes` */
export function describe(descriptor: Collective): string {
  const { op, outer, chunkElements, dtype, algorithm, segmentBytes } = descriptor;
  const rows = outer === 1 ? `${chunkElements}` : `${outer} x ${chunkElements}`;
  return `${op} of ${rows} ${dtype}, ${algorithm}, segments of ${segmentBytes} bytes`;
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new InternalError(String(error));
}

function hex(hash: number): string {
  return (hash >>> 0).toString(16).padStart(8, "0");
}
