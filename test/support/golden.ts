import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";

/** Golden files lie in the sources, not in dist/. */
const goldenFolder = join(dirname(fileURLToPath(import.meta.url)), "../../../test/golden");

/** Compares text with test/golden/NAME; UPDATE_GOLDEN=1 rewrites it. Commit only a difference you can explain. */
export function expectGolden(name: string, text: string): void {
  const path = join(goldenFolder, name);
  if (process.env["UPDATE_GOLDEN"] === "1") {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return;
  }
  if (!existsSync(path))
    throw new Error(`no golden file test/golden/${name}; make it with UPDATE_GOLDEN=1 npm test`);
  expect(text, `test/golden/${name}`).to.equal(readFileSync(path, "utf8"));
}
