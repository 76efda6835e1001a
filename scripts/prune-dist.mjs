#!/usr/bin/env node
// Deletes from dist/ what was compiled from a source that is gone: tsc leaves it there, and mocha would run it.
import { existsSync, readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const FOLDERS = [
  "bench",
  "cli",
  "client",
  "compiler",
  "coordinator",
  "models",
  "shared",
  "test",
  "worker",
];

for (const folder of FOLDERS) {
  const built = join(root, "dist", folder);
  if (!existsSync(built)) continue;
  for (const entry of readdirSync(built, { recursive: true, withFileTypes: true })) {
    const match = /^(.*?)\.(?:js|js\.map|d\.ts|d\.ts\.map)$/.exec(entry.name);
    if (!entry.isFile() || match === null) continue;
    const path = join(entry.parentPath ?? entry.path, entry.name);
    const source = join(
      root,
      folder,
      (entry.parentPath ?? entry.path).slice(built.length),
      `${match[1]}.ts`,
    );
    if (!existsSync(source)) rmSync(path, { force: true });
  }
}
