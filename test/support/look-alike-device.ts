// A context on the look-alike, and its probe kernels (test/look-alike/kernels/probe.cu).
import koffi from "koffi";
import {
  bindCudaCalls,
  type CudaCalls,
  type KernelArgument,
  kernelParams,
  made,
  ok,
} from "./cuda-calls.ts";
import { lookAlike } from "./look-alike.ts";

/** PTX types of each probe kernel's parameters; the look-alike reads no more of PTX than this. */
const PROBES: Readonly<Record<string, readonly string[]>> = {
  probe_axpy: [".u64", ".u64", ".f32", ".u64"],
  probe_indices: [".u64"],
  probe_arguments: [".align 8 .b8[24]", ".u8", ".u16", ".f64"],
  probe_tree: [".u64", ".u64"],
  probe_reverse: [".u64", ".u64"],
  probe_race: [".u64", ".u64"],
  probe_warp: [".u64"],
  probe_leaving: [".u64"],
  probe_count: [".u64"],
  probe_mma: [".u64", ".u64", ".u64"],
  probe_ldmatrix_mma: [".u64", ".u64", ".u64"],
  probe_ldmatrix: [".u64", ".u32"],
  probe_async: [".u64", ".u64", ".u32"],
  probe_pack: [".u64", ".u64"],
  probe_wrong: [".u32", ".u64", ".u64"],
};

/** PTX of kernels without bodies, as nvcc lays it out. */
export function ptx(
  entries: Readonly<Record<string, readonly string[]>>,
  { target = "sm_75", version = "9.0", directives = "", body = "ret;" } = {},
): string {
  const kernels = Object.entries(entries).map(([name, types]) => {
    const params = types.map((type, i) => {
      const [kind = "", array = ""] = type.split("[");
      return `\t.param ${kind} ${name}_param_${i}${array && `[${array}`}`;
    });
    return `.visible .entry ${name}(\n${params.join(",\n")}\n)\n${directives}\n{\n\t${body}\n}`;
  });
  return `//\n// Generated\n//\n.version ${version}\n.target ${target}\n.address_size 64\n\n${kernels.join("\n\n")}\n`;
}

export type Shape = number | readonly [x: number, y: number, z: number];

export class LookAlikeDevice {
  readonly cuda: CudaCalls = bindCudaCalls(koffi.load(lookAlike().path));
  readonly module: bigint;
  readonly #functions = new Map<string, bigint>();

  constructor() {
    const { cuda } = this;
    lookAlike().listen(true);
    ok(cuda.cuInit(0));
    ok(cuda.cuCtxSetCurrent(made((out) => cuda.cuDevicePrimaryCtxRetain(out, 0))));
    this.module = made((out) => cuda.cuModuleLoadData(out, ptx(PROBES)));
  }

  /** Releases the context, with all that is left in it, whatever its state: also where others hold it, too. */
  close(): void {
    lookAlike().clear();
    lookAlike().listen(false);
    ok(this.cuda.cuCtxSetCurrent(0));
    ok(this.cuda.cuDevicePrimaryCtxReset_v2(0));
    // Not where a lost device has been replaced.
    this.cuda.cuDevicePrimaryCtxRelease_v2(0);
  }

  alloc(bytes: number): bigint {
    return made((out) => this.cuda.cuMemAlloc_v2(out, bytes));
  }

  upload(values: Float32Array | Uint16Array | Int32Array): bigint {
    const address = this.alloc(values.byteLength);
    ok(this.cuda.cuMemcpyHtoD_v2(address, values, values.byteLength));
    return address;
  }

  floats(address: bigint, count: number): Float32Array {
    const values = new Float32Array(count);
    ok(this.cuda.cuMemcpyDtoH_v2(values, address, values.byteLength));
    return values;
  }

  ints(address: bigint, count: number): Int32Array {
    return new Int32Array(this.floats(address, count).buffer);
  }

  /** Pinned host memory as floats. */
  pinned(count: number): { readonly address: bigint; readonly values: Float32Array } {
    const address = made((out) => this.cuda.cuMemHostAlloc(out, 4 * count, 0));
    return { address, values: new Float32Array(koffi.view(address, 4 * count)) };
  }

  stream(flags = 1): bigint {
    return made((out) => this.cuda.cuStreamCreate(out, flags));
  }

  event(flags = 2): bigint {
    return made((out) => this.cuda.cuEventCreate(out, flags));
  }

  kernel(name: string): bigint {
    const known = this.#functions.get(name);
    const kernel = known ?? made((out) => this.cuda.cuModuleGetFunction(out, this.module, name));
    this.#functions.set(name, kernel);
    return kernel;
  }

  /** @returns the status of the launch */
  launch(
    name: string,
    [grid, block]: readonly [Shape, Shape],
    args: readonly KernelArgument[],
    { shared = 0, stream = 0n } = {},
  ): number {
    const [gx, gy, gz] = typeof grid === "number" ? [grid, 1, 1] : grid;
    const [bx, by, bz] = typeof block === "number" ? [block, 1, 1] : block;
    const params = kernelParams(args);
    const kernel = this.kernel(name);
    const { cuLaunchKernel } = this.cuda;
    return cuLaunchKernel(kernel, gx, gy, gz, bx, by, bz, shared, stream, params.pointers, null);
  }
}
