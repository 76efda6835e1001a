import koffi from "koffi";
import { opDefinition } from "../../../compiler/ops/index.ts";
import type { NumberArray, ReferenceCall, ReferenceTensor } from "../../../compiler/ops/op.ts";
import { fromBfloat16, toBfloat16 } from "../../../shared/bfloat16.ts";
import { InternalError, ResourceExhaustedError, unreachable } from "../../../shared/errors.ts";
import { coordinates } from "../../../shared/mesh/mesh.ts";
import { shardIntervals } from "../../../shared/mesh/placement.ts";
import type { StepScalars } from "../../../shared/optimizer/step-scalars.ts";
import type {
  ComputeInstruction,
  DType,
  Program,
  StoredTensor,
} from "../../../shared/program/program.ts";
import { fillUniformSlice } from "../../../shared/random/uniform.ts";
import {
  arenaParts,
  checkRange,
  computeInstructions,
  elementCount,
  slotAt,
} from "../arena-layout.ts";
import type { CollectiveOperands, LoadedProgram, MemoryAccount } from "../backend.ts";

type BoundCall = (scalars: StepScalars) => void;

/** A program whose arena is an ArrayBuffer, and whose ops are the registry's reference implementations. */
export class ReferenceProgram implements LoadedProgram {
  readonly #program: Program;
  readonly #rank: number;
  readonly #account: MemoryAccount;
  readonly #parts: [kind: string, bytes: number][];
  #arena: ArrayBuffer | undefined;
  #bound: ReadonlyMap<ComputeInstruction, BoundCall> = new Map();

  /** @throws ResourceExhaustedError when the arena is refused; InternalError for a program that does not fit together */
  constructor(program: Program, rank: number, account: MemoryAccount) {
    this.#program = program;
    this.#rank = rank;
    this.#account = account;
    this.#parts = arenaParts(program);
    this.#arena = this.#allocate();
    try {
      this.#bound = this.#bindAll();
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  run(
    instructions: readonly ComputeInstruction[],
    scalars: StepScalars,
    between?: () => void,
  ): void {
    this.#live();
    for (const instruction of instructions) {
      const bound = this.#bound.get(instruction);
      if (bound === undefined) {
        throw new InternalError(
          `${instruction.op} is no instruction of program ${this.#program.name}`,
        );
      }
      between?.();
      bound(scalars);
    }
  }

  initialize(tensor: StoredTensor, seed: number): void {
    const { data } = this.#view(tensor.slot);
    if (!(data instanceof Float32Array)) {
      throw new InternalError(`stored tensor ${tensor.name} is not float32`);
    }
    const { init, name, globalShape, layout } = tensor;
    if (init.kind === "constant") {
      data.fill(init.value);
      return;
    }
    const intervals = shardIntervals(globalShape, layout, this.#program.mesh, this.#rank);
    fillUniformSlice(data, { seed, name, bound: init.bound, globalShape, intervals });
  }

  write(slot: number, bytes: Uint8Array, offsetBytes = 0): void {
    const { offsetBytes: start } = this.#checked(slot, offsetBytes, bytes.length);
    new Uint8Array(this.#live()).set(bytes, start + offsetBytes);
  }

  read(slot: number, into: Uint8Array, offsetBytes = 0): void {
    const { offsetBytes: start } = this.#checked(slot, offsetBytes, into.length);
    into.set(new Uint8Array(this.#live(), start + offsetBytes, into.length));
  }

  collectiveOperands(index: number): CollectiveOperands {
    const collective = this.#program.collectives[index];
    if (collective === undefined) throw new InternalError(`the program has no collective ${index}`);
    const start = koffi.address(new Uint8Array(this.#live()));
    const at = (slot: number): bigint => start + BigInt(slotAt(this.#program, slot).offsetBytes);
    return { input: at(collective.inputSlot), output: at(collective.outputSlot) };
  }

  startCollective(): void {
    this.#live();
  }

  collectiveReady(): boolean {
    this.#live();
    return true;
  }

  finishCollective(): void {
    this.#live();
  }

  synchronize(): void {
    this.#live();
  }

  dispose(): void {
    this.#live();
    this.#arena = undefined;
    this.#bound = new Map();
    for (const [kind, bytes] of this.#parts) this.#account.free(kind, bytes);
  }

  #allocate(): ArrayBuffer {
    const { arenaBytes, name } = this.#program;
    try {
      const arena = new ArrayBuffer(arenaBytes);
      for (const [kind, bytes] of this.#parts) this.#account.allocate(kind, bytes);
      return arena;
    } catch (cause) {
      throw new ResourceExhaustedError(
        `reference backend: JavaScript refused ${arenaBytes} bytes for program ${name}; use the cpu backend or more ranks`,
        { cause },
      );
    }
  }

  #bindAll(): Map<ComputeInstruction, BoundCall> {
    const { mesh } = this.#program;
    const bound = new Map<ComputeInstruction, BoundCall>();
    for (const instruction of computeInstructions(this.#program)) {
      const definition = opDefinition(instruction.op);
      const views = new Map<number, ReferenceTensor>();
      const halves: Half[] = [];
      const view = (slot: number): ReferenceTensor => {
        const found = views.get(slot) ?? this.#view(slot, halves);
        views.set(slot, found);
        return found;
      };
      const call: Omit<ReferenceCall, "scalars"> = {
        inputs: instruction.inputs.map(view),
        outputs: instruction.outputs.map(view),
        attrs: instruction.attrs,
        mesh,
        coordinates: coordinates(mesh, this.#rank),
      };
      const written = halves.filter(({ slot }) => instruction.outputs.includes(slot));
      bound.set(instruction, (scalars) => {
        for (const { bits, data } of halves) data.set(Array.from(bits, fromBfloat16));
        definition.reference({ ...call, scalars });
        for (const { bits, data } of written) bits.set(Array.from(data, toBfloat16));
      });
    }
    return bound;
  }

  /** @param halves takes note of a bfloat16 view, whose numbers an op sees in an array of their own */
  #view(slot: number, halves: Half[] = []): ReferenceTensor {
    const { dtype, shape, offsetBytes } = slotAt(this.#program, slot);
    if (dtype === "bfloat16") {
      const bits = new Uint16Array(this.#live(), offsetBytes, elementCount(shape));
      const data = new Float32Array(bits.length);
      halves.push({ slot, bits, data });
      return { data, shape };
    }
    return { data: viewOf(this.#live(), dtype, offsetBytes, elementCount(shape)), shape };
  }

  #checked(slot: number, offsetBytes: number, bytes: number): { offsetBytes: number } {
    const found = slotAt(this.#program, slot);
    checkRange(found, offsetBytes, bytes);
    return found;
  }

  #live(): ArrayBuffer {
    if (this.#arena === undefined) {
      throw new InternalError(`program ${this.#program.name} was used after dispose()`);
    }
    return this.#arena;
  }
}

/** A bfloat16 slot, and the numbers that an op's plain loops see of it. */
interface Half {
  readonly slot: number;
  readonly bits: Uint16Array;
  readonly data: Float32Array;
}

function viewOf(
  arena: ArrayBuffer,
  dtype: Exclude<DType, "bfloat16">,
  offsetBytes: number,
  length: number,
): NumberArray {
  switch (dtype) {
    case "float32":
      return new Float32Array(arena, offsetBytes, length);
    case "float64":
      return new Float64Array(arena, offsetBytes, length);
    case "int32":
      return new Int32Array(arena, offsetBytes, length);
    default:
      return unreachable(dtype, "dtype");
  }
}
