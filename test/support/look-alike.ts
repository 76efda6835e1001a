// The look-alike CUDA driver (test/look-alike): built, and its knobs for tests in this process.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import koffi from "koffi";
import { prepareKoffi } from "../../worker/backend/koffi-setup.ts";

export interface LookAlike {
  /** Of the library that is driver and cuBLAS in one. */
  readonly path: string;
  /** Environment of processes that are to take it for NVIDIA's. */
  readonly env: Readonly<Record<"RANKMESH_CUDA_LIBRARY" | "RANKMESH_CUBLAS_LIBRARY", string>>;
  /** The same of processes that have its NCCL, too. */
  readonly envWithNccl: Readonly<Record<string, string>>;
  /** What was created in this process and not given back, a line each. */
  leaks(): string[];
  /**
   * The `nth` call of `call` from now (1 is the next) answers `status`; `*` is any call. 999 is a lost device: all later calls
   * answer the same.
   */
  fault(call: string, nth: number, status: number): void;
  /** Forgets faults that have not come yet. A lost device is replaced by a new one, on which nothing is. */
  clear(): void;
  /** Whether what the driver has to say is kept for `heard`, in place of going to standard error. */
  listen(on: boolean): void;
  /** What was kept since the last time: more than a status tells, as which kernel wrote where. */
  heard(): string[];
  /** How often `call` was called so far in this process. */
  calls(call: string): number;
  /** Pieces of work that wait in the streams of this thread's current context. */
  waiting(): number;
}

const SCRIPT = fileURLToPath(new URL("../../../scripts/build-look-alike.mjs", import.meta.url));
const REPORT_BYTES = 1 << 16;
const BUILD_TIMEOUT_MS = 900_000;

let built: LookAlike | undefined;

/**
 * Builds the library where sources changed (that takes a minute; `npm test` does it beforehand) and makes it this process's CUDA:
 * the environment names it from then on.
 * @throws Error with what the compiler said
 */
export function lookAlike(): LookAlike {
  built ??= open(build());
  return built;
}

/** For `before`: builds however long that takes. */
export function buildLookAlike(this: Mocha.Context): void {
  this.timeout(BUILD_TIMEOUT_MS);
  lookAlike();
}

function build(): string {
  const { status, stdout, stderr, error } = spawnSync(process.execPath, [SCRIPT], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`${SCRIPT} failed: ${error?.message ?? stderr}`);
  return stdout.trim();
}

function open(path: string): LookAlike {
  prepareKoffi();
  const libraries = { RANKMESH_CUDA_LIBRARY: path, RANKMESH_CUBLAS_LIBRARY: path };
  // A host's own NCCL would run on devices that are none.
  const env = { ...libraries, RANKMESH_NCCL_LIBRARY: "off" };
  Object.assign(process.env, env);
  const library = koffi.load(path);
  const leaks = library.func("rm_lookalike_leaks", "size_t", ["void *", "size_t"]);
  const heard = library.func("rm_lookalike_heard", "void", ["void *", "size_t"]);
  const linesOf = (write: (text: Buffer, size: number) => void): string[] => {
    const text = Buffer.alloc(REPORT_BYTES);
    write(text, text.length);
    return text
      .toString("utf8", 0, text.indexOf(0))
      .split("\n")
      .filter((line) => line !== "");
  };
  return {
    path,
    env,
    envWithNccl: { ...libraries, RANKMESH_NCCL_LIBRARY: path.replace(/\.so$/, "_nccl.so") },
    leaks: () => linesOf(leaks),
    listen: library.func("rm_lookalike_listen", "void", ["bool"]),
    heard: () => linesOf(heard),
    fault: library.func("rm_lookalike_fault", "void", ["str", "uint64_t", "int"]),
    clear: library.func("rm_lookalike_clear", "void", []),
    calls: library.func("rm_lookalike_calls", "uint64_t", ["str"]),
    waiting: library.func("rm_lookalike_waiting", "size_t", []),
  };
}
