import { FailedPreconditionError, InternalError } from "../../shared/errors.ts";
import { coordinates } from "../../shared/mesh/mesh.ts";
import { shardIntervals } from "../../shared/mesh/placement.ts";
import type { StepScalars } from "../../shared/optimizer/step-scalars.ts";
import type {
  ComputeInstruction,
  Program,
  Slot,
  StoredTensor,
} from "../../shared/program/program.ts";
import { nameHash } from "../../shared/random/philox.ts";
import {
  arenaParts,
  checkRange,
  computeInstructions,
  elementCount,
  slotAt,
} from "./arena-layout.ts";
import type {
  CollectiveOperands,
  DeviceExchange,
  LoadedProgram,
  MemoryAccount,
} from "./backend.ts";
import { bindInstruction } from "./binding/bind-instruction.ts";
import type { BoundInstruction } from "./binding/binder.ts";
import { fillShape } from "./binding/fill-shape.ts";
import { Operands } from "./binding/operands.ts";
import type { Address, Kernels } from "./kernels.ts";

/** The device side of a loaded program: an arena, kernels over it, and ways in and out. */
export interface ArenaDevice {
  /** First byte of the arena, aligned to 256 bytes. */
  readonly arena: Address;
  readonly kernels: Kernels;
  /** Kernels for bfloat16, where the device has them. */
  readonly halfKernels?: Kernels;
  /** The step's scalars where kernels read them; `load` makes them those of a step, for kernels called after it. */
  readonly scalars: { readonly address: Address; load(scalars: StepScalars): void };
  /** Runs bound instructions in order. The array is the same object whenever the same stretch of a program runs. */
  run(stretch: readonly BoundInstruction[], scalars: StepScalars, between: () => void): void;
  /** Copies host bytes to an address of the arena; the bytes are the caller's again when it returns. */
  write(to: Address, bytes: Uint8Array): void;
  read(into: Uint8Array, from: Address): void;
  /** Where collectives run on the device. */
  readonly exchange?: DeviceExchange;
  collectiveOperands(index: number): CollectiveOperands;
  startCollective(index: number): void;
  collectiveReady(index: number, wait: boolean, place?: number): boolean;
  returnPieces?(index: number, pieces: number): void;
  finishCollective(index: number): void;
  synchronize(): void;
  /** Frees the arena and whatever else the program took. */
  free(): void;
}

/** A program on a device with an arena that kernels address: every instruction is bound once to its addresses. */
export class BoundProgram implements LoadedProgram {
  readonly #program: Program;
  readonly #rank: number;
  readonly #account: MemoryAccount;
  readonly #parts: [kind: string, bytes: number][];
  readonly #onDispose: () => void;
  readonly #stretches = new WeakMap<readonly ComputeInstruction[], readonly BoundInstruction[]>();
  #device: ArenaDevice | undefined;
  #bound: ReadonlyMap<ComputeInstruction, BoundInstruction> = new Map();

