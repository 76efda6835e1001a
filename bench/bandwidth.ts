import { join } from "node:path";
import { numCores } from "../cli/machine.ts";
import type { BenchContext } from "./benchmark.ts";
import { sourcePath } from "./repository.ts";
import { runProcess } from "./run-process.ts";

/** Bytes per second of all cores together. */
export interface Bandwidth {
  /** One array is read. */
  readonly read: number;
  /** STREAM's triad: two arrays are read, one is written. */
  readonly triad: number;
  /** Three arrays are read and written in place, as by an optimizer with two moments. */
  readonly update: number;
}

/** Of each of the three arrays: far past any cache. */
const ARRAY_MEBIBYTES = 256;
const REPEATS = 7;
const TIMEOUT_MS = 60_000;

/** Measures memory with plain C loops that share nothing with the kernels of the backend. */
export class BandwidthMeter {
  readonly #program: string;
  readonly #context: BenchContext;

  private constructor(program: string, context: BenchContext) {
    this.#program = program;
    this.#context = context;
  }

  /** Compiles the loops for this processor. @throws Error without a C compiler */
  static async build(context: BenchContext): Promise<BandwidthMeter> {
    const program = join(context.folder, "stream");
    const source = sourcePath("bench/native/stream.c");
    const flags = ["-O3", "-march=native", "-std=gnu11", "-pthread"];
    await runProcess(process.env["CC"] ?? "cc", [...flags, source, "-o", program], {
      timeoutMs: TIMEOUT_MS,
      signal: context.signal,
    });
    return new BandwidthMeter(program, context);
  }

  /** Median of a few repeats, now. */
  async measure(): Promise<Bandwidth> {
    const args = [numCores(), ARRAY_MEBIBYTES, REPEATS].map(String);
    const stdout = await runProcess(this.#program, args, {
      timeoutMs: TIMEOUT_MS,
      signal: this.#context.signal,
    });
    const said = JSON.parse(stdout) as Record<keyof Bandwidth, { bytes: number; seconds: number }>;
    const rate = ({ bytes, seconds }: { bytes: number; seconds: number }) => bytes / seconds;
    return { read: rate(said.read), triad: rate(said.triad), update: rate(said.update) };
  }
}
