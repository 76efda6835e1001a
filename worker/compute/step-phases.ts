/** What a step's time went to, in the order in which charts stack it. */
export const STEP_PHASES = ["data", "compute", "device", "collective"] as const;

/**
 * `data`: waiting for the batch and copying it in. `compute`: the host running instructions, or handing them to a device.
 * `device`: the host waiting until a device has done what it was given; 0 on a CPU. `collective`: the host blocked until a
 * collective ends; what hides behind computing is no part of it, nor is what a device waits for by itself (NCCL).
 */
export type StepPhase = (typeof STEP_PHASES)[number];

/** Seconds by phase. They add up to the step's. */
export type PhaseSeconds = Readonly<Record<StepPhase, number>>;

/**
 * Splits the wall time of one step. Only what blocks is timed, where it does, and the rest is `compute`: no clock is read
 * around instructions.
 */
export class StepTimer {
  readonly #beganMs: number;
  readonly #waitedMs = { data: 0, device: 0, collective: 0 };

  /** @param beganMs on the clock of `performance.now()`, as all its times */
  constructor(beganMs: number) {
    this.#beganMs = beganMs;
  }

  /** Counts the time from `sinceMs` to now. */
  waited(phase: Exclude<StepPhase, "compute">, sinceMs: number): void {
    this.#waitedMs[phase] += performance.now() - sinceMs;
  }

  /** The step's seconds up to `endedMs`, and what they went to. */
  split(endedMs: number): { readonly seconds: number; readonly phases: PhaseSeconds } {
    const { data, device, collective } = this.#waitedMs;
    const totalMs = endedMs - this.#beganMs;
    return {
      seconds: totalMs / 1000,
      phases: {
        data: data / 1000,
        // Differences of rounded times may be off by less than a nanosecond, and a counter must not go back.
        compute: Math.max(0, totalMs - data - device - collective) / 1000,
        device: device / 1000,
        collective: collective / 1000,
      },
    };
  }
}
