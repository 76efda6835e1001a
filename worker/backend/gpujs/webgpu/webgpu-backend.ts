import { createRequire } from "node:module";
import { InternalError } from "../../../../shared/errors.ts";
import type { Program } from "../../../../shared/program/program.ts";
import type { Backend, LoadedProgram } from "../../backend.ts";
import { BoundProgram } from "../../bound-program.ts";
import { MemoryLedger } from "../../memory-account.ts";
import { gpujsVersion } from "../library.ts";
import { DeviceLink, LINK_BYTES } from "./device-link.ts";
import { WORKSPACE_BYTES } from "./device-memory.ts";
import type { AdapterFacts } from "./messages.ts";
import { WebGpuArena } from "./webgpu-arena.ts";

/** A device and the shaders built for it. */
interface OpenDevice {
  readonly key: string;
  readonly link: DeviceLink;
  readonly pipelines: Map<string, number>;
  /** Backends that hold it. */
  holders: number;
}

/** This thread's devices by Dawn's options: backends share them, and the last that closes one gives it back. */
const opened = new Map<string, OpenDevice>();

function openDevice(options: readonly string[]): OpenDevice {
  const key = options.join();
  let device = opened.get(key);
  if (device === undefined || device.link.failed) {
    device = { key, link: new DeviceLink(options), pipelines: new Map(), holders: 0 };
    opened.set(key, device);
  }
  device.holders++;
  return device;
}

function closeDevice(device: OpenDevice, workspace: number | undefined): void {
  device.holders--;
  if (device.holders > 0) {
    if (workspace !== undefined && !device.link.failed) device.link.destroyBuffer(workspace);
    return;
  }
  if (opened.get(device.key) === device) opened.delete(device.key);
  device.link.close();
}

/**
 * gpu.js in its WebGPU mode: for GPUs that are not NVIDIA's. Elementwise kernels are compiled by gpu.js, the others are WGSL; they
 * share one device, which a thread of its own drives.
 */
export class WebGpuBackend implements Backend {
  readonly name = "gpujs";
  readonly settledDevice = "webgpu";
  readonly precisions = ["float32"] as const;
  readonly device: string;
  readonly fingerprint: string;
  readonly memory = new MemoryLedger();
  readonly workspaceBytes = WORKSPACE_BYTES + LINK_BYTES;
  readonly adapter: AdapterFacts;
  #open: OpenDevice | undefined;
  /** The kernels' workspace: taken with the first program. */
  #workspace: number | undefined;
  #loaded = false;

  readonly #options: readonly string[];
  /** Gives the device back that no program has been loaded on: a daemon asks what there is, and computes in another thread. */
  readonly #idle: NodeJS.Immediate;

  /**
   * @param options what Dawn, which implements WebGPU here, is told: `backend=null` for a device that checks all and computes nothing
   * @throws FailedPreconditionError with what is missing when there is no adapter
   */
  constructor(options: readonly string[] = []) {
    this.#options = options;
    const open = openDevice(options);
    this.#open = open;
    this.#idle = setImmediate(() => this.close()).unref();
    this.adapter = open.link.adapter;
    const { name, vendor, architecture, software } = this.adapter;
    this.device = `gpu.js WebGPU on ${name}${software ? ", which computes on the processor" : ""}`;
    this.fingerprint = [
      `gpu.js ${gpujsVersion()} webgpu ${webGpuVersion()}`,
      [vendor, architecture, name].join(" "),
    ].join("; ");
  }

  load(program: Program, rank: number): LoadedProgram {
    if (this.#loaded) {
      throw new InternalError(
        `program ${program.name} was loaded while another is; dispose it first`,
      );
    }
    clearImmediate(this.#idle);
    this.#open ??= openDevice(this.#options);
    const { link, pipelines } = this.#open;
    const workspace = this.#workspace ?? this.#takeWorkspace(link);
    const loaded = new BoundProgram({
      program,
      rank,
      account: this.memory,
      open: () => new WebGpuArena({ link, pipelines, workspace }, program, this.memory),
      onDispose: () => {
        this.#loaded = false;
      },
    });
    this.#loaded = true;
    return loaded;
  }

  close(): void {
    const [open, workspace] = [this.#open, this.#workspace];
    this.#open = undefined;
    this.#workspace = undefined;
    if (open === undefined) return;
    if (workspace !== undefined) this.memory.free("workspace", this.workspaceBytes);
    closeDevice(open, workspace);
  }

  #takeWorkspace(link: DeviceLink): number {
    const workspace = link.addBuffer("workspace", WORKSPACE_BYTES);
    this.#workspace = workspace;
    this.memory.allocate("workspace", this.workspaceBytes);
    return workspace;
  }
}

function webGpuVersion(): string {
  const require = createRequire(import.meta.url);
  return (require("webgpu/package.json") as { readonly version: string }).version;
}