  /**
   * @param from.open allocates the arena
   * @throws ResourceExhaustedError when the arena is refused; InternalError for a program that does not fit together
   */
  constructor(from: {
    readonly program: Program;
    readonly rank: number;
    readonly account: MemoryAccount;
    readonly open: () => ArenaDevice;
    readonly onDispose: () => void;
  }) {
    this.#program = from.program;
    this.#rank = from.rank;
    this.#account = from.account;
    this.#onDispose = from.onDispose;
    this.#parts = arenaParts(from.program);
    this.#device = from.open();
    for (const [kind, bytes] of this.#parts) this.#account.allocate(kind, bytes);
    try {
      this.#bound = this.#bindAll(this.#device);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  get exchange(): DeviceExchange | undefined {
    return this.#device?.exchange;
  }

  run(
    instructions: readonly ComputeInstruction[],
    scalars: StepScalars,
    between: () => void = nothing,
  ): void {
    const device = this.#live();
    let stretch = this.#stretches.get(instructions);
    if (stretch === undefined) {
      stretch = instructions.map((instruction) => this.#boundOf(instruction));
      this.#stretches.set(instructions, stretch);
    }
    device.scalars.load(scalars);
    device.run(stretch, scalars, between);
  }

  initialize(tensor: StoredTensor, seed: number): void {
    const { kernels } = this.#live();
    const slot = slotAt(this.#program, tensor.slot);
    const address = this.#addressOf(slot);
    const n = elementCount(slot.shape);
    if (slot.dtype !== "float32")
      throw new InternalError(`stored tensor ${tensor.name} is ${slot.dtype}`);
    if (tensor.init.kind === "constant") {
      kernels.fill(address, n, tensor.init.value);
      return;
    }
    const { globalShape, layout, name } = tensor;
    const intervals = shardIntervals(globalShape, layout, this.#program.mesh, this.#rank);
    const sliceElements = intervals.reduce((product, { start, end }) => product * (end - start), 1);
    if (sliceElements !== n) {
      throw new InternalError(
        `stored tensor ${name}: slice of ${sliceElements} elements in a slot of ${n}`,
      );
    }
    const { values, dims } = fillShape(globalShape, intervals);
    const { low, high } = nameHash(name);
    const hash = (BigInt(high) << 32n) | BigInt(low);
    kernels.fillUniform(address, values, dims, BigInt(seed), hash, tensor.init.bound);
  }

  write(slot: number, bytes: Uint8Array, offsetBytes = 0): void {
    const device = this.#live();
    const target = slotAt(this.#program, slot);
    checkRange(target, offsetBytes, bytes.length);
    if (bytes.length > 0) device.write(this.#addressOf(target) + offsetBytes, bytes);
  }

  read(slot: number, into: Uint8Array, offsetBytes = 0): void {
    const device = this.#live();
    const source = slotAt(this.#program, slot);
    checkRange(source, offsetBytes, into.length);
    if (into.length > 0) device.read(into, this.#addressOf(source) + offsetBytes);
  }

  collectiveOperands(index: number): CollectiveOperands {
    return this.#live().collectiveOperands(index);
  }

  startCollective(index: number): void {
    this.#live().startCollective(index);
  }

  collectiveReady(index: number, wait: boolean, place?: number): boolean {
    return this.#live().collectiveReady(index, wait, place);
  }

  returnPieces(index: number, pieces: number): void {
    this.#live().returnPieces?.(index, pieces);
  }

  finishCollective(index: number): void {
    this.#live().finishCollective(index);
  }

  synchronize(): void {
    this.#live().synchronize();
  }

  dispose(): void {
    const device = this.#live();
    this.#device = undefined;
    this.#bound = new Map();
    device.free();
    for (const [kind, bytes] of this.#parts) this.#account.free(kind, bytes);
    this.#onDispose();
  }

  #bindAll(device: ArenaDevice): Map<ComputeInstruction, BoundInstruction> {
    const program = this.#program;
    const context = {
      scalars: device.scalars,
      mesh: program.mesh,
      coordinates: coordinates(program.mesh, this.#rank),
    };
    const bound = new Map<ComputeInstruction, BoundInstruction>();
    for (const instruction of computeInstructions(program)) {
      const operands = new Operands(program, instruction, device.arena);
      const kernels = operands.precision === "bfloat16" ? device.halfKernels : device.kernels;
      if (kernels === undefined) {
        throw new FailedPreconditionError(
          `program ${program.name} computes in bfloat16, which this backend does not; set precision to fp32, or use backend cuda`,
        );
      }
      bound.set(instruction, bindInstruction(instruction.op, operands, { ...context, kernels }));
    }
    return bound;
  }

  #boundOf(instruction: ComputeInstruction): BoundInstruction {
    const bound = this.#bound.get(instruction);
    if (bound !== undefined) return bound;
    throw new InternalError(`${instruction.op} is no instruction of program ${this.#program.name}`);
  }

  #addressOf(slot: Slot): Address {
    return this.#live().arena + slot.offsetBytes;
  }

  #live(): ArenaDevice {
    if (this.#device === undefined) {
      throw new InternalError(`program ${this.#program.name} was used after dispose()`);
    }
    return this.#device;
  }
}

const nothing = (): void => undefined;
