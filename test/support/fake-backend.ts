import koffi from "koffi";
import { DeviceError, InternalError, ResourceExhaustedError } from "../../shared/errors.ts";
import type { StepScalars } from "../../shared/optimizer/step-scalars.ts";
import type { ComputeInstruction, Program, StoredTensor } from "../../shared/program/program.ts";
import type {
  CollectiveOperands,
  LoadedProgram,
  MemoryAccount,
} from "../../worker/backend/backend.ts";
import type { ChosenBackend } from "../../worker/backend/create-backend.ts";
import type { BackendChoice } from "../../worker/compute/backend-loader.ts";

/** URL of this module, for `WorkerOptions.backendModule`. */
export const FAKE_BACKEND = import.meta.url;

/**
 * A backend of whole numbers, for tests of what runs around a backend. Its device says what is wrong with it:
 * `refuse` (memory), `extra:BYTES` (asks for more than predicted), `leak` (keeps memory), `lost` (as it loads a program),
 * `lost-read` (as its weights are read), `gpu:WORKSPACE:MEMORY` (has memory of its own, and takes some), `late:MS` (is done
 * that much after what it was given), else nothing.
 */
export function createBackend(choice: BackendChoice): ChosenBackend {
  const account = new Account();
  const [, workspace = "0", memory] = /^gpu:(\d+):(\d+)$/.exec(choice.device) ?? [];
  const workspaceBytes = Number(workspace);
  return {
    name: "reference",
    precisions: memory === undefined ? ["float32"] : ["float32", "bfloat16"],
    device: choice.device === "" ? "fake" : choice.device,
    fingerprint: "fake 1",
    reason: `a test asked for ${choice.backend}`,
    memory: account,
    workspaceBytes,
    ...(memory === undefined ? {} : { memoryBytes: Number(memory) }),
    close: () => account.free("workspace", account.byKind()["workspace"] ?? 0),
    load: (program, rank) => {
      if (workspaceBytes > 0) account.allocate("workspace", workspaceBytes);
      return new FakeProgram(program, rank, choice.device, account);
    },
  };
}

/** What a driver says whose device is gone, or is full. */
function deviceError(call: string, kind: "lost" | "full"): DeviceError {
  const status = kind === "lost" ? "FAKE_ERROR_DEVICE_LOST" : "FAKE_ERROR_OUT_OF_MEMORY";
  return new DeviceError(`${call}(0x7f0000001000, 4096) failed: ${status} (7)`, {
    code: kind === "lost" ? "UNAVAILABLE" : "RESOURCE_EXHAUSTED",
    call,
    status,
    fatal: kind === "lost",
  });
}

class Account implements MemoryAccount {
  currentBytes = 0;
  peakBytes = 0;
  readonly #kinds = new Map<string, number>();

  allocate(kind: string, bytes: number): void {
    this.#kinds.set(kind, (this.#kinds.get(kind) ?? 0) + bytes);
    this.currentBytes += bytes;
    this.peakBytes = Math.max(this.peakBytes, this.currentBytes);
  }

  free(kind: string, bytes: number): void {
    this.#kinds.set(kind, (this.#kinds.get(kind) ?? 0) - bytes);
    this.currentBytes -= bytes;
  }

  observe(): void {}

  byKind(): Record<string, number> {
    return Object.fromEntries(this.#kinds);
  }
}

class FakeProgram implements LoadedProgram {
  readonly #program: Program;
  readonly #rank: number;
  readonly #account: Account;
  readonly #leak: boolean;
  readonly #losesRead: boolean;
  readonly #lateMs: number;
  readonly #held: (readonly [kind: string, bytes: number])[];
  #arena: ArrayBuffer | undefined;

