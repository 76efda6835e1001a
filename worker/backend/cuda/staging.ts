import { InternalError } from "../../../shared/errors.ts";
import { groupOf } from "../../../shared/mesh/mesh.ts";
import type { Program } from "../../../shared/program/program.ts";
import {
  type OperandPieces,
  pieceCount,
  pieceRange,
  planPieces,
} from "../../collective/operand-pieces.ts";
import { slotAt } from "../arena-layout.ts";
import type { CollectiveOperands } from "../backend.ts";
import type { Address } from "../kernels.ts";
import { type CudaContext, runAll } from "./cuda-context.ts";
import { allocatePinned, createEvent, type PinnedMemory } from "./pinned.ts";
import { planStaging, type StagedCollective } from "./staging-plan.ts";

/** One collective: its two places on the device, and the events of its copies. */
interface Staged {
  readonly plan: StagedCollective;
  readonly pieces: OperandPieces | undefined;
  readonly input: Address;
  readonly output: Address;
  /** What the copies to the host wait for. */
  readonly made: number;
  /** What waits for each of them, in their order; one where the input comes as one. */
  readonly copied: readonly number[];
  /** What the compute stream waits for, where the output goes in pieces. */
  readonly returned: number | undefined;
  /** Pieces of the output that are on their way to the device, a bit each. */
  returning: number;
}

/**
 * Collectives exchange host memory: inputs are copied to pinned memory on a stream of their own, while kernels of later
 * instructions run, and results back to the device. No copy makes the host wait.
 *
 * Operands of more than one piece (`operand-pieces.ts`) are copied piece by piece: the collective runs from the first on, and
 * what is final of its output goes back, on a third stream, while the rest is under way. Three things make that right:
 *
 * - No part of an output goes back before part of the input was seen on the host. What the input's copies wait for, all that
 *   used the output's memory before, is done by then.
 * - Where both share memory, the run writes no byte of the output before the input's byte there has come, so that none
 *   goes back to where one is still to be read.
 * - Who reads the result, or takes the pinned memory for something else, follows on the compute stream, which waits for all of it.
 */
export class Staging {
  readonly #context: CudaContext;
  readonly #staged: readonly Staged[];
  readonly #memory: PinnedMemory;
  readonly #owned: (() => void)[] = [];

