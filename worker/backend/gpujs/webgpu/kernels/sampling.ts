import { sample } from "../../../../../compiler/ops/sample-token.ts";
import type { Address, Kernels } from "../../../kernels.ts";

/** Copies between the host and the device's memory; reading waits for all that was queued. */
export interface HostMemory {
  read(into: Uint8Array, from: Address): void;
  write(to: Address, bytes: Uint8Array): void;
}

/** The draw of a token goes on on the host: its weights are float64, and the token is what the step returns. */
export function sampling(memory: HostMemory): Pick<Kernels, "sampleToken"> {
  return {
    sampleToken(z, V, temperature, topK, u, id) {
      const logits = new Float32Array(V);
      memory.read(new Uint8Array(logits.buffer), z);
      const drawn = Float32Array.of(sample(logits, { temperature, topK }, u));
      memory.write(id, new Uint8Array(drawn.buffer));
    },
  };
}
