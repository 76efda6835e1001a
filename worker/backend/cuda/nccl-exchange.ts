import { FailedPreconditionError, InternalError } from "../../../shared/errors.ts";
import { type Collective, dtypeBytes, type Program } from "../../../shared/program/program.ts";
import { slotAt } from "../arena-layout.ts";
import type { DeviceExchange, EndedCollective, ExchangeOptions } from "../backend.ts";
import type { Address } from "../kernels.ts";
import type { MemoryLedger } from "../memory-account.ts";
import { type Communicator, Communicators, named } from "./communicators.ts";
import { type CudaContext, runAll } from "./cuda-context.ts";
import { handleOf } from "./driver.ts";
import { NCCL_TYPES, SUM } from "./nccl.ts";
import { createEvent } from "./pinned.ts";

/**
 * Collectives that the host may be ahead by. A rank that is gone leaves a kernel that never ends, and once the driver's queue
 * behind it is full (about a thousand launches) a launch blocks where nobody can interrupt it.
 */
const MAX_AHEAD = 32;
/** Time between looks at the communicators while the host waits. */
const CHECK_MS = 20;
/** CU_EVENT_DEFAULT: with a time. */
const TIMED = 0;

/** One run of a collective that was handed over. */
interface Run {
  readonly collective: number;
  readonly begin: number;
  readonly end: number;
}

/**
 * Collectives over NCCL on the copy stream: each begins when the compute stream has made its input, and the compute stream
 * waits for its end where the program does. The host hands over and goes on; where it waits in the end, for the loss, it looks
 * for aborts, failures of NCCL and collectives that do not end.
 */
export class NcclExchange implements DeviceExchange {
  readonly #context: CudaContext;
  readonly #program: Program;
  readonly #arena: Address;
  readonly #account: MemoryLedger;
  readonly #timeoutMs: number;
  readonly #communicators: Communicators;
  readonly #owned: (() => void)[] = [];
  /** What the next collective waits for on the compute stream. */
  readonly #made: number;
  readonly #spare: { readonly begin: number; readonly end: number }[] = [];
  /** Of each collective the run that its wait is for. */
  readonly #latest = new Map<number, Run>();
  /** Not known to have ended, oldest first. */
  #pending: Run[] = [];
  #over: Run[] = [];
  #guard: (() => void) | undefined;
  /** When the oldest pending run was first seen to have begun. */
  #begunMs: number | undefined;
  #checkedMs = 0;

  constructor(
    context: CudaContext,
    from: {
      readonly program: Program;
      readonly rank: number;
      readonly arena: Address;
      readonly account: MemoryLedger;
      readonly options: ExchangeOptions;
    },
  ) {
    this.#context = context;
    this.#program = from.program;
    this.#arena = from.arena;
    this.#account = from.account;
    this.#timeoutMs = from.options.timeoutMs;
    this.#communicators = new Communicators(from.program, from.rank);
    this.#made = createEvent(context, this.#owned);
  }

  makeIds(): Uint8Array {
    return this.#communicators.makeIds();
  }

  connect(ids: Uint8Array, guard: () => void): void {
    const before = this.#context.usedBytes();
    this.#communicators.connect(ids, guard, pollUntil);
    this.#guard = guard;
    // Seen from outside, as the context's: buffers that NCCL takes as it sees fit.
    this.#account.observe("nccl", Math.max(0, this.#context.usedBytes() - before));
  }

