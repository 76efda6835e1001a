import { access, constants, rename, stat, writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { UsageError } from "./exit-codes.ts";

/**
 * Finds out before a long run whether its result can be written to `path`.
 * @throws UsageError when the folder is missing or read-only
 */
export async function checkOutputFile(flag: string, path: string | undefined): Promise<void> {
  if (path === undefined) return;
  const folder = dirname(resolve(path));
  try {
    await access(folder, constants.W_OK);
  } catch (cause) {
    throw new UsageError(
      `${flag} ${path}: cannot write into ${folder}; create the folder or choose another path`,
      {
        cause,
      },
    );
  }
  const isDirectory = await stat(path).then(
    (s) => s.isDirectory(),
    () => false,
  );
  if (isDirectory) throw new UsageError(`${flag} ${path} is a folder; name a file`);
}

/** Writes JSON whole or not at all: a reader never sees half a file. */
export async function writeJsonFile(path: string, value: unknown): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  await writeFile(temporary, `${JSON.stringify(value, null, 2)}\n`);
  await rename(temporary, path);
}
