import { spawnSync } from "node:child_process";

interface Program {
  /** Ends with 0 where it is there. */
  readonly probe: readonly [string, ...string[]];
  readonly install: string;
}

/** What a mark's `needs` may name. */
const PROGRAMS: Readonly<Record<string, Program>> = {
  grpcurl: {
    probe: ["grpcurl", "--version"],
    install: "https://github.com/fullstorydev/grpcurl/releases",
  },
  "python3-grpcio": {
    probe: ["/usr/bin/python3", "-c", "import grpc, google.protobuf"],
    install: "apt-get install python3-grpcio python3-protobuf",
  },
  protoc: { probe: ["protoc", "--version"], install: "apt-get install protobuf-compiler" },
  curl: { probe: ["curl", "--version"], install: "apt-get install curl" },
};

/** The first of `names` that is not installed, and how to install it; undefined when all are. @throws for a name not known */
export function missingProgram(names: readonly string[]): string | undefined {
  for (const name of names) {
    const program = PROGRAMS[name];
    if (program === undefined)
      throw new Error(`needs=${name}: unknown; there are ${Object.keys(PROGRAMS).join(", ")}`);
    const [command, ...args] = program.probe;
    if (spawnSync(command, args).status !== 0) return `${name}: ${program.install}`;
  }
  return undefined;
}
