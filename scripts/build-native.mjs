#!/usr/bin/env node
// Compiles worker/backend/cpu/native/*.c for this machine into dist/native/librankmesh_cpu.so.
// Does nothing when sources, flags, compiler and CPU are those of the last build.
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const sourceFolder = join(root, "worker/backend/cpu/native");
const outFolder = join(root, "dist/native");
const library = join(outFolder, "librankmesh_cpu.so");
const stamp = join(outFolder, "librankmesh_cpu.hash");

// No -ffast-math: NaN and infinities must stay what they are, and sums keep their order.
const FLAGS = [
  "-std=gnu11",
  "-O3",
  "-march=native",
  "-fno-math-errno",
  "-fPIC",
  "-shared",
  "-Wall",
  "-Wextra",
];
const OPENMP = "-fopenmp";

function sources() {
  try {
    return readdirSync(sourceFolder)
      .filter((name) => /\.[ch]$/.test(name))
      .sort();
  } catch {
    return [];
  }
}

/** The first of $CC, cc, gcc, clang that runs, and what it says of itself. */
function findCompiler() {
  for (const name of [process.env.CC, "cc", "gcc", "clang"]) {
    if (!name) continue;
    const { status, stdout } = spawnSync(name, ["--version"], { encoding: "utf8" });
    if (status === 0) return { name, version: stdout };
  }
  console.error(
    "build-native: no C compiler (cc, gcc or clang); run `npm run setup` to see what to install",
  );
  process.exit(1);
}

/** What -march=native depends on. */
function cpuIdentity() {
  try {
    const info = readFileSync("/proc/cpuinfo", "utf8");
    return [/^model name.*/m, /^CPU part.*/m, /^(flags|Features).*/m]
      .map((line) => line.exec(info)?.[0])
      .join("\n");
  } catch {
    return cpus()[0]?.model ?? process.arch;
  }
}

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

const names = sources();
const objects = names.filter((name) => name.endsWith(".c")).map((name) => join(sourceFolder, name));
if (objects.length === 0) {
  rmSync(library, { force: true });
  rmSync(stamp, { force: true });
  process.exit(0);
}

const compiler = findCompiler();
const hash = createHash("sha256");
for (const part of [compiler.name, compiler.version, cpuIdentity(), OPENMP, ...FLAGS])
  hash.update(`${part}\0`);
for (const name of names)
  hash
    .update(`${name}\0`)
    .update(readFileSync(join(sourceFolder, name)))
    .update("\0");
const digest = hash.digest("hex");
if (read(stamp) === digest && read(library) !== undefined) process.exit(0);

mkdirSync(outFolder, { recursive: true });
// Renamed into place: a process that has the old library mapped keeps it.
const scratch = `${library}.${process.pid}.tmp`;
const compile = (flags) =>
  execFileSync(compiler.name, [...flags, "-o", scratch, ...objects, "-lm", "-lpthread"], {
    stdio: ["ignore", "inherit", "pipe"],
  });
try {
  try {
    compile([...FLAGS, OPENMP]);
  } catch (error) {
    // Apple's clang comes without OpenMP: the kernels then run on one thread each.
    if (!/fopenmp|omp\.h|lgomp|lomp/.test(String(error.stderr))) throw error;
    compile([...FLAGS, "-Wno-unknown-pragmas"]);
    console.error(
      "build-native: this compiler has no OpenMP; the cpu backend's kernels run on one thread",
    );
  }
} catch (error) {
  rmSync(scratch, { force: true });
  console.error(`build-native: ${compiler.name} failed:\n${error.stderr ?? error}`);
  process.exit(1);
}
renameSync(scratch, library);
writeFileSync(stamp, digest);
