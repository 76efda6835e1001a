import { BroadcastChannel } from "node:worker_threads";
import type { StepScalars } from "../shared/optimizer/step-scalars.ts";
import type { ComputeInstruction, Program, StoredTensor } from "../shared/program/program.ts";
import type { Backend, CollectiveOperands, LoadedProgram } from "../worker/backend/backend.ts";
import { createBackend as createOwnBackend } from "../worker/backend/create-backend.ts";
import type { BackendChoice } from "../worker/compute/backend-loader.ts";

/** Name of the channel on which a program's times are told when it is disposed, as KernelTimes. */
export const KERNEL_TIMES_CHANNEL = "rankmesh-bench-kernel-times";

/** What a timed program spent in its backend. */
export interface KernelTimes {
  /** One per step: seconds inside compute instructions. */
  readonly seconds: readonly number[];
}

/**
 * A backend module that makes the project's own backends with a clock around its instructions. The compute thread
 * loads it in place of the usual one, so what is timed is the worker as it is.
 *
 * @public
 */
export function createBackend(choice: BackendChoice): Backend {
  const backend = createOwnBackend(choice);
  return {
    name: backend.name,
    device: backend.device,
    precisions: backend.precisions,
    fingerprint: backend.fingerprint,
    memory: backend.memory,
    workspaceBytes: backend.workspaceBytes,
    close: () => backend.close(),
    load: (program, rank) => new TimedProgram(backend.load(program, rank), program),
  };
}

class TimedProgram implements LoadedProgram {
  readonly #loaded: LoadedProgram;
  readonly #first: ComputeInstruction | undefined;
  readonly #seconds: number[] = [];
  #step = -1;

  constructor(loaded: LoadedProgram, program: Program) {
    this.#loaded = loaded;
    this.#first = program.body.find((instruction) => instruction.kind === "compute");
  }

  run(
    instructions: readonly ComputeInstruction[],
    scalars: StepScalars,
    between?: () => void,
  ): void {
    if (instructions[0] === this.#first && scalars.microbatch === 0) {
      this.#step++;
      this.#seconds.push(0);
    }
    const began = performance.now();
    this.#loaded.run(instructions, scalars, between);
    const elapsed = (performance.now() - began) / 1000;
    this.#seconds[this.#step] = (this.#seconds[this.#step] ?? 0) + elapsed;
  }

  initialize(tensor: StoredTensor, seed: number): void {
    this.#loaded.initialize(tensor, seed);
  }

  write(slot: number, bytes: Uint8Array, offsetBytes?: number): void {
    this.#loaded.write(slot, bytes, offsetBytes);
  }

  read(slot: number, into: Uint8Array, offsetBytes?: number): void {
    this.#loaded.read(slot, into, offsetBytes);
  }

  collectiveOperands(index: number): CollectiveOperands {
    return this.#loaded.collectiveOperands(index);
  }

  startCollective(index: number): void {
    this.#loaded.startCollective(index);
  }

  collectiveReady(index: number, wait: boolean, place?: number): boolean {
    return this.#loaded.collectiveReady(index, wait, place);
  }

  returnPieces(index: number, pieces: number): void {
    this.#loaded.returnPieces?.(index, pieces);
  }

  finishCollective(index: number): void {
    this.#loaded.finishCollective(index);
  }

  synchronize(): void {
    this.#loaded.synchronize();
  }

  dispose(): void {
    this.#loaded.dispose();
    const channel = new BroadcastChannel(KERNEL_TIMES_CHANNEL);
    const times: KernelTimes = { seconds: this.#seconds };
    channel.postMessage(times);
    channel.close();
  }
}
