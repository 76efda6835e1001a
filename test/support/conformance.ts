// Runs single ops on a backend: a program of one instruction, its slots apart by guard bytes that must survive.

import { fromBfloat16, toBfloat16 } from "../../shared/bfloat16.ts";
import { coordinates, type Mesh } from "../../shared/mesh/mesh.ts";
import { type StepScalars, stepScalars } from "../../shared/optimizer/step-scalars.ts";
import {
  type ComputeInstruction,
  type DType,
  dtypeBytes,
  type Precision,
  type Program,
  type Slot,
} from "../../shared/program/program.ts";
import type { Backend, LoadedProgram } from "../../worker/backend/backend.ts";
import type { Expected } from "./expected-math.ts";
import { EXPECTED } from "./expected-ops.ts";

export interface Tensor {
  readonly shape: readonly number[];
  readonly dtype?: DType;
  /** Values; default: pseudo-random on [-1, 1). */
  readonly values?: (i: number) => number;
}

export interface OpCase {
  readonly op: string;
  readonly title: string;
  readonly inputs: readonly Tensor[];
  /** Shapes of outputs, or the index of the input that an output shares its bytes with. */
  readonly outputs: readonly (Tensor | number)[];
  readonly attrs?: Readonly<Record<string, number>>;
  readonly step?: number;
  readonly microbatch?: number;
  readonly sgd?: boolean;
  readonly mesh?: Mesh;
  readonly rank?: number;
  /** Of every operand, in bytes. Default: 8, of which vectors of 16 bytes may be out of step; programs have 256. */
  readonly alignment?: number;
  /** Index of an input that is working space: it may change. */
  readonly scratch?: number;
  /** Largest error allowed, relative to the larger of the value and the tensor's root mean square. */
  readonly tolerance: number;
}

/** What a backend must compute in to run the case. */
export function precisionOf({ inputs, outputs }: OpCase): Precision {
  const half = [...inputs, ...outputs].some((o) => typeof o === "object" && o.dtype === "bfloat16");
  return half ? "bfloat16" : "float32";
}

const GUARD_BYTES = 72;
const GUARD = 0xa5;
const ONE_RANK: Mesh = { axes: [{ name: "tensorParallel", size: 1 }] };

/** A fixed sequence on [-1, 1) that needs no state: fractions of multiples of an irrational number. */
export function pseudoRandom(i: number, salt = 0): number {
  const x = Math.sin(i * 12.9898 + salt * 78.233) * 43758.5453;
  return 2 * (x - Math.floor(x)) - 1;
}

export function scalarsOf(op: Pick<OpCase, "step" | "microbatch" | "sgd">): StepScalars {
  const optimizer = op.sgd
    ? ({ kind: "sgd", lr: 0.1, momentum: 0.9 } as const)
    : ({ kind: "adamw", lr: 3e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01 } as const);
  return stepScalars(optimizer, { kind: "constant" }, op.step ?? 2, op.microbatch ?? 0);
}

const count = (shape: readonly number[]): number => shape.reduce((p, n) => p * n, 1);

/** The program of one op, and its operands' slots in order. */
export function programOf(op: OpCase): {
  program: Program;
  instruction: ComputeInstruction;
  guards: readonly number[];
} {
  const slots: Slot[] = [];
  const guards: number[] = [];
  let at = 0;
  const add = (name: string, dtype: DType, shape: readonly number[]): number => {
    const sizeBytes = count(shape) * dtypeBytes(dtype);
    if (op.alignment !== undefined && !name.startsWith("guard")) {
      at = Math.ceil(at / op.alignment) * op.alignment;
    }
    slots.push({ name, dtype, shape, offsetBytes: at, sizeBytes });
    at += Math.ceil(sizeBytes / 8) * 8;
    return slots.length - 1;
  };
  const guard = (): void => {
    guards.push(add(`guard${guards.length}`, "int32", [GUARD_BYTES / 4]));
  };
  guard();
  const inputs = op.inputs.map(({ shape, dtype }, i) => {
    const slot = add(`input${i}`, dtype ?? "float32", shape);
    guard();
    return slot;
  });
  const outputs = op.outputs.map((output, i) => {
    if (typeof output === "number") return inputs[output] ?? -1;
    const slot = add(`output${i}`, output.dtype ?? "float32", output.shape);
    guard();
    return slot;
  });
  const instruction: ComputeInstruction = {
    kind: "compute",
    op: op.op,
    inputs,
    outputs,
    attrs: op.attrs ?? {},
  };
  const program: Program = {
    formatVersion: 1,
    name: op.op,
    mesh: op.mesh ?? ONE_RANK,
    arenaBytes: at,
    memoryByKind: { activations: at },
    slots,
    stored: [],
    inputs: [],
    microbatches: 1,
    body: [instruction],
    epilogue: [],
    collectives: [],
    lossSlot: 0,
    gradNormSlot: -1,
    optimizer: { kind: "adamw", lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0 },
    schedule: { kind: "constant" },
  };
  return { program, instruction, guards };
}

type Numbers = Float32Array | Float64Array | Int32Array;

function arrayOf(dtype: DType, length: number): Numbers {
  if (dtype === "float64") return new Float64Array(length);
  return dtype === "int32" ? new Int32Array(length) : new Float32Array(length);
}

/** The bytes of values that are numbers of `dtype`. */
function bytesOf(data: Numbers, dtype: DType = "float32"): Uint8Array {
  const stored = dtype === "bfloat16" ? Uint16Array.from(data, toBfloat16) : data;
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
}

