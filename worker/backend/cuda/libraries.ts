import koffi, { type LibraryHandle } from "koffi";
import { FailedPreconditionError } from "../../../shared/errors.ts";
import { prepareKoffi } from "../koffi-setup.ts";

/** A library of NVIDIA's, where to look for it, and what to say where it is not. */
interface Wanted {
  /** Environment variable with a path that is taken instead of the names. */
  readonly variable: string;
  readonly names: readonly string[];
  readonly advice: string;
}

const DRIVER: Wanted = {
  variable: "RANKMESH_CUDA_LIBRARY",
  names: ["libcuda.so.1"],
  advice:
    "install NVIDIA's driver on this host (https://www.nvidia.com/drivers); in a container, start it with the NVIDIA runtime (docker: --gpus all)",
};

const CUBLAS: Wanted = {
  variable: "RANKMESH_CUBLAS_LIBRARY",
  names: ["libcublas.so.13", "libcublas.so.12"],
  advice:
    "install cuBLAS of CUDA 12 or 13 (package libcublas-13-0 of NVIDIA's repository, or pip install nvidia-cublas) and put its folder on LD_LIBRARY_PATH",
};

const NCCL: Wanted = {
  variable: "RANKMESH_NCCL_LIBRARY",
  names: ["libnccl.so.2"],
  advice: "install NCCL 2.14 or newer (package libnccl2 of NVIDIA's repository)",
};

export interface CudaLibraries {
  readonly driver: LibraryHandle;
  readonly cublas: LibraryHandle;
}

const opened = new Map<string, LibraryHandle>();

/** @throws FailedPreconditionError naming the first library that is missing, and what to install */
export function openCudaLibraries(): CudaLibraries {
  prepareKoffi();
  return { driver: open(DRIVER), cublas: open(CUBLAS) };
}

/** NCCL, where it is; RANKMESH_NCCL_LIBRARY=off leaves it alone. */
export function openNccl(): LibraryHandle | undefined {
  if (process.env[NCCL.variable] === "off") return undefined;
  prepareKoffi();
  try {
    return open(NCCL);
  } catch (error) {
    // Most hosts have none, and ranks exchange without it.
    if (error instanceof FailedPreconditionError) return undefined;
    throw error;
  }
}

function open({ variable, names, advice }: Wanted): LibraryHandle {
  const path = process.env[variable];
  const candidates = path === undefined || path === "" ? names : [path];
  const reasons = new Set<string>();
  for (const name of candidates) {
    const known = opened.get(name);
    if (known !== undefined) return known;
    try {
      const handle = koffi.load(name);
      opened.set(name, handle);
      return handle;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      reasons.add(reason.replace(/^Failed to load shared library: /, ""));
    }
  }
  const tried =
    candidates.length > 1
      ? `neither ${candidates.join(" nor ")} could be loaded`
      : `${candidates[0]} could not be loaded`;
  throw new FailedPreconditionError(
    `cuda backend: ${tried} (${[...reasons].join("; ")}); ${advice}`,
  );
}
