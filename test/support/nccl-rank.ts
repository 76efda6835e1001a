// One rank of a test of NCCL, as a process: `nccl-rank.js MESH RANK`. Says its ids (or that it has none) when it has loaded, is told
// all ranks' ids, and says what came of each collective.

import { groupOf } from "../../shared/mesh/mesh.ts";
import type { DType } from "../../shared/program/program.ts";
import { CudaBackend } from "../../worker/backend/cuda/cuda-backend.ts";
import { elementsOf, given, MESHES, ncclCases, ncclProgram } from "./nccl-cases.ts";

/** What a rank process sends. */
export type RankMessage =
  | { readonly ids: number[] }
  | {
      readonly outputs: number[][];
      readonly ended: number;
      readonly heldBytes: number;
    }
  | { readonly failed: string };

function bytesOf(dtype: DType, values: readonly number[]): Uint8Array<ArrayBuffer> {
  if (dtype === "float64") return new Uint8Array(Float64Array.from(values).buffer);
  if (dtype === "int32") return new Uint8Array(Int32Array.from(values).buffer);
  const floats = new Uint8Array(Float32Array.from(values).buffer);
  return dtype === "float32" ? floats : floats.filter((_, i) => i % 4 >= 2);
}

function valuesOf(dtype: DType, bytes: Uint8Array<ArrayBuffer>): number[] {
  if (dtype === "bfloat16") {
    const floats = new Uint8Array(bytes.length * 2);
    bytes.forEach((byte, i) => {
      floats[4 * (i >> 1) + 2 + (i & 1)] = byte;
    });
    return [...new Float32Array(floats.buffer)];
  }
  const kinds = { float32: Float32Array, float64: Float64Array, int32: Int32Array };
  return [...new kinds[dtype](bytes.buffer)];
}

const send = (message: RankMessage): void => {
  process.send?.(message);
};

const [meshIndex = 0, rank = 0] = process.argv.slice(2).map(Number);
const mesh = MESHES[meshIndex] ?? { axes: [] };
const cases = ncclCases(mesh);
const program = ncclProgram(mesh, cases, rank);
const backend = new CudaBackend({ device: String(rank) });
const loaded = backend.load(program, rank, { timeoutMs: 20_000 });
const { exchange } = loaded;
if (exchange === undefined) throw new Error("no NCCL");
send({ ids: rank === 0 ? [...exchange.makeIds()] : [] });
process.once("message", (ids: number[]) => {
  try {
    exchange.connect(Uint8Array.from(ids), () => undefined);
    const all = program.collectives.map(({ inputSlot, outputSlot, dtype, axes }, index) => {
      const one = cases[index];
      if (one === undefined) throw new Error(`no case ${index}`);
      const [input, output] = elementsOf(one, groupOf(mesh, axes, rank).length);
      return {
        index,
        inputSlot,
        outputSlot,
        dtype,
        input,
        bytes: bytesOf(dtype, given(0, output)),
      };
    });
    // All under way at once, as far as they may be; twice, as steps do, the first time with other values.
    for (const of of [rank + 1, rank]) {
      // The first one's input last, so that it is still under way when that begins.
      for (const { inputSlot, dtype, input } of [...all].reverse()) {
        loaded.write(inputSlot, bytesOf(dtype, given(of, input)));
      }
      for (const { index } of all) loaded.startCollective(index);
      for (const { index } of all) loaded.finishCollective(index);
      loaded.synchronize();
    }
    const outputs = all.map(({ outputSlot, dtype, bytes }) => {
      loaded.read(outputSlot, bytes);
      return valuesOf(dtype, bytes);
    });
    const ended = exchange.ended().length;
    loaded.dispose();
    backend.close();
    send({ outputs, ended, heldBytes: backend.memory.currentBytes });
  } catch (error) {
    send({ failed: error instanceof Error ? `${error.message}\n${error.stack}` : String(error) });
  }
  process.disconnect();
});