function readValues(
  loaded: LoadedProgram,
  slot: number,
  length: number,
  dtype: DType = "float32",
): Numbers {
  const bytes = new Uint8Array(length * dtypeBytes(dtype));
  loaded.read(slot, bytes);
  if (dtype === "bfloat16") return Float32Array.from(new Uint16Array(bytes.buffer), fromBfloat16);
  if (dtype === "float64") return new Float64Array(bytes.buffer);
  return dtype === "int32" ? new Int32Array(bytes.buffer) : new Float32Array(bytes.buffer);
}

/** Values of the inputs as the backend sees them: rounded to their dtype. */
export function inputsOf(op: OpCase): Numbers[] {
  return op.inputs.map(({ shape, dtype, values }, k) => {
    const data = arrayOf(dtype ?? "float32", count(shape));
    for (let i = 0; i < data.length; i++) data[i] = values?.(i) ?? pseudoRandom(i, k);
    if (dtype === "bfloat16") data.set(Array.from(data, (x) => fromBfloat16(toBfloat16(x))));
    return data;
  });
}

/** Outputs of one op on a backend. @throws Error when bytes outside of the outputs changed. */
export function runOp(backend: Backend, op: OpCase, times = 1): Numbers[] {
  const { program, instruction, guards } = programOf(op);
  const loaded = backend.load(program, op.rank ?? 0);
  try {
    const guard = new Uint8Array(GUARD_BYTES).fill(GUARD);
    for (const slot of guards) loaded.write(slot, guard);
    const inputs = inputsOf(op);
    inputs.forEach((data, i) => {
      loaded.write(instruction.inputs[i] ?? -1, bytesOf(data, op.inputs[i]?.dtype));
    });
    op.outputs.forEach((output, i) => {
      if (typeof output === "number") return;
      // Garbage that an op must overwrite: NaN.
      const size = count(output.shape) * dtypeBytes(output.dtype ?? "float32");
      loaded.write(instruction.outputs[i] ?? -1, new Uint8Array(size).fill(0xff));
    });
    for (let t = 0; t < times; t++) loaded.run(program.body as ComputeInstruction[], scalarsOf(op));
    loaded.synchronize();
    const seen = new Uint8Array(GUARD_BYTES);
    for (const slot of guards) {
      loaded.read(slot, seen);
      if (seen.some((byte) => byte !== GUARD)) {
        throw new Error(
          `${op.op}: wrote outside of its operands, into slot ${slot} (${program.slots[slot]?.name})`,
        );
      }
    }
    inputs.forEach((before, i) => {
      if (op.outputs.includes(i) || isScratch(op, i)) return;
      const after = readValues(
        loaded,
        instruction.inputs[i] ?? -1,
        before.length,
        op.inputs[i]?.dtype,
      );
      if (!Buffer.from(bytesOf(before)).equals(bytesOf(after)))
        throw new Error(`${op.op}: changed input ${i}`);
    });
    return op.outputs.map((output, i) => {
      const tensor = typeof output === "number" ? op.inputs[output] : output;
      const slot = instruction.outputs[i] ?? -1;
      return readValues(loaded, slot, count(tensor?.shape ?? []), tensor?.dtype);
    });
  } finally {
    loaded.dispose();
  }
}

/** Tiled updates form their gradient in the last input. */
function isScratch(op: OpCase, input: number): boolean {
  if (op.scratch === input) return true;
  return (op.attrs?.["tileRows"] ?? 0) > 0 && input === op.inputs.length - 1;
}

const known = new WeakMap<OpCase, number[][]>();

/** What the op should give, in float64: computed once for all backends. */
export function expectedOf(op: OpCase): number[][] {
  const found = known.get(op) ?? expectationOf(op);
  known.set(op, found);
  return found;
}

function expectationOf(op: OpCase): number[][] {
  const mesh = op.mesh ?? ONE_RANK;
  const axisSize = mesh.axes[op.attrs?.["axis"] ?? 0]?.size ?? 1;
  const first = op.outputs[0];
  const shape = typeof first === "number" ? op.inputs[first]?.shape : first?.shape;
  const expected: Expected | undefined = EXPECTED[op.op];
  if (expected === undefined) throw new Error(`no expectation for ${op.op}`);
  return expected({
    inputs: inputsOf(op).map((data) => [...data]),
    shapes: op.inputs.map((tensor) => tensor.shape),
    attrs: op.attrs ?? {},
    scalars: scalarsOf(op),
    axisSize,
    coordinate: op.rank ?? 0,
    mesh,
    coordinates: coordinates(mesh, op.rank ?? 0),
    outputLength: count(shape ?? []),
    outputShape: shape ?? [],
  });
}

/** The worst error of `got`, relative to the larger of the value wanted and the root mean square of all; and where. */
export function worstError(
  got: ArrayLike<number>,
  want: readonly number[],
): { error: number; at: number } {
  if (got.length !== want.length) return { error: Number.POSITIVE_INFINITY, at: -1 };
  const square = want.reduce((total, x) => total + x * x, 0);
  const rms = Math.sqrt(square / Math.max(1, want.length));
  let worst = { error: 0, at: -1 };
  want.forEach((w, at) => {
    const g = got[at] ?? Number.NaN;
    if (Object.is(g, w) || g === w) return;
    const error = Math.abs(g - w) / Math.max(Math.abs(w), rms);
    if (!(error <= worst.error)) worst = { error, at };
  });
  return worst;
}
