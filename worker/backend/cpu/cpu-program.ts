import { InternalError, ResourceExhaustedError } from "../../../shared/errors.ts";
import { coordinates } from "../../../shared/mesh/mesh.ts";
import { shardIntervals } from "../../../shared/mesh/placement.ts";
import type { StepScalars } from "../../../shared/optimizer/step-scalars.ts";
import type {
  ComputeInstruction,
  Program,
  Slot,
  StoredTensor,
} from "../../../shared/program/program.ts";
import { nameHash } from "../../../shared/random/philox.ts";
import {
  arenaParts,
  checkRange,
  computeInstructions,
  elementCount,
  slotAt,
} from "../arena-layout.ts";
import type { LoadedProgram, MemoryAccount } from "../backend.ts";
import { bindInstruction } from "./bind-instruction.ts";
import type { BindContext, BoundInstruction } from "./binder.ts";
import { fillShape } from "./fill-shape.ts";
import type { Address, Kernels } from "./kernels.ts";
import { Operands } from "./operands.ts";
import { StepScalarBlock } from "./step-scalar-block.ts";

/** A program in native memory: one arena, every instruction bound once to its addresses. */
export class CpuProgram implements LoadedProgram {
  readonly #program: Program;
  readonly #rank: number;
  readonly #kernels: Kernels;
  readonly #activate: () => void;
  readonly #account: MemoryAccount;
  readonly #onDispose: () => void;
  readonly #parts: [kind: string, bytes: number][];
  #arena: Address | undefined;
  #bound: ReadonlyMap<ComputeInstruction, BoundInstruction> = new Map();

  /**
   * @param activate makes the backend's threads and BLAS the ones that kernels use
   * @throws ResourceExhaustedError when the system refuses the arena; InternalError for a program that does not fit together
   */
  constructor(from: {
    program: Program;
    rank: number;
    kernels: Kernels;
    activate: () => void;
    account: MemoryAccount;
    onDispose: () => void;
  }) {
    this.#program = from.program;
    this.#rank = from.rank;
    this.#kernels = from.kernels;
    this.#activate = from.activate;
    this.#account = from.account;
    this.#onDispose = from.onDispose;
    this.#parts = arenaParts(from.program);
    this.#arena = this.#allocate();
    try {
      this.#bound = this.#bindAll(this.#arena);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  run(instruction: ComputeInstruction, scalars: StepScalars): void {
    const bound = this.#bound.get(instruction);
    if (bound === undefined) {
      this.#live();
      throw new InternalError(
        `${instruction.op} is no instruction of program ${this.#program.name}`,
      );
    }
    this.#activate();
    bound(scalars);
  }

  initialize(tensor: StoredTensor, seed: number): void {
    const slot = slotAt(this.#program, tensor.slot);
    const address = this.#addressOf(slot);
    const n = elementCount(slot.shape);
    if (slot.dtype !== "float32")
      throw new InternalError(`stored tensor ${tensor.name} is ${slot.dtype}`);
    this.#activate();
    if (tensor.init.kind === "constant") {
      this.#kernels.fill(address, n, tensor.init.value);
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
    this.#kernels.fillUniform(address, values, dims, BigInt(seed), hash, tensor.init.bound);
  }

  write(slot: number, bytes: Uint8Array, offsetBytes = 0): void {
    const { address, slot: target } = this.#host(slot);
    checkRange(target, offsetBytes, bytes.length);
    if (bytes.length > 0) this.#kernels.write(address + offsetBytes, bytes, bytes.length);
  }

  read(slot: number, into: Uint8Array, offsetBytes = 0): void {
    const { address, slot: source } = this.#host(slot);
    checkRange(source, offsetBytes, into.length);
    if (into.length > 0) this.#kernels.read(into, address + offsetBytes, into.length);
  }

  hostAddress(slot: number): bigint {
    return BigInt(this.#host(slot).address);
  }

  synchronize(): void {
    this.#live();
  }

  dispose(): void {
    const arena = this.#live();
    this.#arena = undefined;
    this.#bound = new Map();
    const { arenaBytes, name } = this.#program;
    if (this.#kernels.unmap(arena, arenaBytes) !== 0) {
      throw new InternalError(`munmap of ${arenaBytes} bytes of program ${name} failed`);
    }
    for (const [kind, bytes] of this.#parts) this.#account.free(kind, bytes);
    this.#onDispose();
  }

  #allocate(): Address {
    const { arenaBytes, name } = this.#program;
    const arena = this.#kernels.map(arenaBytes);
    if (arena === null) {
      throw new ResourceExhaustedError(
        `cpu backend: the system refused ${arenaBytes} bytes for program ${name}; free memory, or use more ranks`,
      );
    }
    for (const [kind, bytes] of this.#parts) this.#account.allocate(kind, bytes);
    return Number(arena);
  }

  #bindAll(arena: Address): Map<ComputeInstruction, BoundInstruction> {
    const program = this.#program;
    const context: BindContext = {
      kernels: this.#kernels,
      scalars: new StepScalarBlock(),
      mesh: program.mesh,
      coordinates: coordinates(program.mesh, this.#rank),
    };
    const bound = new Map<ComputeInstruction, BoundInstruction>();
    for (const instruction of computeInstructions(program)) {
      bound.set(
        instruction,
        bindInstruction(instruction.op, new Operands(program, instruction, arena), context),
      );
    }
    return bound;
  }

  #host(slot: number): { address: Address; slot: Slot } {
    const found = slotAt(this.#program, slot);
    return { address: this.#addressOf(found), slot: found };
  }

  #addressOf(slot: Slot): Address {
    return this.#live() + slot.offsetBytes;
  }

  #live(): Address {
    if (this.#arena === undefined) {
      throw new InternalError(`program ${this.#program.name} was used after dispose()`);
    }
    return this.#arena;
  }
}
