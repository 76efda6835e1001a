import type { StepScalars } from "../../../shared/optimizer/step-scalars.ts";
import type { BoundInstruction } from "../binding/binder.ts";
import type { CudaContext } from "./cuda-context.ts";
import { runAll } from "./cuda-context.ts";
import { handleOf } from "./driver.ts";

/** CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
const THREAD_LOCAL = 1;
/** Microbatches whose launches are recorded: each has a graph of its own. */
const MAX_RECORDED_MICROBATCHES = 16;

interface Recording {
  /** Times the stretch ran for this microbatch. */
  runs: number;
  /** CUgraphExec, once recorded. */
  exec: number | undefined;
}

/**
 * Replays stretches of a program as CUDA graphs: one call to the driver in place of one a kernel. The first run of a
 * stretch launches plainly, so that modules are loaded and libraries warm; the second records; what changes from step to
 * step lies in device memory.
 */
export class Recorder {
  readonly #context: CudaContext;
  readonly #recordings = new Map<readonly BoundInstruction[], Map<number, Recording>>();
  readonly #owned: (() => void)[] = [];

  constructor(context: CudaContext) {
    this.#context = context;
  }

  run(stretch: readonly BoundInstruction[], scalars: StepScalars): void {
    const { driver, computeStream } = this.#context;
    const recording = this.#recordingOf(stretch, scalars.microbatch);
    if (recording === undefined || recording.runs++ === 0) {
      for (const bound of stretch) bound(scalars);
      return;
    }
    recording.exec ??= this.#record(stretch, scalars);
    driver.cuGraphLaunch(recording.exec, computeStream);
  }

  dispose(): void {
    this.#recordings.clear();
    runAll(this.#owned);
  }

  #recordingOf(stretch: readonly BoundInstruction[], microbatch: number): Recording | undefined {
    if (stretch.length < 2 || microbatch >= MAX_RECORDED_MICROBATCHES) return undefined;
    if (stretch.some(({ perStep }) => perStep === true)) return undefined;
    const byMicrobatch = this.#recordings.get(stretch) ?? new Map<number, Recording>();
    this.#recordings.set(stretch, byMicrobatch);
    const recording = byMicrobatch.get(microbatch) ?? { runs: 0, exec: undefined };
    byMicrobatch.set(microbatch, recording);
    return recording;
  }

  #record(stretch: readonly BoundInstruction[], scalars: StepScalars): number {
    const { driver, computeStream } = this.#context;
    driver.cuStreamBeginCapture_v2(computeStream, THREAD_LOCAL);
    let failed: { readonly error: unknown } | undefined;
    try {
      for (const bound of stretch) bound(scalars);
    } catch (error) {
      failed = { error };
    }
    let graph = 0;
    try {
      graph = handleOf((out) => driver.cuStreamEndCapture(computeStream, out));
    } catch (error) {
      failed ??= { error };
    }
    const owned = graph === 0 ? [] : [() => driver.cuGraphDestroy(graph)];
    try {
      // What broke the recording says more than that it broke.
      if (failed !== undefined) throw failed.error;
      const exec = handleOf((out) => driver.cuGraphInstantiateWithFlags(out, graph, 0n));
      this.#owned.push(() => driver.cuGraphExecDestroy(exec));
      for (const give of owned.splice(0)) give();
      return exec;
    } catch (error) {
      // A device that is lost refuses this, too, and that is not what is to be told.
      runAll(owned);
      throw error;
    }
  }
}
