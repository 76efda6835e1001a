import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/** gpu.js, loaded when it is first needed: other backends do without. */
export function gpujs(): typeof import("gpu.js") {
  return require("gpu.js") as typeof import("gpu.js");
}

/** Version that is installed: its compiler decides about the bits of results. */
export function gpujsVersion(): string {
  return (require("gpu.js/package.json") as { readonly version: string }).version;
}
