// `npm run test:gpu` and `npm run bench:gpu`, on the look-alike driver.
import { spawn } from "node:child_process";
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { lookAlike } from "../support/look-alike.ts";

const TESTS = fileURLToPath(new URL("../gpu/main.js", import.meta.url));
const BENCH = fileURLToPath(new URL("../../bench/gpu/main.js", import.meta.url));
const RESULTS = fileURLToPath(new URL("../../../bench/results", import.meta.url));
const NO_LIBRARY = "/nowhere/libcuda.so";
const NO_GPU = { RANKMESH_CUDA_LIBRARY: NO_LIBRARY };
const LOOK_ALIKE = lookAlike().env;
/** Processes of several ranks, on a machine that has other things to do. */
const LONG_MS = 180_000;
/** A test that takes no time, of a file that npm run test:gpu runs. */
const QUICK = ["-g", "takes exactly its arena"];

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(script: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, ...args], { env: { ...process.env, ...env } });
    const said = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8").on("data", (text: string) => {
        said[name] += text;
      });
    }
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, ...said }));
  });
}

async function withFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "rankmesh-gpu-"));
  try {
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

describe("npm run test:gpu", () => {
  it("says in one line that there is no GPU, and fails", async () => {
    const { code, stdout, stderr } = await run(TESTS, [], NO_GPU);
    expect(code).to.equal(1);
    expect(stdout).to.equal("");
    expect(stderr).to.match(/^test:gpu: no GPU to test on: [^\n]*\/nowhere\/libcuda\.so[^\n]*\n$/);
  });

  it("names the GPU, and runs the tests of its folder", async () => {
    const { code, stdout, stderr } = await run(TESTS, QUICK, LOOK_ALIKE);
    expect(code, stdout + stderr).to.equal(0);
    expect(stderr).to.match(/^test:gpu: on CUDA look-alike on the CPU/);
    expect(stdout).to.match(/\n1 passed, 0 failed, 0 skipped\n$/);
  }).timeout(LONG_MS);

  it("fails where compute-sanitizer is asked for and not there", async () => {
    const env = { ...LOOK_ALIKE, PATH: "/nowhere" };
    const { code, stderr } = await run(TESTS, ["--sanitizer"], env);
    expect(code).to.equal(1);
    expect(stderr).to.match(/\ntest:gpu: compute-sanitizer is not on PATH/);
  });

  it("runs cases of every op under compute-sanitizer's tools, and tells which found errors", () =>
    withFolder(async (folder) => {
      // In its place: notes what it is asked, runs nothing, and finds errors with its second tool.
      const tool = join(folder, "compute-sanitizer");
      await writeFile(
        tool,
        `#!/bin/sh\necho "$@" >> ${join(folder, "asked")}\n[ "$2" != racecheck ] || exit 86\n`,
      );
      await chmod(tool, 0o755);
      const env = { ...LOOK_ALIKE, PATH: [folder, process.env["PATH"]].join(delimiter) };
      const { code, stderr } = await run(TESTS, ["--sanitizer", "-g", "add"], env);
      expect(code).to.equal(86);
      expect(stderr.match(/.* found errors$/gm)).to.deep.equal([
        "test:gpu: racecheck found errors",
      ]);
      const asked = (await readFile(join(folder, "asked"), "utf8")).trim().split("\n");
      expect(asked.map((line) => line.split(" ")[1])).to.deep.equal([
        "memcheck",
        "racecheck",
        "synccheck",
      ]);
      for (const line of asked) {
        expect(line).to.match(/ --error-exitcode 86 \S*node \S*mocha\S* /);
        expect(line).to.match(/\/test\/gpu\/sanitizer\/\*\.test\.js .* -g add$/);
      }
    }));
});

interface Results {
  readonly machine: { readonly gpu: { readonly name: string } };
  readonly results: Readonly<Record<string, { readonly data: unknown }>>;
}

/** Those that decide a step's time: each is to stand in the table of kernels. */
const HOT_OPS = [
  "adamw",
  "adamwFromFactors",
  "adamwFromRows",
  "attentionGrad",
  "attentionWithStats",
  "ceGrad",
  "ceStats",
  "embedding",
  "linear",
  "linearDw",
  "linearDx",
  "rmsNorm",
  "rmsNormGrad",
  "rope",
  "swiglu",
  "swigluGrad",
];

describe("npm run bench:gpu", () => {
  it("says in one line that there is no GPU, and fails", async () => {
    const { code, stdout, stderr } = await run(BENCH, [], NO_GPU);
    expect(code).to.equal(1);
    expect(stdout).to.equal("");
    expect(stderr).to.match(/^bench: no GPU to measure: [^\n]*\/nowhere\/libcuda\.so[^\n]*\n$/);
  });

  for (const flags of [["--save"], ["--save", "--dry"]]) {
    it(`keeps no results of the look-alike, asked with ${flags.join(" ")}`, async () => {
      const before = await readdir(RESULTS);
      const { code, stderr } = await run(BENCH, flags, LOOK_ALIKE);
      expect(code).to.equal(1);
      expect(stderr).to.match(/^bench: --save: results of [^\n]* are not kept; use --json\n$/);
      expect(await readdir(RESULTS)).to.deep.equal(before);
    });
  }

  it("runs all of its benchmarks at tiny sizes", () =>
    withFolder(async (folder) => {
      const json = join(folder, "results.json");
      const ended = await run(BENCH, ["--dry", "--no-peer", "--json", json], LOOK_ALIKE);
      expect(ended.code, ended.stderr).to.equal(0);
      expect(ended.stdout).to.match(/\nbudgets: \d+ of \d+ met\n$/);
      const { machine, results } = JSON.parse(await readFile(json, "utf8")) as Results;
      expect(machine.gpu.name).to.match(/look-alike/);
      expect(Object.keys(results)).to.deep.equal([
        "ceilings",
        "step",
        "llama",
        "kernels",
        "overhead",
      ]);
      // What is not finite would be null.
      expect(JSON.stringify(results["step"]?.data)).to.match(/"medianSeconds":0\.\d+/);
      const timed = [...JSON.stringify(results["kernels"]?.data).matchAll(/"op":"(\w+)"/g)];
      expect([...new Set(timed.map(([, op]) => op))]).to.include.members(HOT_OPS);
    })).timeout(LONG_MS);
});
