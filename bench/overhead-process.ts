/**
 * A process of the overhead benchmark, forked by it: a worker whose compute instructions are timed, or the same
 * program's instructions in a bare loop.
 */
import { BroadcastChannel } from "node:worker_threads";
import { pino } from "pino";
import { stepScalars } from "../shared/optimizer/step-scalars.ts";
import { dtypeBytes, type Program } from "../shared/program/program.ts";
import { fillStandardNormals } from "../shared/random/normal.ts";
import { createBackend } from "../worker/backend/create-backend.ts";
import { startWorker } from "../worker/worker-daemon.ts";
import { KERNEL_TIMES_CHANNEL, type KernelTimes } from "./timed-backend.ts";

/** What the parent asks for. */
export type OverheadTask =
  | { readonly kind: "worker"; readonly coordinator: string; readonly threads: number }
  | {
      readonly kind: "loop";
      readonly program: Program;
      readonly steps: number;
      readonly threads: number;
      readonly seed: number;
    };

/** What it gets. */
export type OverheadReply =
  | ({ readonly kind: "kernelTimes" } & KernelTimes)
  | {
      readonly kind: "looped";
      readonly seconds: readonly number[];
      readonly loss: readonly number[];
    }
  | { readonly kind: "failed"; readonly message: string };

const TIMED_BACKEND = new URL("./timed-backend.js", import.meta.url).href;

async function serveWorker(task: OverheadTask & { readonly kind: "worker" }): Promise<void> {
  const channel = new BroadcastChannel(KERNEL_TIMES_CHANNEL);
  channel.onmessage = (event) => {
    const { data } = event as { readonly data: KernelTimes };
    reply({ kind: "kernelTimes", seconds: data.seconds });
  };
  await startWorker({
    coordinator: task.coordinator,
    backend: "cpu",
    threads: task.threads,
    backendModule: TIMED_BACKEND,
    logger: pino({ level: "silent" }),
  });
}

/** Steps without batches, messages or deadlines: nothing but the instructions in their order. */
function loop({ program, steps, threads, seed }: OverheadTask & { readonly kind: "loop" }): void {
  const backend = createBackend({ backend: "cpu", device: "", threads });
  const loaded = backend.load(program, 0);
  for (const tensor of program.stored) loaded.initialize(tensor, seed);
  for (const { name, globalShape, slot } of program.inputs) {
    const values = new Float32Array(globalShape.reduce((product, size) => product * size, 1));
    fillStandardNormals(values, { seed, name });
    loaded.write(slot, new Uint8Array(values.buffer, 0, values.length * dtypeBytes("float32")));
  }
  const seconds: number[] = [];
  const losses: number[] = [];
  const loss = new Float32Array(1);
  for (let step = 0; step < steps; step++) {
    const began = performance.now();
    for (let microbatch = 0; microbatch <= program.microbatches; microbatch++) {
      const scalars = stepScalars(program.optimizer, program.schedule, step, microbatch);
      const section = microbatch < program.microbatches ? program.body : program.epilogue;
      for (const instruction of section) {
        if (instruction.kind === "compute") loaded.run([instruction], scalars);
      }
    }
    seconds.push((performance.now() - began) / 1000);
    loaded.read(program.lossSlot, new Uint8Array(loss.buffer));
    losses.push(loss[0] ?? Number.NaN);
  }
  loaded.dispose();
  reply({ kind: "looped", seconds, loss: losses });
}

function reply(message: OverheadReply): void {
  process.send?.(message);
}

function failed(error: unknown): void {
  const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
  reply({ kind: "failed", message });
}

process.on("message", (task: OverheadTask) => {
  if (task.kind === "worker") {
    serveWorker(task).catch(failed);
  } else {
    try {
      loop(task);
    } catch (error) {
      failed(error);
    }
  }
});
// Its parent has what it wanted, or is gone.
process.on("disconnect", () => process.exit(0));
