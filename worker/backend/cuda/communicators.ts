import {
  DeviceError,
  FailedPreconditionError,
  InternalError,
  PeerError,
} from "../../../shared/errors.ts";
import { groupOf, type Mesh, worldSize } from "../../../shared/mesh/mesh.ts";
import type { Program } from "../../../shared/program/program.ts";
import { runAll } from "./cuda-context.ts";
import { configOf, findNccl, ID_BYTES, IN_PROGRESS, type NcclLibrary } from "./nccl.ts";

/** Ranks that have to load weights first come late, but not by this much after all have said that they are ready. */
const CONNECT_MS = 60_000;

/** A group of ranks that exchange, as one of them sees it. */
export interface Communicator {
  /** ncclComm_t */
  readonly comm: bigint;
  /** In the order of their places. */
  readonly ranks: readonly number[];
  /** Of this rank. */
  readonly place: number;
}

/** Waits until `ready`; throws what ends the wait. */
export type Wait = (ready: () => boolean) => void;

/**
 * The communicators of one rank: one for each set of mesh axes that its program's collectives run over. None of their calls
 * blocks; whoever waits for one can be interrupted.
 */
export class Communicators {
  readonly nccl: NcclLibrary;
  readonly #program: Program;
  readonly #rank: number;
  readonly #byAxes = new Map<string, Communicator>();
  /** Where NCCL writes handles, also after its call has returned. */
  readonly #handles: BigUint64Array[] = [];

  /** @throws FailedPreconditionError where there is no NCCL */
  constructor(program: Program, rank: number) {
    const nccl = findNccl();
    if (nccl === undefined) {
      throw new FailedPreconditionError(
        "cuda backend: this rank is to exchange over NCCL, and libnccl.so.2 could not be loaded; set RANKMESH_NCCL_LIBRARY to its path",
      );
    }
    this.nccl = nccl;
    this.#program = program;
    this.#rank = rank;
  }

  /** An id for each group of the mesh, in an order that all ranks know. */
  makeIds(): Uint8Array {
    const groups = groupsOf(this.#program);
    const ids = new Uint8Array(new ArrayBuffer(ID_BYTES * groups.length));
    const id = new Uint8Array(new ArrayBuffer(ID_BYTES));
    groups.forEach((_, index) => {
      this.nccl.calls.ncclGetUniqueId(id);
      ids.set(id, ID_BYTES * index);
    });
    return ids;
  }

  /** Meets the others of every group of this rank. @throws PeerError when they do not come in time */
  connect(
    ids: Uint8Array,
    guard: () => void,
    wait: (ready: () => boolean, guard: () => void) => void,
  ): void {
    const groups = groupsOf(this.#program);
    if (ids.length !== ID_BYTES * groups.length) {
      throw new InternalError(
        `${groups.length} groups of ranks came with ${ids.length} bytes of ids`,
      );
    }
    groups.forEach(({ axes, ranks }, index) => {
      const place = ranks.indexOf(this.#rank);
      if (place < 0) return;
      const internal = ids.slice(ID_BYTES * index, ID_BYTES * (index + 1));
      const comm = this.#open(ranks, place, internal);
      this.#byAxes.set(keyOf(axes), { comm, ranks, place });
      const endsMs = performance.now() + CONNECT_MS;
      const inTime = (): void => {
        guard();
        if (performance.now() > endsMs) throw this.#absent(ranks);
      };
      wait(() => !this.#isBusy(comm, ranks), inTime);
    });
  }

  /** @throws InternalError for axes that no collective of the program runs over */
  of(axes: readonly number[]): Communicator {
    const found = this.#byAxes.get(keyOf(axes));
    if (found === undefined)
      throw new InternalError(`no communicator over axes ${axes.join(", ")}`);
    return found;
  }

  /** Makes calls, and waits until NCCL has taken them to the stream. */
  launch({ comm, ranks }: Communicator, calls: () => number, wait: Wait): void {
    if (calls() === IN_PROGRESS) wait(() => !this.#isBusy(comm, ranks));
  }

  /** @throws PeerError for a communicator that has failed */
  check(): void {
    for (const { comm, ranks } of this.#byAxes.values()) this.#isBusy(comm, ranks);
  }

  /**
   * Ends all communicators, and what of theirs is still under way, without asking the other ranks. After the last collective
   * of a job nothing is: then this is how they are given back.
   */
  abort(): void {
    const open = [...this.#byAxes.values()];
    this.#byAxes.clear();
    try {
      runAll(open.map((one) => () => this.nccl.calls.ncclCommAbort(one.comm)));
    } finally {
      this.#handles.length = 0;
    }
  }

  #open(ranks: readonly number[], place: number, internal: Uint8Array): bigint {
    const handle = new BigUint64Array(new ArrayBuffer(8));
    this.#handles.push(handle);
    this.nccl.calls.ncclCommInitRankConfig(handle, ranks.length, { internal }, place, configOf());
    const comm = handle[0];
    if (comm === undefined || comm === 0n) {
      throw new DeviceError(`ncclCommInitRankConfig gave no communicator for ${named(ranks)}`, {
        code: "UNAVAILABLE",
        call: "ncclCommInitRankConfig",
        status: "NULL",
        fatal: false,
      });
    }
    return comm;
  }

  #isBusy(comm: bigint, ranks: readonly number[]): boolean {
    const state = this.nccl.stateOf(comm);
    if (state === 0) return false;
    if (state === IN_PROGRESS) return true;
    throw this.peerError(
      "ABORTED",
      ranks,
      `NCCL between ${named(ranks)} failed: ${this.nccl.explain(state)}`,
    );
  }

  #absent(ranks: readonly number[]): PeerError {
    const what = `${named(ranks)} did not meet over NCCL within ${CONNECT_MS / 1000} s; check that NCCL's interfaces reach each other (NCCL_SOCKET_IFNAME), or set RANKMESH_NCCL_LIBRARY=off on a worker for the gRPC ring`;
    return this.peerError("DEADLINE_EXCEEDED", ranks, what);
  }

  /** NCCL does not tell which rank is at fault: of two it is the other, else the next in the group is asked about. */
  peerError(code: PeerError["code"], ranks: readonly number[], what: string): PeerError {
    const peer = ranks[(ranks.indexOf(this.#rank) + 1) % ranks.length] ?? this.#rank;
    return new PeerError(`rank ${this.#rank}: ${what}`, { code, rank: this.#rank, peer });
  }
}

/** `ranks 0, 1, 2` */
export function named(ranks: readonly number[]): string {
  return `ranks ${ranks.join(", ")}`;
}

interface Group {
  readonly axes: readonly number[];
  readonly ranks: readonly number[];
}

/** All groups of the mesh over which the program exchanges, in the order of its collectives and of their first ranks. */
function groupsOf({ collectives, mesh }: Program): Group[] {
  const sets = new Map(collectives.map(({ axes }) => [keyOf(axes), axes]));
  return [...sets.values()].flatMap((axes) => groupsOver(mesh, axes));
}

function groupsOver(mesh: Mesh, axes: readonly number[]): Group[] {
  const groups: Group[] = [];
  for (let rank = 0; rank < worldSize(mesh); rank++) {
    const ranks = groupOf(mesh, axes, rank);
    if (ranks[0] === rank) groups.push({ axes, ranks });
  }
  return groups;
}

function keyOf(axes: readonly number[]): string {
  return [...axes].sort((a, b) => a - b).join(",");
}
