#!/usr/bin/env node
// Builds dist/test-native/librankmesh_lookalike.so: test/look-alike, a CUDA driver and cuBLAS for machines without a GPU, and
// in it worker/backend/cuda/native/*.cu compiled for the CPU; and beside it librankmesh_lookalike_nccl.so, a NCCL over it. Prints the first one's path. Does nothing when sources, flags and
// compiler are those of the last build; else compiles only what changed. Builds may run beside each other. A .cu file that does
// not compile is left out: whoever works on it does not hold up the others.
//
// A .cu file is preprocessed once for each target of its `// targets:` line, with __CUDA_ARCH__ as nvcc sets it, and compiled
// once for each text that comes out. Kernels are found in that text, where macros are resolved.
import { execFile, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const driverFolder = join(root, "test/look-alike");
const DRIVER_FOLDERS = ["driver", "threads", "blas"];
const kernelFolder = join(root, "worker/backend/cuda/native");
// Of the look-alike's own tests.
const probeFolder = join(driverFolder, "kernels");
const outFolder = join(root, "dist/test-native");
const objectFolder = join(outFolder, "objects");
const library = join(outFolder, "librankmesh_lookalike.so");
// A library of its own, as there are hosts without one.
const ncclFolder = join(driverFolder, "nccl");
const ncclLibrary = join(outFolder, "librankmesh_lookalike_nccl.so");
const stamp = join(outFolder, "librankmesh_lookalike.hash");
const OLD_OBJECT_MS = 24 * 3600 * 1000;

// As nvcc: products are fused into sums, nothing else is relaxed. Casts between pointer types are the rule in kernels.
const FLAGS = [
  "-O2",
  "-fPIC",
  "-fvisibility=hidden",
  "-fno-strict-aliasing",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-ffp-contract=fast",
  "-pthread",
  "-Wall",
  "-Wextra",
  "-Wno-psabi",
  "-Wno-unknown-pragmas",
  "-DRM_LOOK_ALIKE",
  `-I${join(driverFolder, "inc")}`,
  // CUDA runs on Linux; there are vectors of 8 floats in every x86-64 of the last ten years.
  ...(process.arch === "x64" && hasAvx2() ? ["-mavx2", "-mfma", "-mbmi2"] : []),
];
const DRIVER_FLAGS = ["-std=gnu++20"];
// nvcc compiles C++17, and warns of what is worth it.
const KERNEL_FLAGS = ["-std=gnu++17", "-fno-exceptions", "-w"];

function hasAvx2() {
  return /\bavx2\b/.test(read("/proc/cpuinfo") ?? "");
}

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

function fail(message) {
  console.error(`build-look-alike: ${message}`);
  process.exit(1);
}

function digest(...parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${part}\0`);
  return hash.digest("hex");
}

/** The first of $CXX, c++, g++, clang++ that runs, and what it says of itself. */
function findCompiler() {
  for (const name of [process.env.CXX, "c++", "g++", "clang++"]) {
    if (!name) continue;
    const { status, stdout } = spawnSync(name, ["--version"], { encoding: "utf8" });
    if (status === 0) return { name, version: stdout };
  }
  return fail("no C++ compiler (c++, g++ or clang++); on Debian and Ubuntu: apt-get install g++");
}

/** All files below a folder, with what matches. */
function filesOf(folder, pattern) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && pattern.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

const compiler = findCompiler();
const driverFiles = filesOf(driverFolder, /\.(?:cpp|h)$/);
const kernelFiles = [kernelFolder, probeFolder].flatMap((folder) =>
  filesOf(folder, /\.(?:cu|cuh)$/),
);
const contents = new Map(
  [...driverFiles, ...kernelFiles].map((path) => [path, readFileSync(path, "utf8")]),
);
const whole = digest(
  compiler.name,
  compiler.version,
  readFileSync(fileURLToPath(import.meta.url), "utf8"),
  ...FLAGS,
  ...[...contents].flat(),
);
if (read(stamp) === whole && existsSync(library) && existsSync(ncclLibrary)) {
  console.log(library);
  process.exit(0);
}

// TLS descriptors halve the cost of a thread-local variable, which shared memory is.
const tls = spawnSync(compiler.name, ["-mtls-dialect=gnu2", "-x", "c++", "-fsyntax-only", "-"], {
  input: "",
});
if (tls.status === 0) FLAGS.push("-mtls-dialect=gnu2");

/** Runs the compiler with text on its standard input. @returns standard output */
function runCompiler(args, input) {
  return new Promise((resolve, reject) => {
    const child = spawn(compiler.name, args, { stdio: ["pipe", "pipe", "pipe"] });
    const out = [];
    const err = [];
    child.stdout.on("data", (chunk) => out.push(chunk));
    child.stderr.on("data", (chunk) => err.push(chunk));
    child.stdin.on("error", () => undefined);
    child.stdin.end(input);
    child.on("error", reject);
    child.on("close", (code) => {
      const said = Buffer.concat(err).toString();
      if (code !== 0) return reject(new Error(said));
      if (said) process.stderr.write(said);
      resolve(Buffer.concat(out).toString());
    });
  });
}

/** Calls `work` on all items, a few at a time. */
async function forAll(items, work) {
  const results = new Array(items.length);
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const index = next++;
      results[index] = await work(items[index]);
    }
  };
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), 8) }, worker));
  return results;
}

/** Compiles unless an object of the same hash is there. @returns its path */
async function compile(key, args, input) {
  const object = join(objectFolder, `${key.slice(0, 32)}.o`);
  if (existsSync(object)) return object;
  const scratch = `${object}.${process.pid}.tmp`;
  try {
    await runCompiler([...args, "-c", "-o", scratch, ...(input === undefined ? [] : ["-"])], input);
    renameSync(scratch, object);
  } finally {
    rmSync(scratch, { force: true });
  }
  return object;
}

/** `// targets: 75 80 90a` -> [75, 80, 90] */
function targetsOf(source) {
  const line = /^\/\/ targets:(.*)$/m.exec(source)?.[1] ?? "75";
  return line
    .trim()
    .split(/[\s,]+/)
    .map((name) => Number.parseInt(name, 10));
}

const DYNAMIC_SHARED = /extern\s+thread_local\s[^;{}]*?\bdyn_smem\s*\[\s*\]\s*;/g;
const KERNEL = /extern\s+"C"\s+__global__\s+void\s+(\w+)\s*\(/g;

/**
 * The text of a .cu file for the CPU compiler: kernels are static functions that register themselves, in a namespace of this
 * text alone, so that another file or target may have functions of the same names.
 */
function rewrite(path, text, targets) {
  const source = relative(root, path);
  const names = [];
  const body = text
    .replace(KERNEL, (_, name) => {
      names.push(name);
      return `static void ${name}(`;
    })
    .replace(DYNAMIC_SHARED, "float *const dyn_smem = look_alike::dynamic_shared();");
  if (/\b__global__\b/.test(body))
    throw new Error(
      `${source}: every kernel is \`RM_KERNEL name(...)\`: extern "C", with a plain name`,
    );
  if (/extern\s+thread_local/.test(body))
    throw new Error(`${source}: dynamic shared memory is \`extern __shared__ float dyn_smem[];\``);
  const registrations = names.map(
    (name) =>
      `static look_alike::Registration registration_${name}(${JSON.stringify(name)}, ${JSON.stringify(source)}, targets, ` +
      `look_alike::Unpack<&${name}>::parameters, look_alike::Unpack<&${name}>::count, look_alike::Unpack<&${name}>::call);`,
  );
  return {
    names,
    targets,
    source,
    text: [
      body,
      `namespace rm_kernels {`,
      `static const int targets[] = {${[...targets, 0].join(", ")}};`,
      ...registrations,
      "}",
      "",
    ].join("\n"),
  };
}

/** Preprocesses one .cu file for all its targets. @returns one text for each that differs */
async function kernelTexts(path) {
  const byText = new Map();
  for (const target of targetsOf(contents.get(path))) {
    const input = `#include <cuda_runtime.h>\nnamespace rm_kernels {\n#include "${path}"\n}\n`;
    const args = [...FLAGS, ...KERNEL_FLAGS, `-D__CUDA_ARCH__=${target}0`, "-x", "c++", "-E", "-"];
    const text = await runCompiler(args, input);
    byText.set(text, [...(byText.get(text) ?? []), target]);
  }
  return [...byText].map(([text, targets]) => rewrite(path, text, targets));
}

/** Sources of kernels that did not compile: the library is without them, and says so when their PTX is loaded. */
const broken = [];

async function compileKernels(path) {
  try {
    return await compileTexts(path);
  } catch (error) {
    broken.push(relative(root, path));
    console.error(`build-look-alike: ${compiler.name} failed:\n${error.message}`);
    return [];
  }
}

async function compileTexts(path) {
  return Promise.all(
    (await kernelTexts(path)).map(async (unit) => {
      const args = [...FLAGS, ...KERNEL_FLAGS];
      const key = digest(compiler.name, compiler.version, ...args, unit.text);
      // Its own namespace, by what is in it.
      const text = unit.text.replaceAll(/\brm_kernels\b/g, `rm_kernels_${key.slice(0, 16)}`);
      const object = await compile(key, [...args, "-fpreprocessed", "-x", "c++"], text);
      return { ...unit, object };
    }),
  );
}

/** All .cpp files of a folder as one: most of the time would go into reading the standard library's headers for each. */
async function compileFolder(folder) {
  const sources = driverFiles.filter((path) => dirname(path) === folder && path.endsWith(".cpp"));
  const headers = driverFiles.filter((path) => path.endsWith(".h"));
  const args = [...FLAGS, ...DRIVER_FLAGS];
  const parts = [...sources, ...headers].flatMap((path) => [path, contents.get(path)]);
  const key = digest(compiler.name, compiler.version, ...args, ...parts);
  return compile(
    key,
    [...args, "-x", "c++"],
    sources.map((path) => `#include "${path}"\n`).join(""),
  );
}

/** Two kernels of a name and target would be told apart by nobody. */
function checkNames(units) {
  const seen = new Map();
  for (const { names, targets, source } of units) {
    for (const name of names) {
      for (const target of targets) {
        const key = `${name} for target ${target}`;
        if (seen.has(key)) throw new Error(`kernel ${key} is in ${seen.get(key)} and in ${source}`);
        seen.set(key, source);
      }
    }
  }
}

/** Objects of sources that were changed since; young ones may be another build's. */
function removeOldObjects(used) {
  for (const name of readdirSync(objectFolder)) {
    const path = join(objectFolder, name);
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (!used.has(path) && age > OLD_OBJECT_MS) rmSync(path, { force: true });
  }
}

mkdirSync(objectFolder, { recursive: true });
const scratch = `${library}.${process.pid}.tmp`;
try {
  // Long ones first.
  const folders = DRIVER_FOLDERS.map((name) => join(driverFolder, name));
  const kernels = kernelFiles
    .filter((path) => path.endsWith(".cu"))
    .sort((a, b) => statSync(b).size - statSync(a).size);
  const built = await forAll([...folders, ...kernels], (path) =>
    path.endsWith(".cu") ? compileKernels(path) : compileFolder(path),
  );
  const units = built.filter(Array.isArray).flat();
  checkNames(units);
  const objects = [
    ...built.filter((one) => typeof one === "string"),
    ...units.map((unit) => unit.object),
  ];
  // Its threads, and its signal handlers, outlive whoever loaded it.
  const link = ["-shared", "-pthread", "-Wl,-z,nodelete", "-o", scratch, ...objects, "-ldl", "-lm"];
  await promisify(execFile)(compiler.name, link);
  renameSync(scratch, library);
  const nccl = await compileFolder(ncclFolder);
  objects.push(nccl);
  await promisify(execFile)(compiler.name, [
    ...["-shared", "-pthread", "-Wl,-z,nodelete", "-Wl,-rpath,$ORIGIN", "-o", scratch, nccl],
    ...[`-L${outFolder}`, "-l:librankmesh_lookalike.so", "-lrt"],
  ]);
  renameSync(scratch, ncclLibrary);
  if (broken.length > 0) {
    rmSync(stamp, { force: true });
    console.error(`build-look-alike: left out ${broken.join(", ")}`);
  } else {
    writeFileSync(`${stamp}.${process.pid}.tmp`, whole);
    renameSync(`${stamp}.${process.pid}.tmp`, stamp);
  }
  removeOldObjects(new Set(objects));
} catch (error) {
  fail(`${compiler.name} failed:\n${error.stderr ?? error.message}`);
} finally {
  rmSync(scratch, { force: true });
}
console.log(library);