  /** @param from.leastPieceBytes see `planPieces` */
  constructor(
    context: CudaContext,
    from: {
      readonly program: Program;
      readonly rank: number;
      readonly arena: Address;
      readonly leastPieceBytes?: number | undefined;
    },
  ) {
    this.#context = context;
    const plan = planStaging(from.program);
    try {
      this.#memory = allocatePinned(context, plan.bytes, this.#owned);
      this.#staged = from.program.collectives.map((_, index) => {
        const staged = plan.collectives[index];
        if (staged === undefined) throw new InternalError(`collective ${index} has no staging`);
        return this.#prepare(index, staged, from);
      });
      const { driver, copyStream, returnStream } = context;
      // Whatever ended the program, no copy may still be on its way to memory that is given back.
      for (const stream of [copyStream, returnStream]) {
        this.#owned.push(() => driver.cuStreamSynchronize(stream));
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  get bytes(): number {
    return this.#memory.bytes;
  }

  operands(index: number): CollectiveOperands {
    const { plan, pieces } = this.#at(index);
    const { address } = this.#memory;
    return {
      input: address + BigInt(plan.input.at),
      output: address + BigInt(plan.output.at),
      pieces,
    };
  }

  /** Begins to bring the input to the host. */
  start(index: number): void {
    const { driver, computeStream, copyStream } = this.#context;
    const staged = this.#at(index);
    const { pieces, made, copied } = staged;
    staged.returning = 0;
    driver.cuEventRecord(made, computeStream);
    driver.cuStreamWaitEvent(copyStream, made, 0);
    copied.forEach((event, place) => {
      this.#fetch(staged, pieces?.order[place]);
      driver.cuEventRecord(event, copyStream);
    });
  }

  /** Whether the input is on the host, or the first `place` + 1 pieces of it in their order. With `wait` it is when this returns. */
  ready(index: number, wait: boolean, place = 0): boolean {
    const { driver } = this.#context;
    const event = this.#at(index).copied[place];
    if (event === undefined) {
      throw new InternalError(`the input of collective ${index} has no piece ${place}`);
    }
    if (wait) driver.cuEventSynchronize(event);
    return wait || driver.cuEventQuery(event);
  }

  /** Begins to take the pieces of the result whose bits are set, and that are not on their way, to the device. */
  returnPieces(index: number, bits: number): void {
    const { driver, returnStream } = this.#context;
    const staged = this.#at(index);
    const { plan, pieces, output } = staged;
    if (pieces === undefined) {
      throw new InternalError(`the output of collective ${index} goes as one`);
    }
    for (let piece = 0; piece < pieceCount(pieces.output); piece++) {
      const bit = 1 << piece;
      if ((bits & bit) === 0 || (staged.returning & bit) !== 0) continue;
      const { from, end } = pieceRange(pieces.output, piece);
      const host = this.#memory.address + BigInt(plan.output.at + from);
      driver.cuMemcpyHtoDAsync_v2(output + from, host, end - from, returnStream);
      staged.returning |= bit;
    }
  }

  /** Takes the result, or what is left of it, to the device, for kernels launched from now on. */
  finish(index: number): void {
    const { driver, computeStream, returnStream } = this.#context;
    const { plan, output, returned, returning } = this.#at(index);
    const { at, bytes } = plan.output;
    if (bytes === 0) return;
    if (returned === undefined || returning === 0) {
      const from = this.#memory.address + BigInt(at);
      driver.cuMemcpyHtoDAsync_v2(output, from, bytes, computeStream);
      return;
    }
    this.returnPieces(index, -1);
    driver.cuEventRecord(returned, returnStream);
    driver.cuStreamWaitEvent(computeStream, returned, 0);
  }

  dispose(): void {
    runAll(this.#owned);
  }

  #prepare(
    index: number,
    plan: StagedCollective,
    {
      program,
      rank,
      arena,
      leastPieceBytes,
    }: {
      readonly program: Program;
      readonly rank: number;
      readonly arena: Address;
      readonly leastPieceBytes?: number | undefined;
    },
  ): Staged {
    const descriptor = program.collectives[index];
    if (descriptor === undefined) throw new InternalError(`the program has no collective ${index}`);
    const group = groupOf(program.mesh, descriptor.axes, rank);
    const place = { size: group.length, index: group.indexOf(rank) };
    const { input, output } = plan;
    const apart = input.at >= output.at + output.bytes || output.at >= input.at + input.bytes;
    const outputAt = apart ? undefined : output.at - input.at;
    const pieces = planPieces(descriptor, place, outputAt, leastPieceBytes);
    const event = (): number => createEvent(this.#context, this.#owned);
    return {
      plan,
      pieces,
      input: arena + slotAt(program, descriptor.inputSlot).offsetBytes,
      output: arena + slotAt(program, descriptor.outputSlot).offsetBytes,
      made: event(),
      copied: Array.from({ length: Math.max(1, pieces?.order.length ?? 1) }, event),
      returned: pieces && event(),
      returning: 0,
    };
  }

  /** Copies a piece of the input to the host; undefined: all of it. */
  #fetch({ plan, pieces, input }: Staged, piece: number | undefined): void {
    const { driver, copyStream } = this.#context;
    const { from, end } =
      pieces === undefined || piece === undefined
        ? { from: 0, end: plan.input.bytes }
        : pieceRange(pieces.input, piece);
    if (end === from) return;
    const to = this.#memory.address + BigInt(plan.input.at + from);
    driver.cuMemcpyDtoHAsync_v2(to, input + from, end - from, copyStream);
  }

  #at(index: number): Staged {
    const staged = this.#staged[index];
    if (staged === undefined) throw new InternalError(`the program has no collective ${index}`);
    return staged;
  }
}