  constructor(program: Program, rank: number, device: string, account: Account) {
    if (device === "refuse") {
      throw new ResourceExhaustedError(`fake: the system refuses ${program.arenaBytes} bytes`);
    }
    if (device === "lost") throw deviceError("fakeAllocate", "lost");
    this.#program = program;
    this.#rank = rank;
    this.#account = account;
    this.#leak = device === "leak";
    this.#losesRead = device === "lost-read";
    this.#lateMs = Number(/^late:(\d+)$/.exec(device)?.[1] ?? 0);
    this.#held = Object.entries(program.memoryByKind);
    const extra = /^extra:(\d+)$/.exec(device)?.[1];
    if (extra !== undefined) this.#held = [...this.#held, ["workspace", Number(extra)]];
    for (const [kind, bytes] of this.#held) account.allocate(kind, bytes);
    this.#arena = new ArrayBuffer(program.arenaBytes);
  }

  run(instructions: readonly ComputeInstruction[], scalars: StepScalars): void {
    for (const instruction of instructions) this.#run(instruction, scalars);
  }

  #run(instruction: ComputeInstruction, scalars: StepScalars): void {
    const { op, attrs } = instruction;
    const [a, b] = instruction.inputs.map((slot) => this.#floats(slot));
    const [out] = instruction.outputs.map((slot) => this.#floats(slot));
    switch (op) {
      case "dotRows": {
        // Every row of a with every row of b, added up.
        const width = this.#program.slots[instruction.inputs[0] ?? -1]?.shape[1] ?? 1;
        let total = 0;
        for (let i = 0; a !== undefined && b !== undefined && i < a.length; i += width) {
          for (let j = 0; j < b.length; j += width) {
            for (let k = 0; k < width; k++) total += (a[i + k] ?? 0) * (b[j + k] ?? 0);
          }
        }
        if (out !== undefined) out[0] = total;
        return;
      }
      case "addConstant":
        out?.forEach((value, i) => {
          out[i] = value + (attrs["value"] ?? 0);
        });
        return;
      case "sleep":
        if (this.#concerns(attrs, scalars)) sleep(attrs["ms"] ?? 0);
        return;
      case "fail":
        if (this.#concerns(attrs, scalars))
          throw new ResourceExhaustedError("fake: the device is lost");
        return;
      case "loseDevice":
        if (this.#concerns(attrs, scalars)) throw deviceError("fakeLaunch", "lost");
        return;
      case "fillDevice":
        if (this.#concerns(attrs, scalars)) throw deviceError("fakeAllocate", "full");
        return;
      case "crash":
        if (this.#concerns(attrs, scalars)) setThrowLater();
        return;
      default:
        throw new InternalError(`fake backend has no op ${op}`);
    }
  }

  initialize(tensor: StoredTensor, seed: number): void {
    const floats = this.#floats(tensor.slot);
    const value = tensor.init.kind === "constant" ? tensor.init.value : seed + this.#rank;
    floats.fill(value);
  }

  write(slot: number, bytes: Uint8Array, offsetBytes = 0): void {
    const into = this.#bytes(slot);
    if (offsetBytes + bytes.length > into.length)
      throw new InternalError(`write past slot ${slot}`);
    into.set(bytes, offsetBytes);
  }

  read(slot: number, into: Uint8Array, offsetBytes = 0): void {
    if (this.#losesRead && this.#program.stored.some((tensor) => tensor.slot === slot)) {
      throw deviceError("fakeCopy", "lost");
    }
    into.set(this.#bytes(slot).subarray(offsetBytes, offsetBytes + into.length));
  }

  collectiveOperands(index: number): CollectiveOperands {
    const collective = this.#program.collectives[index];
    if (collective === undefined) throw new InternalError(`no collective ${index}`);
    const { inputSlot, outputSlot } = collective;
    const at = (slot: number): bigint => koffi.address(this.#bytes(slot));
    return { input: at(inputSlot), output: at(outputSlot) };
  }

  startCollective(): void {}

  collectiveReady(): boolean {
    return true;
  }

  finishCollective(): void {}

  synchronize(): void {
    sleep(this.#lateMs);
  }

  dispose(): void {
    this.#arena = undefined;
    if (this.#leak) return;
    for (const [kind, bytes] of this.#held) this.#account.free(kind, bytes);
  }

  /** Whether an instruction with `step` (and `rank`) attributes is meant for now (and here). */
  #concerns(attrs: Readonly<Record<string, number>>, scalars: StepScalars): boolean {
    return (
      (attrs["step"] ?? scalars.step) === scalars.step &&
      (attrs["rank"] ?? this.#rank) === this.#rank
    );
  }

  #bytes(slot: number): Uint8Array {
    const found = this.#program.slots[slot];
    if (found === undefined || this.#arena === undefined)
      throw new InternalError(`no slot ${slot}`);
    return new Uint8Array(this.#arena, found.offsetBytes, found.sizeBytes);
  }

  #floats(slot: number): Float32Array {
    const { buffer, byteOffset, byteLength } = this.#bytes(slot);
    return new Float32Array(buffer, byteOffset, byteLength / 4);
  }
}

function sleep(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** An error that no caller can catch: what a fault in the thread's own event loop looks like. */
function setThrowLater(): never {
  process.nextTick(() => {
    throw new Error("fake: the thread is broken");
  });
  throw new Error("fake: leave the loop");
}
