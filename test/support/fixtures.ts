import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Path of a file or folder in test/fixtures, which stays in the source tree: dist/ holds no copy. */
export function fixturePath(relative: string): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const fixtures = join(folder, "test/fixtures");
    if (existsSync(fixtures)) return join(fixtures, relative);
    if (dirname(folder) === folder) throw new Error("test/fixtures not found above this file");
  }
}
