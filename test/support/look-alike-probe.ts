// Run as a process of its own, whose environment sets the look-alike up; prints what the driver answers as JSON.
import koffi from "koffi";
import { bindCudaCalls, made } from "./cuda-calls.ts";
import { ptx } from "./look-alike-device.ts";

const COMPUTE_CAPABILITY_MAJOR = 75;
const COMPUTE_CAPABILITY_MINOR = 76;
const SHARED_MEMORY_PER_BLOCK_OPTIN = 97;

const cuda = bindCudaCalls(koffi.load(process.env["RANKMESH_CUDA_LIBRARY"] ?? ""));
const intOf = (call: (out: Int32Array) => number): number => {
  const out = new Int32Array(1);
  const status = call(out);
  return status === 0 ? (out[0] ?? 0) : -status;
};
const attribute = (id: number): number => intOf((out) => cuda.cuDeviceGetAttribute(out, id, 0));

const beforeInit = cuda.cuDeviceGetCount(new Int32Array(1));
const init = cuda.cuInit(0);
const withoutContext = cuda.cuMemAlloc_v2(new BigUint64Array(1), 16);
const devices = intOf((out) => cuda.cuDeviceGetCount(out));
const uuid = new Uint8Array(16);
cuda.cuDeviceGetUuid_v2(uuid, devices - 1);
const context = made((out) => cuda.cuDevicePrimaryCtxRetain(out, 0));
cuda.cuCtxSetCurrent(context);
const [free, total] = [new BigUint64Array(1), new BigUint64Array(1)];
cuda.cuMemGetInfo_v2(free, total);
const load = (target: string): number =>
  cuda.cuModuleLoadData(new BigUint64Array(1), ptx({ probe_target: [".u64"] }, { target }));
const twoTargets = (target: string): number => {
  const types = { probe_target: [".u64"] };
  const module = made((out) => cuda.cuModuleLoadData(out, ptx(types, { target })));
  const kernel = made((out) => cuda.cuModuleGetFunction(out, module, "probe_target"));
  const address = made((out) => cuda.cuMemAlloc_v2(out, 4));
  const argument = BigUint64Array.of(address);
  const params = BigUint64Array.of(koffi.address(argument));
  cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, 0, params, null);
  const out = new Int32Array(1);
  cuda.cuMemcpyDtoH_v2(out, address, 4);
  cuda.cuMemFree_v2(address);
  return out[0] ?? 0;
};

const capability = attribute(COMPUTE_CAPABILITY_MAJOR) * 10 + attribute(COMPUTE_CAPABILITY_MINOR);
const answers = {
  beforeInit,
  init,
  withoutContext,
  devices,
  uuid: Buffer.from(uuid).toString("hex"),
  capability,
  shared: attribute(SHARED_MEMORY_PER_BLOCK_OPTIN),
  context: Number((total[0] ?? 0n) - (free[0] ?? 0n)),
  total: Number(total[0]),
  loads: Object.fromEntries(
    ["sm_75", "sm_80", "sm_90", "sm_90a"].map((target) => [target, load(target)]),
  ),
  code: ["sm_75", "sm_80", "sm_90a"]
    .filter((target) => Number(target.slice(3, 5)) <= capability)
    .map(twoTargets),
  allocations: Array.from({ length: 4 }, () => cuda.cuMemAlloc_v2(new BigUint64Array(1), 1 << 20)),
};
process.stdout.write(JSON.stringify(answers));
