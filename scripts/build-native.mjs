#!/usr/bin/env node
// Compiles worker/backend/cpu/native/*.c into dist/native: librankmesh_cpu.so runs on any processor of this
// architecture; on x86-64, .v3.so (AVX2) and .v4.so (AVX-512) are the same sources for newer ones, and the backend
// loads the best that its host runs. So a build, or an image of it, moves from host to host.
// Does nothing when sources, flags and compiler are those of the last build.
import { execFile, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const sourceFolder = join(root, "worker/backend/cpu/native");
const outFolder = join(root, "dist/native");
const stamp = join(outFolder, "librankmesh_cpu.hash");

// No -ffast-math: NaN and infinities must stay what they are, and sums keep their order.
const FLAGS = [
  "-std=gnu11",
  "-O3",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-fPIC",
  "-shared",
  "-fvisibility=hidden",
  "-pthread",
  "-Wall",
  "-Wextra",
  "-Wno-psabi",
  "-Wno-unknown-pragmas",
  // Its threads outlive the JavaScript thread that loaded it.
  ...(process.platform === "linux" ? ["-Wl,-z,nodelete"] : []),
];

/** Suffix of the file and the flags of its build. */
const VARIANTS =
  process.arch === "x64"
    ? [
        ["", ["-march=x86-64"]],
        [".v3", ["-march=x86-64-v3"]],
        [".v4", ["-march=x86-64-v4", "-mprefer-vector-width=512"]],
      ]
    : [["", []]];

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

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

const libraryOf = (suffix) => join(outFolder, `librankmesh_cpu${suffix}.so`);
const names = sources();
const objects = names.filter((name) => name.endsWith(".c")).map((name) => join(sourceFolder, name));
if (objects.length === 0) {
  for (const [suffix] of VARIANTS) rmSync(libraryOf(suffix), { force: true });
  rmSync(stamp, { force: true });
  process.exit(0);
}

const compiler = findCompiler();
const hash = createHash("sha256");
for (const part of [compiler.name, compiler.version, JSON.stringify(VARIANTS), ...FLAGS])
  hash.update(`${part}\0`);
for (const name of names)
  hash
    .update(`${name}\0`)
    .update(readFileSync(join(sourceFolder, name)))
    .update("\0");
const digest = hash.digest("hex");
if (read(stamp) === digest && existsSync(libraryOf(""))) process.exit(0);

async function compile([suffix, flags]) {
  const library = libraryOf(suffix);
  const scratch = `${library}.${process.pid}.tmp`;
  try {
    const { stderr } = await promisify(execFile)(compiler.name, [
      ...FLAGS,
      ...flags,
      "-o",
      scratch,
      ...objects,
      "-lm",
    ]);
    if (stderr) process.stderr.write(stderr);
    // Renamed into place: a process that has the old library mapped keeps it.
    renameSync(scratch, library);
  } catch (error) {
    // Compilers older than GCC 11 and clang 12 do not know the levels: the baseline build then serves all.
    rmSync(library, { force: true });
    if (suffix === "" || !/march/.test(String(error.stderr))) throw error;
    console.error(
      `build-native: ${compiler.name} does not know ${flags[0]}; kernels will be slower`,
    );
  } finally {
    rmSync(scratch, { force: true });
  }
}

mkdirSync(outFolder, { recursive: true });
try {
  await Promise.all(VARIANTS.map(compile));
} catch (error) {
  console.error(`build-native: ${compiler.name} failed:\n${error.stderr ?? error}`);
  process.exit(1);
}
writeFileSync(stamp, digest);
