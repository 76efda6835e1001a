import { InternalError } from "../../../shared/errors.ts";
import type {
  ComputeInstruction,
  DType,
  Precision,
  Program,
} from "../../../shared/program/program.ts";
import { elementCount, slotAt } from "../arena-layout.ts";
import type { Address } from "../kernels.ts";

/** One operand of an instruction, resolved. */
export interface Operand {
  readonly address: Address;
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** Elements. */
  readonly n: number;
}

/**
 * The operands of one instruction with the checks that keep a kernel inside its slots: a program comes over the
 * network, and kernels trust their sizes.
 */
export class Operands {
  readonly #instruction: ComputeInstruction;
  readonly #inputs: readonly Operand[];
  readonly #outputs: readonly Operand[];

  constructor(program: Program, instruction: ComputeInstruction, arena: Address) {
    const resolve = (index: number): Operand => {
      const { shape, dtype, offsetBytes } = slotAt(program, index);
      return { address: arena + offsetBytes, shape, dtype, n: elementCount(shape) };
    };
    this.#instruction = instruction;
    this.#inputs = instruction.inputs.map(resolve);
    this.#outputs = instruction.outputs.map(resolve);
  }

  get numInputs(): number {
    return this.#inputs.length;
  }

  /** Input `index`, of `n` elements where given. */
  input(index: number, n?: number, dtype: DType = "float32"): Operand {
    return this.#checked(this.#inputs[index], `input ${index}`, n, dtype);
  }

  output(index: number, n?: number, dtype: DType = "float32"): Operand {
    return this.#checked(this.#outputs[index], `output ${index}`, n, dtype);
  }

  /** What the op's activations are: bfloat16 where any operand is. Parameters and statistics stay float32. */
  get precision(): Precision {
    const half = [...this.#inputs, ...this.#outputs].some(({ dtype }) => dtype === "bfloat16");
    return half ? "bfloat16" : "float32";
  }

  /** An input whose dtype is the op's precision. */
  activation(index: number, n?: number): Operand {
    return this.input(index, n, this.precision);
  }

  /** An output whose dtype is the op's precision. */
  result(index: number, n?: number): Operand {
    return this.output(index, n, this.precision);
  }

  /** Input or output of any dtype. */
  anyInput(index: number): Operand {
    return this.input(index, undefined, this.#inputs[index]?.dtype);
  }

  anyOutput(index: number): Operand {
    return this.output(index, undefined, this.#outputs[index]?.dtype);
  }

  /** An input that the op updates in place: it and output `out` must be the same bytes. */
  updated(index: number, out: number, n?: number): Operand {
    const operand = this.input(index, n);
    if (this.output(out, operand.n).address !== operand.address) {
      this.fail(`input ${index} and output ${out} must be the same bytes`);
    }
    return operand;
  }

  get attrs(): Readonly<Record<string, number>> {
    return this.#instruction.attrs;
  }

  attr(name: string): number {
    const value = this.#instruction.attrs[name];
    if (value === undefined) return this.fail(`attribute ${name} is missing`);
    return value;
  }

  /** Rows M and features K of [..., K]. */
  rows({ shape, n }: Operand): { M: number; K: number } {
    const K = shape.at(-1);
    if (K === undefined) return this.fail("a scalar has no rows");
    return { M: K === 0 ? elementCount(shape.slice(0, -1)) : n / K, K };
  }

  fail(what: string): never {
    const { op } = this.#instruction;
    const show = (list: readonly Operand[]): string =>
      list.map(({ dtype, shape }) => `${dtype}[${shape.join(", ")}]`).join(", ");
    throw new InternalError(
      `${op}: ${what}; inputs ${show(this.#inputs)}, outputs ${show(this.#outputs)}`,
    );
  }

  #checked(
    operand: Operand | undefined,
    name: string,
    n: number | undefined,
    dtype: DType,
  ): Operand {
    if (operand === undefined) return this.fail(`${name} is missing`);
    if (operand.dtype !== dtype) return this.fail(`${name} is not ${dtype}`);
    if (n !== undefined && operand.n !== n) {
      return this.fail(`${name} has ${operand.n} elements where ${n} are needed`);
    }
    return operand;
  }
}
