import type { AdapterFacts, DeviceFailure } from "./messages.ts";

/** Storage buffers that a kernel of this backend binds at most. */
const MAX_OPERANDS = 8;
const WORKGROUP_THREADS = 256;

const ADVICE =
  "install the Vulkan driver of this GPU (Debian, Ubuntu: apt-get install mesa-vulkan-drivers), or use device webassembly";

/** The thread's WebGPU. Dawn's bindings go on using it when JavaScript has let go of it, so it is never let go of. */
let gpu: GPU | undefined;

/**
 * The device of the adapter that WebGPU prefers, with as much of its limits as kernels use; or why there is none.
 * @param options Dawn's
 * @param fail hears of the first fault that WebGPU reports by itself
 */
export async function openDevice(
  options: readonly string[],
  fail: (failure: DeviceFailure) => void,
): Promise<{ readonly device: GPUDevice; readonly facts: AdapterFacts } | string> {
  try {
    const { create } = await import("webgpu");
    gpu ??= create([...options]);
  } catch (error) {
    const why = error instanceof Error ? error.message.split("\n")[0] : String(error);
    return `the npm package webgpu does not load (${why}); install it (npm ci), or use device webassembly`;
  }
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) return `WebGPU finds no adapter; ${ADVICE}`;
  const { limits, info } = adapter;
  if (limits.maxStorageBuffersPerShaderStage < MAX_OPERANDS) {
    return `the adapter ${nameOf(info)} binds ${limits.maxStorageBuffersPerShaderStage} buffers where ${MAX_OPERANDS} are needed`;
  }
  const device = await adapter.requestDevice({
    label: "rankmesh",
    requiredLimits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage: MAX_OPERANDS,
      minStorageBufferOffsetAlignment: limits.minStorageBufferOffsetAlignment,
      minUniformBufferOffsetAlignment: 256,
      maxComputeInvocationsPerWorkgroup: WORKGROUP_THREADS,
      maxComputeWorkgroupSizeX: WORKGROUP_THREADS,
    },
  });
  device.addEventListener("uncapturederror", (event) => {
    // It is told to whoever waits for the device; Dawn need not print it.
    event.preventDefault();
    const { error } = event;
    const status = isOutOfMemory(error) ? "out of memory" : "validation";
    fail({ call: "GPUDevice", status, text: error.message });
  });
  void device.lost.then(({ reason, message }) => {
    if (reason !== "destroyed") fail({ call: "GPUDevice", status: "lost", text: message });
  });
  return {
    device,
    facts: {
      name: nameOf(info),
      vendor: info.vendor,
      architecture: info.architecture,
      software: info.isFallbackAdapter || info.architecture === "software",
      maxBufferBytes: device.limits.maxBufferSize,
      maxBindingBytes: device.limits.maxStorageBufferBindingSize,
      maxBindings: MAX_OPERANDS,
      alignBytes: device.limits.minStorageBufferOffsetAlignment,
      maxGroupsPerDim: device.limits.maxComputeWorkgroupsPerDimension,
    },
  };
}

/** `description`, without the driver's trailing version word; vendor and architecture where it has none. */
function nameOf({ description, vendor, architecture }: GPUAdapterInfo): string {
  return description.trim() === "" ? `${vendor} ${architecture}`.trim() : description.trim();
}

function isOutOfMemory(error: GPUError): boolean {
  return error.constructor.name === "GPUOutOfMemoryError";
}