  start(index: number): void {
    if (this.#guard === undefined) {
      throw new FailedPreconditionError(
        "a collective over NCCL was started before the ranks had met",
      );
    }
    if (this.#pending.length >= MAX_AHEAD) {
      const oldest = this.#pending[0];
      this.#waitUntil(() => oldest !== this.#pending[0]);
    }
    const { driver, computeStream, copyStream } = this.#context;
    const run = { collective: index, ...(this.#spare.pop() ?? this.#pair()) };
    driver.cuEventRecord(this.#made, computeStream);
    driver.cuStreamWaitEvent(copyStream, this.#made, 0);
    driver.cuEventRecord(run.begin, copyStream);
    this.#launch(this.#collective(index));
    driver.cuEventRecord(run.end, copyStream);
    this.#latest.set(index, run);
    this.#pending.push(run);
  }

  /** Kernels launched from now on see the result. */
  finish(index: number): void {
    const run = this.#latest.get(index);
    if (run === undefined) throw new InternalError(`collective ${index} was not started`);
    const { driver, computeStream } = this.#context;
    driver.cuStreamWaitEvent(computeStream, run.end, 0);
  }

  /** Waits for all that was handed over. @throws what the guard throws; PeerError; DeviceError */
  synchronize(): void {
    const { driver, computeStream } = this.#context;
    if (this.#guard === undefined) {
      driver.cuStreamSynchronize(computeStream);
      return;
    }
    driver.cuEventRecord(this.#made, computeStream);
    this.#waitUntil(() => driver.cuEventQuery(this.#made));
  }

  ended(): EndedCollective[] {
    this.#advance();
    return this.#over.splice(0).map(({ collective, begin, end }) => {
      this.#spare.push({ begin, end });
      return { collective, seconds: this.#context.secondsBetween(begin, end) };
    });
  }

  /** Ends what is under way, whatever the other ranks do. */
  dispose(): void {
    try {
      this.#communicators.abort();
    } finally {
      this.#account.observe("nccl", 0);
      runAll(this.#owned);
    }
  }

  #waitUntil(ready: () => boolean): void {
    pollUntil(
      () => {
        this.#advance();
        return ready();
      },
      () => {
        this.#guard?.();
        this.#checkPeers();
      },
    );
  }

  /** Notes which runs have ended. */
  #advance(): void {
    const { driver } = this.#context;
    for (let oldest = this.#pending[0]; oldest !== undefined; oldest = this.#pending[0]) {
      if (!driver.cuEventQuery(oldest.end)) return;
      this.#pending.shift();
      this.#over.push(oldest);
      this.#begunMs = undefined;
    }
  }

  /** @throws PeerError where NCCL has failed, or the oldest collective has run for too long */
  #checkPeers(): void {
    const nowMs = performance.now();
    if (nowMs - this.#checkedMs < CHECK_MS) return;
    this.#checkedMs = nowMs;
    this.#communicators.check();
    const [oldest] = this.#pending;
    if (oldest === undefined || !this.#context.driver.cuEventQuery(oldest.begin)) return;
    this.#begunMs ??= nowMs;
    if (nowMs - this.#begunMs <= this.#timeoutMs) return;
    const { op, label, axes } = this.#collective(oldest.collective);
    const { ranks } = this.#communicators.of(axes);
    throw this.#communicators.peerError(
      "DEADLINE_EXCEEDED",
      ranks,
      `${op} of ${label} between ${named(ranks)} over NCCL did not end within ${this.#timeoutMs / 1000} s; one of them has stopped, or cannot be reached`,
    );
  }

  #launch(collective: Collective): void {
    const communicator = this.#communicators.of(collective.axes);
    this.#communicators.launch(
      communicator,
      () => this.#calls(collective, communicator),
      (ready) => this.#waitUntil(ready),
    );
  }

  /** @returns NCCL's status */
  #calls(collective: Collective, { comm, ranks, place }: Communicator): number {
    const { op, outer, chunkElements: count, dtype } = collective;
    const { calls } = this.#communicators.nccl;
    const { copyStream: stream } = this.#context;
    const [input, output] = [collective.inputSlot, collective.outputSlot].map(
      (slot) => this.#arena + slotAt(this.#program, slot).offsetBytes,
    ) as [number, number];
    const type = NCCL_TYPES[dtype];
    const chunk = count * dtypeBytes(dtype);
    if (chunk * outer === 0) return 0;
    /** Of this rank's chunk in row `row` of the full tensor that begins at `full`. */
    const own = (full: Address, row: number): Address =>
      full + (row * ranks.length + place) * chunk;
    const whole = (row: number): number => row * ranks.length * chunk;
    switch (op) {
      case "allReduce":
        return calls.ncclAllReduce(input, output, outer * count, type, SUM, comm, stream);
      case "allGather": {
        const inPlace = overlap(input, chunk * outer, output, chunk * outer * ranks.length);
        if (inPlace) {
          // Backwards: no row is written over before it was moved.
          for (let row = outer - 1; row >= 0; row--)
            this.#copy(own(output, row), input + row * chunk, chunk);
        }
        return this.#rows(outer, (row) => {
          const from = inPlace ? own(output, row) : input + row * chunk;
          return calls.ncclAllGather(from, output + whole(row), count, type, comm, stream);
        });
      }
      case "reduceScatter": {
        const inPlace = overlap(input, chunk * outer * ranks.length, output, chunk * outer);
        const status = this.#rows(outer, (row) => {
          const to = inPlace ? own(input, row) : output + row * chunk;
          return calls.ncclReduceScatter(input + whole(row), to, count, type, SUM, comm, stream);
        });
        if (inPlace) {
          this.#settled(comm, status);
          for (let row = 0; row < outer; row++)
            this.#copy(output + row * chunk, own(input, row), chunk);
          return 0;
        }
        return status;
      }
      case "allToAll":
        return this.#together(() => {
          for (const peer of ranks.keys()) {
            calls.ncclSend(input + peer * chunk, count, type, peer, comm, stream);
            calls.ncclRecv(output + peer * chunk, count, type, peer, comm, stream);
          }
        });
    }
  }

  /** One call a row, together where there are several. */
  #rows(outer: number, call: (row: number) => number): number {
    if (outer === 1) return call(0);
    return this.#together(() => {
      for (let row = 0; row < outer; row++) call(row);
    });
  }

  /** Calls that NCCL carries out as one. */
  #together(make: () => void): number {
    const { calls } = this.#communicators.nccl;
    calls.ncclGroupStart();
    let failed: { readonly error: unknown } | undefined;
    try {
      make();
    } catch (error) {
      failed = { error };
    }
    // After a failure, too: a group of this thread that stays open would swallow all later calls.
    try {
      const status = calls.ncclGroupEnd();
      if (failed === undefined) return status;
    } catch (error) {
      failed ??= { error };
    }
    throw failed.error;
  }

  #settled(comm: bigint, status: number): void {
    if (status !== 0) this.#waitUntil(() => this.#communicators.nccl.stateOf(comm) !== status);
  }

  #copy(to: Address, from: Address, bytes: number): void {
    const { driver, copyStream } = this.#context;
    if (to !== from) driver.cuMemcpyDtoDAsync_v2(to, from, bytes, copyStream);
  }

  #collective(index: number): Collective {
    const collective = this.#program.collectives[index];
    if (collective === undefined) throw new InternalError(`the program has no collective ${index}`);
    return collective;
  }

  #pair(): { readonly begin: number; readonly end: number } {
    const { driver } = this.#context;
    const timed = (): number => {
      const event = handleOf((out) => driver.cuEventCreate(out, TIMED));
      this.#owned.push(() => driver.cuEventDestroy_v2(event));
      return event;
    };
    return { begin: timed(), end: timed() };
  }
}

function overlap(a: Address, aBytes: number, b: Address, bBytes: number): boolean {
  return a < b + bBytes && b < a + aBytes;
}

const clock = new Int32Array(new SharedArrayBuffer(4));
const SPINS = 50;
const MAX_SLEEP_MS = 1;

/** Asks until `ready`, and `guard` in between; sleeps longer the longer it takes, up to a twentieth of the wait. */
function pollUntil(ready: () => boolean, guard: () => void): void {
  const beganMs = performance.now();
  for (let turn = 0; !ready(); turn++) {
    guard();
    if (turn < SPINS) continue;
    const sleepMs = Math.min(MAX_SLEEP_MS, Math.max(0.02, (performance.now() - beganMs) / 20));
    Atomics.wait(clock, 0, 0, sleepMs);
  }
}
