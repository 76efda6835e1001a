import type { LibraryHandle } from "koffi";
import { DeviceError } from "../../../shared/errors.ts";
import type { Precision } from "../../../shared/program/program.ts";
import type { Address } from "../kernels.ts";
import { func, handleOf, intOf, LOST_ADVICE, showArgument } from "./driver.ts";

/** A row-major matrix product over device memory, on the compute stream. */
export interface Product {
  /** Rows of c. */
  readonly m: number;
  /** Columns of c. */
  readonly n: number;
  /** Terms of each sum. */
  readonly k: number;
  /** op(a) is [m, k]: a itself, or a given as [k, m] where `transposeA`. */
  readonly a: Address;
  readonly transposeA: boolean;
  /** op(b) is [k, n]. */
  readonly b: Address;
  readonly transposeB: boolean;
  readonly c: Address;
  /** dtype of a and b. */
  readonly inputs: Precision;
  /** dtype of c; sums are formed in float32. */
  readonly output: Precision;
}

export interface CudaBlas {
  /** c = op(a) op(b). */
  multiply(product: Product): void;
}

/** cudaDataType */
const DATA_TYPES: Readonly<Record<Precision, number>> = { float32: 0, bfloat16: 14 };
/** cublasComputeType_t: CUBLAS_COMPUTE_32F, and with float32 operands rounded to TF32. */
const COMPUTE_32F = 68;
const COMPUTE_32F_FAST_TF32 = 77;
const DEFAULT_ALGORITHM = -1;
const ALLOC_FAILED = 3;
/** A kernel of cuBLAS failed, and with it the context. */
const EXECUTION_FAILED = 13;

interface Calls {
  readonly create: (...args: unknown[]) => number;
  readonly destroy: (...args: unknown[]) => number;
  readonly setStream: (...args: unknown[]) => number;
  readonly setWorkspace: (...args: unknown[]) => number;
  readonly gemm: (...args: unknown[]) => number;
}

/** Products by cuBLAS: one handle on one stream, with a workspace of ours, so that its memory is counted and its results repeat. */
export class Cublas implements CudaBlas {
  readonly #handle: number;
  readonly #calls: Calls;
  readonly #one = new Float32Array(new ArrayBuffer(4)).fill(1);
  readonly #zero = new Float32Array(new ArrayBuffer(4));
  readonly #computeFloat: number;

  /** @throws FailedPreconditionError for a library that lacks a function; DeviceError when a call fails */
  constructor(
    library: LibraryHandle,
    from: {
      readonly stream: number;
      readonly workspace: { readonly address: Address; readonly bytes: number };
      /** Rounds float32 operands to 10 bits of mantissa, as tensor cores take them. */
      readonly tf32: boolean;
    },
  ) {
    this.#calls = {
      create: checked(library, "cublasCreate_v2", "p"),
      destroy: checked(library, "cublasDestroy_v2", "u"),
      setStream: checked(library, "cublasSetStream_v2", "uu"),
      setWorkspace: checked(library, "cublasSetWorkspace_v2", "uuu"),
      gemm: checked(library, "cublasGemmEx", "uiiiiipuiiuiipuiiii"),
    };
    this.#computeFloat = from.tf32 ? COMPUTE_32F_FAST_TF32 : COMPUTE_32F;
    this.#handle = handleOf((out) => this.#calls.create(out));
    try {
      // The stream first: setting it gives the handle cuBLAS' own workspace back.
      this.#calls.setStream(this.#handle, from.stream);
      this.#calls.setWorkspace(this.#handle, from.workspace.address, from.workspace.bytes);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** cuBLAS is column-major: the transposed product c' = op(b)' op(a)' of the same bytes is what it is asked for. */
  multiply({ m, n, k, a, transposeA, b, transposeB, c, inputs, output }: Product): void {
    if (m === 0 || n === 0) return;
    const type = DATA_TYPES[inputs];
    this.#calls.gemm(
      this.#handle,
      transposeB ? 1 : 0,
      transposeA ? 1 : 0,
      n,
      m,
      k,
      this.#one,
      b,
      type,
      Math.max(1, transposeB ? k : n),
      a,
      type,
      Math.max(1, transposeA ? m : k),
      this.#zero,
      c,
      DATA_TYPES[output],
      n,
      inputs === "float32" ? this.#computeFloat : COMPUTE_32F,
      DEFAULT_ALGORITHM,
    );
  }

  dispose(): void {
    this.#calls.destroy(this.#handle);
  }
}

/** `13.0.2` */
export function cublasVersion(library: LibraryHandle): string {
  const get = checked(library, "cublasGetVersion_v2", "up");
  const version = intOf((out) => get(0, out));
  return [Math.floor(version / 10_000), Math.floor(version / 100) % 100, version % 100].join(".");
}

const names: Readonly<Record<number, string>> = {
  1: "CUBLAS_STATUS_NOT_INITIALIZED",
  3: "CUBLAS_STATUS_ALLOC_FAILED",
  7: "CUBLAS_STATUS_INVALID_VALUE",
  8: "CUBLAS_STATUS_ARCH_MISMATCH",
  11: "CUBLAS_STATUS_MAPPING_ERROR",
  13: "CUBLAS_STATUS_EXECUTION_FAILED",
  14: "CUBLAS_STATUS_INTERNAL_ERROR",
  15: "CUBLAS_STATUS_NOT_SUPPORTED",
};

function checked(
  library: LibraryHandle,
  name: string,
  kinds: string,
): (...args: unknown[]) => number {
  const call = func(library, name, kinds, "install cuBLAS of CUDA 12 or 13");
  return (...args) => {
    const status = call(...args);
    if (status === 0) return 0;
    const what = names[status] ?? `cublasStatus_t ${status}`;
    const fatal = status === EXECUTION_FAILED;
    throw new DeviceError(
      `${name}(${args.map(showArgument).join(", ")}) failed: ${what} (${status})${fatal ? LOST_ADVICE : ""}`,
      {
        code: status === ALLOC_FAILED ? "RESOURCE_EXHAUSTED" : "UNAVAILABLE",
        call: name,
        status: what,
        fatal,
      },
    );
  };
}
