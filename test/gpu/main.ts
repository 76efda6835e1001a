/**
 * Tests of the cuda backend on a real GPU, from what `npm run build` left in dist/:
 *
 *   npm run test:gpu [-- --sanitizer] [-- mocha's own flags, such as -g PATTERN]
 *
 * They need NVIDIA's driver and cuBLAS, and neither compiler nor network. With --look-alike they run on the driver of
 * test/look-alike in place of a GPU.
 */
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { RankmeshError } from "../../shared/errors.ts";
import { makeBackend } from "./cuda.ts";

const OWN_FLAGS = ["--sanitizer", "--look-alike"];
/** What compute-sanitizer looks for: bytes out of bounds, races in shared memory, barriers not all reach. */
const TOOLS = ["memcheck", "racecheck", "synccheck"];
/** How it ends when it found something; tests end with the number of those that failed. */
const FOUND_ERRORS = 86;
/** Kernels are compiled for the device when first used, and processes of ranks each make a context of their own. */
const TEST_TIMEOUT_MS = 300_000;

const COMPILED = dirname(fileURLToPath(import.meta.url));
const REPOSITORY = join(COMPILED, "../../..");
const MOCHA = createRequire(import.meta.url).resolve("mocha/bin/mocha.js");

async function main(args: readonly string[]): Promise<number> {
  if (args.includes("--look-alike")) {
    const { lookAlike } = await import("../support/look-alike.ts");
    lookAlike();
  }
  try {
    say(`on ${makeBackend().device}`);
  } catch (error) {
    if (!(error instanceof RankmeshError)) throw error;
    say(`no GPU to test on: ${error.message}`);
    return 1;
  }
  const flags = args.filter((arg) => !OWN_FLAGS.includes(arg));
  if (!args.includes("--sanitizer")) {
    return await run(process.execPath, mochaOn("*.test.js", flags));
  }
  let worst = 0;
  for (const tool of TOOLS) {
    const code = await underSanitizer(tool, mochaOn("sanitizer/*.test.js", flags));
    worst = Math.max(worst, code);
  }
  return worst;
}

function mochaOn(files: string, flags: readonly string[]): string[] {
  return [MOCHA, join(COMPILED, files), "--timeout", String(TEST_TIMEOUT_MS), ...flags];
}

async function underSanitizer(tool: string, mocha: readonly string[]): Promise<number> {
  say(`compute-sanitizer --tool ${tool}`);
  const own = ["--tool", tool, "--target-processes", "all", "--error-exitcode", `${FOUND_ERRORS}`];
  try {
    const code = await run("compute-sanitizer", [...own, process.execPath, ...mocha]);
    if (code === FOUND_ERRORS) say(`${tool} found errors`);
    return code;
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
    say("compute-sanitizer is not on PATH; it comes with the CUDA toolkit");
    return 1;
  }
}

/** @returns its exit code, or 128 and the signal that ended it. @throws Error when it cannot be started */
function run(command: string, args: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: REPOSITORY, stdio: "inherit" });
    child.once("error", reject);
    child.once("close", (code, signal) => {
      resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal]));
    });
  });
}

function say(line: string): void {
  process.stderr.write(`test:gpu: ${line}\n`);
}

process.exitCode = await main(process.argv.slice(2));
