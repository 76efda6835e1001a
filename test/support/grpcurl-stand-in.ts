/**
 * Stands in for grpcurl where it is not installed, so that the examples of docs/api.md are run all the same: reads grpcurl's command
 * line as far as the examples go, lets `buf curl` (a gRPC client of its own, by the server's reflection) make the call, and says
 * what came in grpcurl's form. Messages pass through as they are; only the form of lists, errors and exit codes is made here.
 */
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { join } from "node:path";
import { parseArgs } from "node:util";

/** grpcurl ends with this plus the status's number. */
const STATUS_OFFSET = 64;
/** Connect's names of statuses, by number, and gRPC's in Go. */
const STATUSES: readonly (readonly [string, string])[] = [
  ["ok", "OK"],
  ["canceled", "Canceled"],
  ["unknown", "Unknown"],
  ["invalid_argument", "InvalidArgument"],
  ["deadline_exceeded", "DeadlineExceeded"],
  ["not_found", "NotFound"],
  ["already_exists", "AlreadyExists"],
  ["permission_denied", "PermissionDenied"],
  ["resource_exhausted", "ResourceExhausted"],
  ["failed_precondition", "FailedPrecondition"],
  ["aborted", "Aborted"],
  ["out_of_range", "OutOfRange"],
  ["unimplemented", "Unimplemented"],
  ["internal", "Internal"],
  ["unavailable", "Unavailable"],
  ["data_loss", "DataLoss"],
  ["unauthenticated", "Unauthenticated"],
];

interface CommandLine {
  readonly data: string | undefined;
  /** Folder and file of a schema that is used in place of reflection. */
  readonly importPath: string | undefined;
  readonly address: string;
  readonly words: readonly string[];
}

function commandLineOf(argv: readonly string[]): CommandLine {
  // Go writes long options with one dash.
  const args = argv.map((word) => (/^-[a-z-]{2,}$/.test(word) ? `-${word}` : word));
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      plaintext: { type: "boolean" },
      d: { type: "string", short: "d" },
      "import-path": { type: "string" },
      proto: { type: "string" },
    },
  });
  const [address, ...words] = positionals;
  if (address === undefined) throw new Error("grpcurl stand-in: no address");
  if (values.plaintext !== true) throw new Error("grpcurl stand-in: only -plaintext");
  return { data: values.d, importPath: values["import-path"], address, words };
}

function bufCurl(args: readonly string[]): { code: number; stdout: string; stderr: string } {
  const packageJson = createRequire(import.meta.url).resolve("@bufbuild/buf/package.json");
  const bin = join(packageJson, "../bin/buf");
  const all = [bin, "curl", "--protocol", "grpc", "--http2-prior-knowledge", ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, all, {
    encoding: "utf8",
    stdio: ["inherit", "pipe", "pipe"],
    maxBuffer: 2 ** 28,
  });
  return { code: status ?? 1, stdout, stderr };
}

function main({ data, importPath, address, words }: CommandLine): number {
  const url = `http://${address}`;
  const [verb = "", service] = words;
  if (verb === "list") {
    const { code, stdout, stderr } = bufCurl([
      service === undefined ? "--list-services" : "--list-methods",
      url,
    ]);
    process.stderr.write(stderr);
    const all = stdout
      .split("\n")
      .filter(Boolean)
      .map((line) => line.replace("/", "."));
    const lines =
      service === undefined ? all : all.filter((line) => line.startsWith(`${service}.`));
    process.stdout.write(
      lines
        .sort()
        .map((line) => `${line}\n`)
        .join(""),
    );
    return code;
  }
  const { code, stdout, stderr } = bufCurl([
    ...(importPath === undefined ? [] : ["--schema", importPath]),
    ...(data === undefined ? [] : ["--data", data === "@" ? "@-" : data]),
    `${url}/${verb.replace(/\.(\w+)$/, "/$1")}`,
  ]);
  process.stdout.write(stdout);
  if (code === 0) return 0;
  return sayError(stderr);
}

/** @returns grpcurl's exit code */
function sayError(text: string): number {
  let error: { code?: string; message?: string };
  try {
    error = JSON.parse(text) as { code?: string; message?: string };
  } catch {
    process.stderr.write(text);
    return 1;
  }
  const number = STATUSES.findIndex(([name]) => name === error.code);
  const name = STATUSES[number]?.[1] ?? error.code;
  process.stderr.write(`ERROR:\n  Code: ${name}\n  Message: ${error.message}\n`);
  return STATUS_OFFSET + number;
}

process.exitCode = main(commandLineOf(process.argv.slice(2)));
