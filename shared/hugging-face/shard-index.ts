/** Pure: model.safetensors.index.json, which says the file of each tensor of a checkpoint in several files. */
import { type Fault, InvalidArgumentError } from "../errors.ts";
import { quote } from "../quote.ts";

/** Files of one checkpoint; the largest published ones have some hundred. */
const MAX_FILES = 4096;
/** Faults listed of one index; a broken writer breaks every entry in the same way. */
const MAX_FAULTS = 20;

/**
 * File name by tensor name, in the order of the index. File names are plain: they lead into no other folder.
 * @param value parsed JSON
 * @param file for errors
 * @throws InvalidArgumentError with every fault
 */
export function parseShardIndex(value: unknown, file: string): ReadonlyMap<string, string> {
  const map = isRecord(value) ? value["weight_map"] : undefined;
  if (!isRecord(map)) {
    throw new InvalidArgumentError(
      `${file}: has no weight_map; it must be an object of tensor names to file names`,
    );
  }
  const faults: Fault[] = [];
  const files = new Map<string, string>();
  for (const [tensor, name] of Object.entries(map)) {
    if (typeof name === "string" && isPlainFileName(name)) files.set(tensor, name);
    else if (faults.length < MAX_FAULTS) {
      const message = `${file}: weight_map has ${quote(name)} for tensor ${quote(tensor)}; it must be the name of a safetensors file beside the index`;
      faults.push({ path: "", message });
    }
  }
  const numFiles = new Set(files.values()).size;
  if (numFiles > MAX_FILES) {
    const message = `${file}: weight_map names ${numFiles} files; at most ${MAX_FILES} are read`;
    faults.push({ path: "", message });
  }
  if (faults.length > 0) throw new InvalidArgumentError(faults);
  return files;
}

function isPlainFileName(name: string): boolean {
  return /^[^/\\\0]+\.safetensors$/.test(name);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
