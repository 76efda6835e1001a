import { join } from "node:path";
import { fixturePath } from "./fixtures.ts";

/** Path of a file or folder of the repository. */
export function rootPath(relative: string): string {
  return join(fixturePath(""), "../..", relative);
}
