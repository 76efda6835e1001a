import type { Peers } from "./peer.ts";

/** What a benchmark needs to run jobs. */
export interface RunContext {
  /** What ranks compute with, and on which device of it; empty: its default. */
  readonly backend: string;
  readonly device: string;
  /** A folder for files that are of no use afterwards. */
  readonly folder: string;
  /** Takes a line that says what goes on. */
  readonly progress: (line: string) => void;
  readonly signal: AbortSignal;
}

/** What every benchmark of the CPU gets. */
export interface BenchContext extends RunContext {
  /** Features in and out, and hidden features, of the reference program's model. 8192 is what budgets speak of. */
  readonly dim: number;
  readonly peers: Peers;
}

/** Measures one thing. Its result is verified before anything is timed. */
export interface Benchmark<C = BenchContext> {
  readonly name: string;
  /** @throws VerificationError when what is about to be timed computes the wrong thing */
  readonly run: (context: C) => Promise<BenchResult>;
}

export interface BenchResult {
  readonly title: string;
  /** Sentences: what was proven right before it was timed. */
  readonly verified: readonly string[];
  readonly tables: readonly Table[];
  readonly budgets: readonly Budget[];
  /** Sentences: how it was measured, and what a number leaves out. */
  readonly notes: readonly string[];
  /** All numbers, for machines. */
  readonly data: unknown;
}

export interface Table {
  readonly header: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** A number that should not exceed a limit. */
export interface Budget {
  readonly what: string;
  readonly measured: number;
  readonly limit: number;
}

/** What was to be timed does not do what it should: its speed is of no interest. */
export class VerificationError extends Error {}

/** @throws VerificationError unless the two series agree everywhere within `tolerance`, relative to the expected value */
export function checkClose(
  what: string,
  got: readonly (number | null)[],
  expected: readonly (number | null)[],
  tolerance: number,
): void {
  if (got.length !== expected.length) {
    throw new VerificationError(`${what}: ${got.length} values, expected ${expected.length}`);
  }
  for (const [index, value] of got.entries()) {
    const want = expected[index];
    const difference = Math.abs((value ?? Number.NaN) - (want ?? Number.NaN));
    if (difference <= tolerance * Math.abs(want ?? Number.NaN)) continue;
    throw new VerificationError(
      `${what}: value ${index} is ${value}, expected ${want} within ${tolerance.toExponential()} relative`,
    );
  }
}
