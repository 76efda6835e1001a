import { wholeIntervals } from "../../shared/safetensors/box.ts";
import { SafetensorsFile } from "../../shared/safetensors/reader.ts";

/** All float32 tensors of a file. */
export async function readTensors(path: string): Promise<Map<string, Float32Array>> {
  const file = await SafetensorsFile.open(path);
  try {
    const tensors = new Map<string, Float32Array>();
    for (const [name, info] of file.header.tensors) {
      const bytes = await file.readWhole(info, wholeIntervals(info.shape));
      tensors.set(name, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
    }
    return tensors;
  } finally {
    await file.close();
  }
}

/** ||got - want|| / ||want||, summed in float64. */
export function relativeDistance(got: Float32Array, want: Float32Array): number {
  if (got.length !== want.length)
    throw new Error(`${got.length} elements, expected ${want.length}`);
  let difference = 0;
  let norm = 0;
  want.forEach((value, i) => {
    difference += ((got[i] ?? Number.NaN) - value) ** 2;
    norm += value ** 2;
  });
  return Math.sqrt(difference / norm);
}
