import { existsSync } from "node:fs";
import { cp, mkdir, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import { ROOT } from "./documents.ts";

/** What commands of the documents read. */
const COPIED = [
  "README.md",
  "package.json",
  "docker-compose.yml",
  "examples",
  "docs",
  "deploy",
  "protos",
  "scripts",
];
/** What a build made and nothing writes to. */
const LINKED = ["dist", "node_modules"];

/** A checkout that was just built, at `folder`: what commands write there is gone with it. `npx rankmesh` runs this build. */
export async function copyCheckout(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const name of COPIED.filter((name) => existsSync(join(ROOT, name))))
    await cp(join(ROOT, name), join(folder, name), { recursive: true });
  for (const name of LINKED) await symlink(join(ROOT, name), join(folder, name));
}

export async function removeCheckout(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
}
