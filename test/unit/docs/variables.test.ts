import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { DAEMON_VARIABLES } from "../../../cli/option-values.ts";
import { describedCommandLine } from "../../support/command-line.ts";
import { documentPaths, ROOT } from "../../support/documents.ts";

const READERS = [
  "bench",
  "cli",
  "coordinator",
  "deploy",
  "scripts",
  "shared",
  "test/gpu",
  "worker",
];
const VARIABLE = /RANKMESH_[A-Z_]*[A-Z]/g;

/** Variables that sources, scripts and compose files name; those of flags are made of the flags' names. */
function known(): Set<string> {
  describedCommandLine();
  const files = READERS.flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
      .filter((name) => /\.(?:ts|mjs|sh|yml|yaml)$/.test(name))
      .map((name) => join(ROOT, folder, name)),
  );
  const named = [...files, join(ROOT, "docker-compose.yml")].flatMap(
    (path) => readFileSync(path, "utf8").match(VARIABLE) ?? [],
  );
  return new Set([...named, ...DAEMON_VARIABLES]);
}

describe("variables of README and docs", () => {
  const all = known();

  for (const document of documentPaths()) {
    it(`are read by something, in ${document}`, () => {
      const named = new Set(readFileSync(join(ROOT, document), "utf8").match(VARIABLE) ?? []);
      expect([...named].filter((name) => !all.has(name))).to.deep.equal([]);
    });
  }
});
