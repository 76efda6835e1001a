#!/usr/bin/env node
// Compiles worker/backend/cuda/native/*.cu to PTX in worker/backend/cuda/ptx, which is committed: hosts need only NVIDIA's driver.
//
//   node scripts/build-ptx.mjs          builds what is not current; needs nvcc
//   node scripts/build-ptx.mjs --check  fails for PTX that is not current; with nvcc also compiles again and compares
//
// Each file says by `// targets: 75 80 90a` which architectures it has code for (default: 75, which the drivers of newer
// GPUs compile for those). The first line of the PTX holds the hash of its sources.
import { execFile, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const sources = join(root, "worker/backend/cuda/native");
const out = join(root, "worker/backend/cuda/ptx");
const check = process.argv.includes("--check");

/**
 * PTX version of each target: the oldest that knows what it uses, so that drivers older than the compiler take the code too
 * (6.4 is CUDA 10.1, 7.0 is CUDA 11.0, 8.0 is CUDA 12.0).
 */
const VERSIONS = { 75: "6.4", 80: "7.0", "90a": "8.0" };
const FLAGS = ["-ptx", "-O3", "-std=c++17", "-Xcudafe", "--diag_suppress=177"];

const headers = readdirSync(sources)
  .filter((name) => name.endsWith(".cuh"))
  .sort();
const modules = readdirSync(sources)
  .filter((name) => name.endsWith(".cu"))
  .sort();

const read = (name) => readFileSync(join(sources, name), "utf8");

/** Files that a source includes, itself first. */
function closure(name, seen = new Set()) {
  if (seen.has(name)) return seen;
  seen.add(name);
  for (const [, included] of read(name).matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
    if (headers.includes(included)) closure(included, seen);
  }
  return seen;
}

const jobs = modules.flatMap((name) => {
  const targets = /^\/\/ targets: (.+)$/m.exec(read(name))?.[1]?.trim().split(/\s+/) ?? ["75"];
  return targets.map((target) => {
    const hash = createHash("sha256").update(JSON.stringify([FLAGS, VERSIONS[target]]));
    for (const file of [...closure(name)].sort()) hash.update(`${file}\0${read(file)}\0`);
    const path = join(out, `${name.replace(/\.cu$/, "")}.compute_${target}.ptx`);
    return { name, target, path, stamp: `// sources ${hash.digest("hex")}` };
  });
});

const current = ({ path, stamp }) =>
  existsSync(path) && readFileSync(path, "utf8").startsWith(`${stamp}\n`);

const nvcc = spawnSync("nvcc", ["--version"], { encoding: "utf8" }).status === 0;
const scratch = mkdtempSync(join(tmpdir(), "rankmesh-ptx-"));

async function compile({ name, target, stamp }) {
  if (VERSIONS[target] === undefined) throw new Error(`${name}: no target ${target}`);
  const file = join(scratch, `${name}.${target}.ptx`);
  const source = join(sources, name);
  const { stderr } = await promisify(execFile)("nvcc", [
    ...FLAGS,
    `-arch=compute_${target}`,
    source,
    "-o",
    file,
  ]);
  if (stderr.trim() !== "") process.stderr.write(stderr);
  const text = readFileSync(file, "utf8")
    .replace(/^\.version .*$/m, `.version ${VERSIONS[target]}`)
    // Hints of newer versions, which older ones take for errors.
    .replace(/^\s*\.pragma "used_bytes_mask.*\n/gm, "")
    // What says by which build of the compiler, and when.
    .replace(/^\/\/.*\n/gm, "")
    .replace(/^\s*\n/gm, "");
  writeFileSync(file, text);
  // The lowered version must still know every instruction.
  const arch = target === "75" ? "sm_75" : `sm_${target}`;
  await promisify(execFile)("ptxas", [`-arch=${arch}`, file, "-o", join(scratch, "x.cubin")]);
  return `${stamp}\n${text}`;
}

async function main() {
  const stale = jobs.filter((job) => !current(job));
  const wanted = new Set(jobs.map(({ path }) => path));
  mkdirSync(out, { recursive: true });
  const strays = readdirSync(out)
    .map((name) => join(out, name))
    .filter((path) => !wanted.has(path));
  if (check) {
    const faults = [...stale.map(({ path }) => path), ...strays];
    if (nvcc && faults.length === 0) {
      await pool(jobs, async (job) => {
        if ((await compile(job)) !== readFileSync(job.path, "utf8")) faults.push(job.path);
      });
    }
    for (const path of faults) console.error(`not current: ${path}`);
    if (faults.length > 0) {
      console.error("run node scripts/build-ptx.mjs where nvcc is, and commit what it writes");
      process.exitCode = 1;
    }
    return;
  }
  for (const path of strays) rmSync(path);
  if (stale.length === 0) return;
  if (!nvcc) {
    console.error(`build-ptx: nvcc is not installed, and ${stale.length} files are not current`);
    process.exitCode = 1;
    return;
  }
  await pool(stale, async (job) => {
    try {
      writeFileSync(job.path, await compile(job));
    } catch (error) {
      console.error(`build-ptx: ${job.name} for ${job.target}: ${error.stderr ?? error.stack}`);
      process.exitCode = 1;
    }
  });
}

async function pool(list, work) {
  const queue = [...list];
  await Promise.all(
    [1, 2].map(async () => {
      for (let job = queue.shift(); job !== undefined; job = queue.shift()) await work(job);
    }),
  );
}

try {
  await main();
} catch (error) {
  console.error(`build-ptx: ${error.stderr ?? error.stack ?? error}`);
  process.exitCode = 1;
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
