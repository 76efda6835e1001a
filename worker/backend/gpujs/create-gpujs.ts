import { InvalidArgumentError } from "../../../shared/errors.ts";
import { quote } from "../../../shared/quote.ts";
import type { Backend } from "../backend.ts";
import { WebAssemblyBackend } from "./webassembly-backend.ts";

/**
 * gpu.js on what this host has.
 * @param choice.device `webassembly`, or empty for the best that runs
 * @throws InvalidArgumentError for another device; FailedPreconditionError when the mode cannot run here
 */
export function createGpujs({
  device,
  threads,
}: {
  readonly device: string;
  readonly threads?: number | undefined;
}): Backend {
  if (device !== "" && device !== "webassembly") {
    throw new InvalidArgumentError(
      `device ${quote(device)}: backend gpujs knows "webassembly"; leave it out for the best that runs`,
    );
  }
  return new WebAssemblyBackend({ threads });
}
