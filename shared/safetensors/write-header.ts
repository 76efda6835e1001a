/** Pure: lays tensors out in a file and writes its header, the same bytes for the same tensors. */
import { InternalError } from "../errors.ts";
import { type SafetensorsDtype, safetensorsDtypeBytes } from "./dtype.ts";
import type { TensorInfo } from "./header.ts";

export interface TensorSpec {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

export interface FileLayout {
  /** Length and header: the file up to its first tensor. A multiple of 8 bytes. */
  readonly head: Uint8Array;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly fileBytes: number;
}

/**
 * Tensors with larger elements first, so that every one is aligned, then by name; no timestamps.
 * Spaced as Python's json module writes it, which is how such files are commonly made.
 */
export function layOut(
  specs: readonly TensorSpec[],
  metadata: Readonly<Record<string, string>> = {},
): FileLayout {
  const sorted = [...specs].sort(
    (a, b) =>
      safetensorsDtypeBytes(b.dtype) - safetensorsDtypeBytes(a.dtype) ||
      compareUtf8(a.name, b.name),
  );
  const entries: string[] = [];
  const metaKeys = Object.keys(metadata).sort(compareUtf8);
  if (metaKeys.length > 0) {
    const pairs = metaKeys.map((key) => `${JSON.stringify(key)}: ${JSON.stringify(metadata[key])}`);
    entries.push(`"__metadata__": {${pairs.join(", ")}}`);
  }
  const begins: number[] = [];
  let end = 0;
  for (const { name, dtype, shape } of sorted) {
    const begin = end;
    begins.push(begin);
    end += shape.reduce((bytes, dim) => bytes * dim, safetensorsDtypeBytes(dtype));
    entries.push(
      `${JSON.stringify(name)}: {"dtype": "${dtype}", "shape": [${shape.join(", ")}], "data_offsets": [${begin}, ${end}]}`,
    );
  }
  const json = Buffer.from(`{${entries.join(", ")}}`);
  const headBytes = 8 + Math.ceil(json.byteLength / 8) * 8;
  const head = Buffer.alloc(headBytes, " ");
  head.writeBigUInt64LE(BigInt(headBytes - 8), 0);
  json.copy(head, 8);
  const tensors = new Map<string, TensorInfo>();
  sorted.forEach((spec, i) => {
    if (spec.name === "__metadata__" || tensors.has(spec.name)) {
      throw new InternalError(`safetensors: tensor name ${spec.name} is reserved or given twice`);
    }
    const beginByte = headBytes + (begins[i] ?? 0);
    const endByte = headBytes + (begins[i + 1] ?? end);
    tensors.set(spec.name, { ...spec, beginByte, endByte });
  });
  return { head, tensors, fileBytes: headBytes + end };
}

function compareUtf8(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
