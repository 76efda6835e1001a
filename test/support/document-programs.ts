import { spawnSync } from "node:child_process";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

interface Program {
  /** Ends with 0 where it is there. */
  readonly probe: readonly [string, ...string[]];
  readonly install: string;
  /** Module beside this one that does the same for the examples, where the program is not installed. */
  readonly standIn?: string;
}

/** What a mark's `needs` may name. */
const PROGRAMS: Readonly<Record<string, Program>> = {
  grpcurl: {
    probe: ["grpcurl", "--version"],
    install: "https://github.com/fullstorydev/grpcurl/releases",
    standIn: "grpcurl-stand-in.js",
  },
  "python3-grpcio": {
    probe: ["/usr/bin/python3", "-c", "import grpc, google.protobuf"],
    install: "apt-get install python3-grpcio python3-protobuf",
  },
  grpc_python_plugin: {
    probe: ["sh", "-c", "command -v grpc_python_plugin"],
    install: "apt-get install protobuf-compiler-grpc",
  },
  prometheus: { probe: ["prometheus", "--version"], install: "apt-get install prometheus" },
  protoc: { probe: ["protoc", "--version"], install: "apt-get install protobuf-compiler" },
  curl: { probe: ["curl", "--version"], install: "apt-get install curl" },
};

function programOf(name: string): Program {
  const program = PROGRAMS[name];
  if (program !== undefined) return program;
  throw new Error(`needs=${name}: unknown; there are ${Object.keys(PROGRAMS).join(", ")}`);
}

function isInstalled({ probe: [command, ...args] }: Program): boolean {
  return spawnSync(command, args).status === 0;
}

/** The first of `names` that nothing can run, and how to install it; undefined when there is none. @throws for an unknown name */
export function missingProgram(names: readonly string[]): string | undefined {
  const missing = names.find((name) => {
    const program = programOf(name);
    return program.standIn === undefined && !isInstalled(program);
  });
  return missing === undefined ? undefined : `needs ${missing}: ${programOf(missing).install}`;
}

/** Those of `names` that are not installed and that something else stands in for. */
export function standInsOf(names: readonly string[]): string[] {
  return names.filter((name) => {
    const program = programOf(name);
    return program.standIn !== undefined && !isInstalled(program);
  });
}

/** Programs in `folder` of the names of all that is not installed and has a stand-in: for the end of the search path. */
export async function writeStandIns(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const [name, { standIn }] of Object.entries(PROGRAMS)) {
    if (standIn === undefined) continue;
    const path = join(folder, name);
    const module = fileURLToPath(new URL(standIn, import.meta.url));
    await writeFile(path, `#!/bin/sh\nexec node '${module}' "$@"\n`);
    await chmod(path, 0o755);
  }
}
