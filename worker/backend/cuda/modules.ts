import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import koffi from "koffi";
import { DeviceError, InternalError } from "../../../shared/errors.ts";
import { type Driver, handleOf } from "./driver.ts";

/** Where `scripts/build-ptx.mjs` puts the kernels' code, and where it is committed. */
const FOLDER = new URL("../../../../worker/backend/cuda/ptx/", import.meta.url);

/** Architectures that code is built for, best first, and which devices run it. 90a holds instructions of that chip alone. */
const TARGETS: readonly {
  readonly name: string;
  readonly runs: (capability: number) => boolean;
}[] = [
  { name: "90a", runs: (capability) => capability === 90 },
  { name: "80", runs: (capability) => capability >= 80 },
  { name: "75", runs: (capability) => capability >= 75 },
];

/** CUjit_option */
const ERROR_LOG_BUFFER = 5;
const ERROR_LOG_BUFFER_BYTES = 6;
const LOG_BYTES = 8192;

/** Of all code: two hosts with the same run the same kernels. */
export function kernelsHash(): string {
  const hash = createHash("sha256");
  for (const name of readdirSync(FOLDER).sort()) {
    if (name.endsWith(".ptx")) hash.update(`${name}\0`).update(readFileSync(new URL(name, FOLDER)));
  }
  return hash.digest("hex").slice(0, 12);
}

const texts = new Map<string, Uint8Array>();

/** The kernels of one context: modules are loaded, and compiled for the device by its driver, when first used. */
export class Modules {
  readonly #driver: Driver;
  readonly #computeCapability: number;
  readonly #modules = new Map<string, number>();

  constructor(driver: Driver, computeCapability: number) {
    this.#driver = driver;
    this.#computeCapability = computeCapability;
  }

  /** Handle of a kernel. @throws InternalError for code that is not there; DeviceError when the driver refuses it */
  kernel(module: string, name: string): number {
    const loaded = this.#modules.get(module) ?? this.#load(module);
    return handleOf((out) => this.#driver.cuModuleGetFunction(out, loaded, name));
  }

  dispose(): void {
    for (const module of this.#modules.values()) this.#driver.cuModuleUnload(module);
    this.#modules.clear();
  }

  #load(module: string): number {
    const image = imageOf(module, this.#computeCapability);
    const log = new Uint8Array(new ArrayBuffer(LOG_BYTES));
    const options = Int32Array.of(ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_BYTES);
    const values = BigUint64Array.of(koffi.address(log), BigInt(LOG_BYTES));
    try {
      const handle = handleOf((out) =>
        this.#driver.cuModuleLoadDataEx(out, image, options.length, options, values),
      );
      this.#modules.set(module, handle);
      return handle;
    } catch (error) {
      const text = Buffer.from(log).toString("utf8").replace(/\0.*/s, "").trim();
      if (!(error instanceof DeviceError) || text === "") throw error;
      const { code, call, status, fatal } = error;
      throw new DeviceError(`${error.message}\nmodule ${module}: ${text}`, {
        code,
        call,
        status,
        fatal,
      });
    }
  }
}

/** PTX of a module for the best target that the device runs, ending in a zero byte. */
function imageOf(module: string, computeCapability: number): Uint8Array {
  for (const { name, runs } of TARGETS) {
    if (!runs(computeCapability)) continue;
    const path = fileURLToPath(new URL(`${module}.compute_${name}.ptx`, FOLDER));
    const known = texts.get(path);
    if (known !== undefined) return known;
    if (!existsSync(path)) continue;
    const image = Buffer.concat([readFileSync(path), Buffer.alloc(1)]);
    texts.set(path, image);
    return image;
  }
  throw new InternalError(
    `cuda backend: no code of kernels ${module} in ${fileURLToPath(FOLDER)}; run node scripts/build-ptx.mjs where nvcc is`,
  );
}
