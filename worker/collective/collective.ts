import type { Collective } from "../../shared/program/program.ts";
import type { OperandPieces } from "./operand-pieces.ts";

/** Names one run of one collective. Frames of another job, generation, step or collective are refused. */
export interface CollectiveKey {
  readonly step: number;
  /** 0-based microbatch; the epilogue runs as microbatch = Program.microbatches. */
  readonly microbatch: number;
  /** Index in Program.collectives. */
  readonly collective: number;
}

/** Host bytes of the operands; views into the arena, valid until the returned promise settles. */
export interface CollectiveBuffers {
  readonly input: Uint8Array;
  readonly output: Uint8Array;
  /** Where the input comes and the output goes in pieces while the collective runs; left out: all of the input is there. */
  readonly staging?: StagedOperands | undefined;
}

/** Operands that a device brings and takes in pieces. */
export interface StagedOperands {
  readonly pieces: OperandPieces;
  /** Pieces of the input that are there: so many of the first in their order. It grows until all are. */
  arrived(): number;
  /** Told by the run: piece `piece` of the output is as it stays. */
  final(piece: number): void;
  /** Has `handler` called whenever more pieces are there; it replaces that of an earlier run. */
  onArrival(handler: () => void): void;
}

/**
 * Runs a program's collectives with the job's peers. One instance per rank and generation.
 * Several collectives may be in flight; per group they are started in program order on all ranks.
 */
export interface CollectiveGroup {
  /**
   * Runs one collective to its end. Sums in a fixed order: all ranks hold identical bytes afterwards.
   * @throws PeerError naming the peer waited for, on deadline, lost stream, or a frame that does not fit.
   */
  run(
    descriptor: Collective,
    key: CollectiveKey,
    buffers: CollectiveBuffers,
    batchHash: number,
  ): Promise<void>;
  /** Ends every pending and later wait at once with `cause`. */
  abort(cause: Error): void;
  /** Payload bytes sent so far (headers not counted). */
  readonly sentBytes: number;
  readonly receivedBytes: number;
}

/** Moves frames between two ranks of a job, in order per (from, to). Data flows to whoever opened the stream. */
export interface Transport {
  readonly rank: number;
  /** Opens the streams on which frames from `peers` arrive. @throws PeerError naming the peers not reached by the deadline. */
  connect(peers: readonly number[], deadlineMs: number): Promise<void>;
  /**
   * Sends one frame. The payload is borrowed until the promise resolves; it resolves when more may be sent
   * (backpressure), not when the peer has it. The transport must have copied the payload or handed it to the socket by then.
   */
  send(peer: number, frame: Frame): Promise<void> | undefined;
  /** Called for every frame that arrives, in order per sender. The payload is the receiver's, to keep and to write. */
  onFrame(handler: (peer: number, frame: Frame) => void): void;
  /** Called once per peer whose stream ended or failed, after all its frames. A peer that is done ends its stream too. */
  onPeerLost(handler: (peer: number, cause: Error) => void): void;
  /** Stops taking frames from `peer` until `resume`; a bounded number may still arrive. */
  pause(peer: number): void;
  resume(peer: number): void;
  close(): Promise<void>;
}

/** One message of a collective. Field numbers in `protos/rankmesh/v1/collective_service.proto`. */
export interface Frame {
  readonly step: number;
  readonly microbatch: number;
  readonly collective: number;
  /** Position in the sender's sequence for this collective. */
  readonly segment: number;
  /** CRC-32 of the sender's batch of this step. */
  readonly batchHash: number;
  /** Little-endian tensor bytes. */
  readonly payload: Uint8Array;
}
