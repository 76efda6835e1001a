/** Tiny Hugging Face checkpoints, made and changed for tests. */
import { cp, readFile, writeFile } from "node:fs/promises";
import type { LlamaModel } from "../../shared/job/job-spec.ts";
import type { Mesh } from "../../shared/mesh/mesh.ts";
import type { Layout } from "../../shared/mesh/placement.ts";
import type { Program, StoredTensor } from "../../shared/program/program.ts";
import { toFloat32 } from "../../shared/safetensors/to-float32.ts";
import { fixturePath } from "./fixtures.ts";

export type CheckpointFixture = "llama" | "llama-tied-shards";

export interface CheckpointExpectation {
  readonly steps: number;
  readonly batch: number;
  readonly seq: number;
  readonly lr: number;
  readonly loss: readonly number[];
  /** Of the first batch, with the weights after the last step. */
  readonly loss_after: number;
}

/** Copies a checkpoint to where it can be changed. */
export async function copyCheckpoint(name: CheckpointFixture, to: string): Promise<void> {
  await cp(fixturePath(`hugging-face/${name}`), to, { recursive: true });
}

export async function readJsonFile<T>(path: string): Promise<T> {
  return JSON.parse(await readFile(path, "utf8")) as T;
}

/** Changes keys of a JSON file; undefined takes a key away. */
export async function changeJson(
  path: string,
  change: Readonly<Record<string, unknown>>,
): Promise<void> {
  const value = await readJsonFile<Record<string, unknown>>(path);
  await writeFile(path, JSON.stringify({ ...value, ...change }));
}

/** A tensor of a safetensors file, taken apart by hand: nothing of the reader under test is used. */
export interface RawTensor {
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}

export async function readRaw(path: string): Promise<Map<string, RawTensor>> {
  const file = await readFile(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, start).toString()) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  return new Map(
    Object.entries(header)
      .filter(([name]) => name !== "__metadata__")
      .map(
        ([
          name,
          {
            dtype,
            shape,
            data_offsets: [begin, end],
          },
        ]) => [
          name,
          { dtype, shape, bytes: new Uint8Array(file.subarray(start + begin, start + end)) },
        ],
      ),
  );
}

export async function writeRaw(
  path: string,
  tensors: ReadonlyMap<string, RawTensor>,
): Promise<void> {
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.byteLength] };
    offset += bytes.byteLength;
  }
  const json = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(json.byteLength));
  await writeFile(
    path,
    Buffer.concat([prefix, json, ...[...tensors.values()].map((t) => t.bytes)]),
  );
}

/** The numbers of a float tensor. */
export function numbersOf({ dtype, bytes }: RawTensor): Float32Array {
  const copy = new Uint8Array(bytes);
  return new Float32Array(toFloat32(copy, dtype as "F32" | "F16" | "BF16").buffer);
}

/** As much of a program as reading and writing weights needs: all parameters of a model in one layout. */
export function weightsProgram(
  parameters: readonly { readonly name: string; readonly shape: readonly number[] }[],
  mesh: Mesh,
  layout: (shape: readonly number[]) => Layout,
): Program {
  const stored = parameters.map(({ name, shape }, slot): StoredTensor => {
    const init = { kind: "constant", value: 0 } as const;
    return { name, role: "parameter", globalShape: shape, layout: layout(shape), slot, init };
  });
  return {
    formatVersion: 1,
    name: "weights",
    mesh,
    stored,
    inputs: [],
  } as Partial<Program> as Program;
}

export const FIXTURE_MODEL: LlamaModel = {
  dim: 32,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  hidden: 48,
  vocab: 40,
  ropeTheta: 10000,
  normEps: 1e-5,
  dropout: 0,
  tied: false,
};
