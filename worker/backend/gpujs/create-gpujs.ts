import { FailedPreconditionError, InvalidArgumentError } from "../../../shared/errors.ts";
import { quote } from "../../../shared/quote.ts";
import type { Backend } from "../backend.ts";
import { WebAssemblyBackend } from "./webassembly-backend.ts";
import { WebGpuBackend } from "./webgpu/webgpu-backend.ts";

/** Modes, as `device` names them. */
const MODES = ["webgpu", "webassembly"];

/** A backend in one of gpu.js' modes, and why in this one where the host decided. */
export type GpujsBackend = Backend & { readonly note?: string };

/**
 * gpu.js in the mode that `device` names; where it is empty, WebGPU on a GPU that answers, else WebAssembly.
 * @throws InvalidArgumentError for another device; FailedPreconditionError when the mode cannot run here, with what is missing
 */
export function createGpujs({
  device,
  threads,
}: {
  readonly device: string;
  readonly threads?: number | undefined;
}): GpujsBackend {
  if (device === "webgpu") return new WebGpuBackend();
  if (device === "webassembly") return new WebAssemblyBackend({ threads });
  if (device !== "") {
    throw new InvalidArgumentError(
      `device ${quote(device)}: backend gpujs runs on ${MODES.map(quote).join(" or ")}; leave it out for WebGPU where a GPU answers, else WebAssembly`,
    );
  }
  try {
    const backend = new WebGpuBackend();
    if (!backend.adapter.software) return backend;
    backend.close();
    const note = `the only WebGPU adapter, ${backend.adapter.name}, computes on the processor`;
    return withNote(new WebAssemblyBackend({ threads }), note);
  } catch (error) {
    if (!(error instanceof FailedPreconditionError)) throw error;
    return withNote(
      new WebAssemblyBackend({ threads }),
      error.message.replace("gpujs backend: ", ""),
    );
  }
}

function withNote(backend: WebAssemblyBackend, note: string): GpujsBackend {
  return Object.assign(backend, { note });
}
