#!/usr/bin/env node
// Writes deploy/grafana/dashboards/*.json from deploy/grafana/source.
// With --check it writes nothing and fails when what is committed is not what it would write.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { fleet } from "../deploy/grafana/source/fleet.mjs";
import { training } from "../deploy/grafana/source/training.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const check = process.argv.includes("--check");
let stale = false;

for (const [name, dashboard] of Object.entries({ training, fleet })) {
  const path = `deploy/grafana/dashboards/${name}.json`;
  // As the checks want all JSON of this repository.
  const text = execFileSync(
    join(root, "node_modules/.bin/biome"),
    ["format", `--stdin-file-path=${path}`],
    { cwd: root, input: JSON.stringify(dashboard), encoding: "utf8" },
  );
  if (!check) writeFileSync(join(root, path), text);
  else if (read(join(root, path)) !== text) {
    console.error(
      `${path} is not what deploy/grafana/source gives; run node scripts/gen-dashboards.mjs`,
    );
    stale = true;
  }
}
process.exit(stale ? 1 : 0);

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
