import koffi, { type LibraryHandle } from "koffi";
import { prepareKoffi } from "../koffi-setup.ts";

/** A CBLAS of this host, kept on one thread: the backend calls it from threads of its own. */
export interface Blas {
  /** File name it was found under. */
  readonly library: string;
  /** `OpenBLAS 0.3.21 Cooperlake`: what decides about the bits of a product. */
  readonly name: string;
  /** Address of `cblas_sgemm`, good for as long as `handle` lives. */
  readonly sgemm: bigint;
  /** koffi unloads a library when its handle is collected. */
  readonly handle: LibraryHandle;
}

/**
 * In order of preference. The reference CBLAS (libcblas, libblas) is not among them: its plain loops are slower
 * than the backend's own kernel.
 */
const CANDIDATES: readonly string[] =
  process.platform === "darwin"
    ? [
        "libopenblas.dylib",
        "/opt/homebrew/opt/openblas/lib/libopenblas.dylib",
        "/System/Library/Frameworks/Accelerate.framework/Accelerate",
      ]
    : [
        "libopenblas.so.0",
        "libopenblas.so",
        "libblis.so.4",
        "libblis.so",
        "libmkl_rt.so.2",
        "libmkl_rt.so",
        "/opt/intel/oneapi/mkl/latest/lib/libmkl_rt.so",
      ];

/** Functions by which libraries take a number of threads. */
const THREAD_SETTERS = [
  "openblas_set_num_threads",
  "bli_thread_set_num_threads",
  "MKL_Set_Num_Threads",
];

let found: Blas | null | undefined;

/** The first CBLAS that loads, or undefined where none is installed. */
export function findBlas(): Blas | undefined {
  if (found === undefined) {
    prepareKoffi();
    found = null;
    for (const library of CANDIDATES) {
      found ??= tryBlas(library);
    }
  }
  return found ?? undefined;
}

function tryBlas(library: string): Blas | null {
  let handle: LibraryHandle;
  let sgemm: bigint;
  try {
    handle = koffi.load(library);
    sgemm = handle.symbol("cblas_sgemm") as bigint;
  } catch {
    // Not installed, or without the C interface: the next name may be.
    return null;
  }
  for (const setter of THREAD_SETTERS) {
    optional<(threads: number) => void>(handle, setter, "void", ["int"])?.(1);
  }
  return { library, name: describe(handle, library), sgemm, handle };
}

function describe(handle: LibraryHandle, library: string): string {
  const config = optional<() => string>(handle, "openblas_get_config", "str", [])?.();
  if (config !== undefined) {
    const version = /OpenBLAS \S+/.exec(config)?.[0] ?? "OpenBLAS";
    const core = optional<() => string>(handle, "openblas_get_corename", "str", [])?.();
    return core === undefined ? version : `${version} ${core}`;
  }
  const blis = optional<() => string>(handle, "bli_info_get_version_str", "str", [])?.();
  if (blis !== undefined) return `BLIS ${blis}`;
  if (library.includes("mkl")) return "MKL";
  return library.includes("Accelerate") ? "Accelerate" : library;
}

function optional<F>(
  handle: LibraryHandle,
  name: string,
  result: string,
  args: string[],
): F | undefined {
  try {
    return handle.func(name, result, args) as F;
  } catch {
    return undefined;
  }
}
