import { MAX_HEAD_DIM } from "../../../../compiler/ops/rope-frequencies.ts";
import type { HostTable, Kernels } from "../../kernels.ts";
import type { Launcher } from "../launcher.ts";

/** Vectors of a thread whose loads are in flight at once, as in rope.cu. */
const IN_FLIGHT = 4;
/** Elements that a block turns at least, where there are so many at one position: they share its angles. */
const SHARED = 4096;

export function ropeKernels(l: Launcher): Pick<Kernels, "rope"> {
  return ropes(l, "f32", 4);
}

export function ropeHalfKernels(l: Launcher): Pick<Kernels, "rope"> {
  return ropes(l, "bf16", 2);
}

function ropes(l: Launcher, suffix: "f32" | "bf16", elementBytes: number): Pick<Kernels, "rope"> {
  const kinds = "atannninin";
  const vectors = l.kernel("rope", `rm_rope_vector_${suffix}`, kinds);
  const pairs = l.kernel("rope", `rm_rope_pairs_${suffix}`, kinds);
  const tables = new WeakMap<HostTable<Float32Array>, Float32Array>();

  return {
    rope(x, frequencies, y, B, T, F, headDim, first, direction) {
      if (B * T * F === 0) return;
      const isVector = (headDim * elementBytes) % 16 === 0 && x % 16 === 0 && y % 16 === 0;
      const across = F / (isVector ? 16 / elementBytes : 2);
      const threads = Math.min(256, 32 * Math.ceil(across / (32 * IN_FLIGHT)));
      const sequences = Math.min(B, Math.ceil(SHARED / F));
      const table = tables.get(frequencies) ?? padded(frequencies.values);
      tables.set(frequencies, table);
      const blocks = T * Math.ceil(B / sequences);
      const launch = isVector ? vectors : pairs;
      const half = headDim / 2;
      launch(blocks, threads, 0, x, table, y, B, T, F, half, first, direction, sequences);
    },
  };
}

/** As `rope_frequencies` in rope.cu: a struct of fixed size. */
function padded(frequencies: Float32Array): Float32Array {
  const table = new Float32Array(MAX_HEAD_DIM / 2);
  table.set(frequencies);
  return table;
}
