import { InvalidArgumentError } from "../../shared/errors.ts";
import { finiteNumber, wholeNumber } from "./attributes.ts";
import type { Attrs } from "./op.ts";

/** Largest head: kernels keep tiles of a head's features on the stack. */
export const MAX_HEAD_DIM = 512;

/** Attributes of Llama 3.1's scaling: all of them or none. */
export const SCALING = ["factor", "lowFrequency", "highFrequency", "originalLength"] as const;

/**
 * Angle per position of each of the headDim / 2 pairs of a head, in float32 steps as PyTorch computes them:
 * theta^(-2i / headDim), slowed down for long wavelengths where attrs hold Llama 3.1's scaling.
 *
 * @throws InvalidArgumentError for attributes that make no sense
 */
export function ropeFrequencies(attrs: Attrs): Float32Array<ArrayBuffer> {
  const headDim = wholeNumber("rope", attrs, "headDim", { min: 2, max: MAX_HEAD_DIM });
  if (headDim % 2 !== 0) {
    throw new InvalidArgumentError(
      `rope: attribute headDim must be even, since features turn in pairs; got ${headDim}`,
    );
  }
  const theta = finiteNumber("rope", attrs, "theta", 1);
  const scale = scaling(attrs);
  // A buffer of its own: V8 moves the contents of small typed arrays that have none.
  const frequencies = new Float32Array(new ArrayBuffer(4 * (headDim / 2)));
  for (let i = 0; i < headDim / 2; i++) {
    const power = Math.fround(theta ** Math.fround((2 * i) / headDim));
    frequencies[i] = scale(Math.fround(1 / power));
  }
  return frequencies;
}

/** What Llama 3.1 makes of a frequency; without scaling, itself. */
function scaling(attrs: Attrs): (frequency: number) => number {
  const given = SCALING.filter((name) => attrs[name] !== undefined);
  if (given.length === 0) return (frequency) => frequency;
  if (given.length < SCALING.length) {
    const missing = SCALING.filter((name) => !given.includes(name));
    throw new InvalidArgumentError(
      `rope: attributes ${given.join(", ")} without ${missing.join(", ")}; give all four or none`,
    );
  }
  const factor = finiteNumber("rope", attrs, "factor", 1);
  const low = finiteNumber("rope", attrs, "lowFrequency", 0);
  const high = finiteNumber("rope", attrs, "highFrequency", 0);
  const length = wholeNumber("rope", attrs, "originalLength", { min: 1 });
  if (low <= 0 || high <= low) {
    throw new InvalidArgumentError(
      `rope: attribute highFrequency must be above lowFrequency, and that above 0; got ${high} and ${low}`,
    );
  }
  const f = Math.fround;
  return (frequency) => {
    const wavelength = f(f(1 / frequency) * f(2 * Math.PI));
    if (wavelength > length / low) return f(frequency / factor);
    if (wavelength < length / high) return frequency;
    const smooth = f(f(f(length / wavelength) - low) / (high - low));
    const slow = f(f(f(1 - smooth) * frequency) / factor);
    return f(slow + f(smooth * frequency));
  };
}
