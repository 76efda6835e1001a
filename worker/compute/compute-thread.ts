import { parentPort, workerData } from "node:worker_threads";
import { DeviceError, FailedPreconditionError, InternalError } from "../../shared/errors.ts";
import type { Backend, LoadedProgram } from "../backend/backend.ts";
import { pieceCount } from "../collective/operand-pieces.ts";
import { loadBackend } from "./backend-loader.ts";
import { BatchRing } from "./batch-ring.ts";
import { ComputeAborted, ControlBlock } from "./control-block.ts";
import type {
  CollectiveAddresses,
  ComputeReply,
  ComputeRequest,
  ComputeStart,
  MemoryReport,
} from "./messages.ts";
import { toPlainError } from "./plain-error.ts";
import { runRounds, StepError } from "./step-loop.ts";

/**
 * The thread that holds the backend and the arena of one assignment. It answers requests one at a time; whatever
 * goes wrong is told to the main thread, and the thread lives on until it is told to dispose, so that memory is
 * always given back by those who took it.
 */
class ComputeThread {
  readonly #start: ComputeStart;
  readonly #reply: (message: ComputeReply, transfer?: readonly ArrayBuffer[]) => void;
  readonly #control: ControlBlock;
  readonly #batches: BatchRing;
  #backend: Backend | undefined;
  #loaded: LoadedProgram | undefined;
  #operands: CollectiveAddresses = [];

  constructor(
    start: ComputeStart,
    reply: (message: ComputeReply, transfer?: readonly ArrayBuffer[]) => void,
  ) {
    this.#start = start;
    this.#reply = reply;
    this.#control = new ControlBlock(start.control);
    this.#batches = new BatchRing(start.batches);
  }

  /** Allocates the arena. */
  async load(): Promise<void> {
    try {
      const backend = await loadBackend(this.#start.backendModule, this.#start.backend);
      this.#backend = backend;
      const { program, rank, exchange } = this.#start;
      const loaded = backend.load(program, rank, exchange);
      this.#loaded = loaded;
      const onDevice = loaded.exchange !== undefined;
      if (exchange !== undefined && !onDevice) {
        throw new FailedPreconditionError(
          `backend ${backend.name} cannot run collectives on its device, as rank ${rank} is told to`,
        );
      }
      this.#operands = onDevice
        ? []
        : program.collectives.map((_, index) => loaded.collectiveOperands(index));
      this.#reply({
        kind: "loaded",
        device: backend.device,
        addresses: this.#operands,
        memory: this.#memory(),
        exchangeIds: exchange?.makesIds === true ? exchangeIds(loaded) : new Uint8Array(),
      });
    } catch (error) {
      this.#reply({ kind: "failed", error: toPlainError(error) });
    }
  }

  /** Returns false after the last request. */
  handle(request: ComputeRequest): boolean {
    try {
      if (request.kind === "dispose") {
        this.#dispose();
        return false;
      }
      this.#serve(request);
    } catch (error) {
      const inStep = error instanceof StepError;
      const cause = inStep ? error.cause : error;
      // The main thread raised the flag and knows why.
      const step = inStep ? error.step : undefined;
      if (cause instanceof ComputeAborted) this.#reply({ kind: "aborted", step });
      else this.#reply({ kind: "failed", error: toPlainError(cause, step) });
    }
    return true;
  }

  #serve(request: Exclude<ComputeRequest, { readonly kind: "dispose" }>): void {
    const loaded = this.#loaded;
    if (loaded === undefined)
      throw new InternalError(`${request.kind} before the program was loaded`);
    switch (request.kind) {
      case "initialize":
        for (const index of request.stored) {
          this.#control.check();
          const tensor = this.#start.program.stored[index];
          if (tensor === undefined)
            throw new InternalError(`the program stores no tensor ${index}`);
          loaded.initialize(tensor, request.seed);
        }
        loaded.synchronize();
        this.#reply({ kind: "initialized" });
        return;
      case "write":
      case "read": {
        const { id, slot, offsetBytes, lengthBytes, buffer } = request;
        const bytes = new Uint8Array(buffer, 0, lengthBytes);
        if (request.kind === "write") loaded.write(slot, bytes, offsetBytes);
        else loaded.read(slot, bytes, offsetBytes);
        this.#reply({ kind: "moved", id, buffer }, [buffer]);
        return;
      }
      case "run":
        loaded.exchange?.connect(request.exchangeIds, this.#control.watch(this.#start.silenceMs));
        runRounds(
          {
            program: this.#start.program,
            loaded,
            control: this.#control,
            batches: this.#batches,
            silenceMs: this.#start.silenceMs,
            peakMemoryBytes: () => this.#backend?.memory.peakBytes ?? 0,
            inputPieces: this.#operands.map(({ pieces }) => pieces && pieceCount(pieces.input)),
            startCollective: this.#reply,
            morePieces: (collective) => this.#reply({ kind: "pieces", collective }),
            roomForBatches: () => this.#reply({ kind: "roomForBatches" }),
            onCollectives: (ended) => this.#reply({ kind: "collectives", ended }),
            onStep: (report) => this.#reply({ kind: "step", report }),
            onEvaluation: (report) => this.#reply({ kind: "evaluation", report }),
          },
          request.schedule,
        );
        this.#reply({ kind: "finished", memory: this.#memory() });
        return;
    }
  }

  #dispose(): void {
    const errors: unknown[] = [];
    for (const give of [() => this.#loaded?.dispose(), () => this.#backend?.close()]) {
      try {
        give();
      } catch (error) {
        errors.push(error);
      }
    }
    this.#loaded = undefined;
    // That the device is lost is more than what it was asked for when it first showed.
    const error = errors.find(isLoss) ?? errors[0];
    this.#reply({
      kind: "disposed",
      heldBytes: this.#backend?.memory.currentBytes ?? 0,
      error: error === undefined ? undefined : toPlainError(error),
    });
  }

  #memory(): MemoryReport {
    const memory = this.#backend?.memory;
    return {
      currentBytes: memory?.currentBytes ?? 0,
      peakBytes: memory?.peakBytes ?? 0,
      byKind: { ...memory?.byKind() },
    };
  }
}

function isLoss(error: unknown): boolean {
  return error instanceof DeviceError && error.fatal;
}

function exchangeIds({ exchange }: LoadedProgram): Uint8Array {
  return exchange?.makeIds() ?? new Uint8Array();
}

const port = parentPort;
if (port === null) throw new InternalError("compute-thread.ts runs only as a worker thread");
const thread = new ComputeThread(workerData as ComputeStart, (message, transfer) =>
  port.postMessage(message, transfer),
);
// Requests that come while the backend loads wait in the port.
await thread.load();
port.on("message", (request: ComputeRequest) => {
  if (!thread.handle(request)) port.close();
});
