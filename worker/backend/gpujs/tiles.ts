import type { IKernelRunShortcut } from "gpu.js";
import type { CpuKernels } from "../cpu/kernels.ts";
import type { Address } from "../kernels.ts";
import { ELEMENTWISE, type ElementwiseKernel, type ElementwiseName } from "./elementwise.ts";
import { gpujs } from "./library.ts";

/**
 * Elements that a kernel computes at a time. gpu.js builds the sizes of a kernel's operands into its WebAssembly: a size of
 * its own keeps that to one module a kernel, and 64 KiB an operand stay in cache while they are copied in and out.
 */
const TILE = 16384;
const BYTES = Float32Array.BYTES_PER_ELEMENT;

interface Tile {
  readonly run: (...args: (Float32Array | number)[]) => Float32Array;
  /** Where operands lie while a tile is computed; undefined for numbers. */
  readonly operands: readonly (Float32Array | undefined)[];
  readonly kinds: ElementwiseKernel["operands"];
}

/**
 * gpu.js in its WebAssembly mode on tensors in native memory, tile by tile. A tile is read before it is written, so an output may be
 * an operand's own bytes.
 */
export class ElementwiseTiles {
  readonly #gpu = new (gpujs().GPU)({ mode: "webasm" });
  readonly #tiles = new Map<ElementwiseName, Tile>();
  readonly #memory: Pick<CpuKernels, "read" | "write">;

  constructor(memory: Pick<CpuKernels, "read" | "write">) {
    this.#memory = memory;
  }

  /** y[0..n) = the kernel of its operands, addresses or numbers as its table entry says. */
  run(name: ElementwiseName, operands: readonly (Address | number)[], y: Address, n: number): void {
    const tile = this.#tiles.get(name) ?? this.#build(name);
    for (let first = 0; first < n; first += TILE) {
      const bytes = Math.min(TILE, n - first) * BYTES;
      const args = tile.operands.map((values, i) => {
        const operand = operands[i] ?? 0;
        if (values === undefined) return operand;
        const each = tile.kinds[i] === "each";
        this.#memory.read(
          bytesOf(values),
          each ? operand + first * BYTES : operand,
          each ? bytes : BYTES,
        );
        return values;
      });
      this.#memory.write(y + first * BYTES, bytesOf(tile.run(...args)), bytes);
    }
  }

  #build(name: ElementwiseName): Tile {
    const { source, operands: kinds }: ElementwiseKernel = ELEMENTWISE[name];
    const kernel: IKernelRunShortcut = this.#gpu.createKernel(source, { output: [TILE] });
    const lengths = { each: TILE, one: 1, number: 0 };
    const tile: Tile = {
      run: kernel as Tile["run"],
      operands: kinds.map((kind) =>
        kind === "number" ? undefined : new Float32Array(lengths[kind]),
      ),
      kinds,
    };
    this.#tiles.set(name, tile);
    return tile;
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
