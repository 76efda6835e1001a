import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SafetensorsWriter } from "../../shared/safetensors/writer.ts";

/** Runs `body` with a new folder that is removed afterwards. */
export async function withFolder<T>(body: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "rankmesh-test-"));
  try {
    return await body(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

export interface TestTensor {
  readonly shape: readonly number[];
  readonly values: Float32Array | Int32Array;
}

/** Writes a safetensors file of F32 and I32 tensors. */
export async function writeTensors(
  path: string,
  tensors: Readonly<Record<string, TestTensor>>,
): Promise<void> {
  const specs = Object.entries(tensors).map(([name, { shape, values }]) => ({
    name,
    shape,
    dtype: values instanceof Int32Array ? ("I32" as const) : ("F32" as const),
  }));
  const writer = await SafetensorsWriter.create(path, specs);
  for (const [name, { shape, values }] of Object.entries(tensors)) {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const whole = shape.map((size) => ({ start: 0, end: size }));
    await writer.writeSlice(name, whole, [bytes]);
  }
  await writer.commit();
}

/** A tensor of `shape` whose element i is `offset + i`. */
export function counting(shape: readonly number[], offset = 0): TestTensor {
  const length = shape.reduce((product, size) => product * size, 1);
  return { shape, values: Float32Array.from({ length }, (_, i) => offset + i) };
}

export function floats(bytes: Uint8Array): number[] {
  return [...new Float32Array(bytes.slice().buffer)];
}

export function integers(bytes: Uint8Array): number[] {
  return [...new Int32Array(new Uint8Array(bytes).buffer)];
}
