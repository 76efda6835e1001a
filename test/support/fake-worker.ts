import { crc32 } from "node:zlib";
import { type ClientDuplexStream, credentials } from "@grpc/grpc-js";
import { shardIntervals } from "../../shared/mesh/placement.ts";
import type { Program } from "../../shared/program/program.ts";
import { decodeProgramText } from "../../shared/program/wire.ts";
import { controlChannelOptions } from "../../shared/rpc/channel.ts";
import type { Assign__Output } from "../../shared/rpc/gen/rankmesh/v1/Assign.ts";
import type { RankServiceClient } from "../../shared/rpc/gen/rankmesh/v1/RankService.ts";
import type { Register } from "../../shared/rpc/gen/rankmesh/v1/Register.ts";
import type { SessionRequest } from "../../shared/rpc/gen/rankmesh/v1/SessionRequest.ts";
import type { SessionResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/SessionResponse.ts";
import type { StepReport } from "../../shared/rpc/gen/rankmesh/v1/StepReport.ts";
import type { StreamBatchesResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/StreamBatchesResponse.ts";
import { serverStreaming } from "../../shared/rpc/handlers.ts";
import { services } from "../../shared/rpc/proto.ts";
import { RpcServer } from "../../shared/rpc/server.ts";

/** A batch as it arrived: one buffer an input. */
export interface ReceivedBatch {
  readonly step: number;
  /** Its number in an evaluation. */
  readonly evaluation: number | undefined;
  readonly inputs: readonly Buffer[];
  /** What the coordinator said of it. */
  readonly sentHash: number;
}

/** Where a fake worker departs from good behaviour. */
export interface Misbehaviour {
  /** Called before a step is reported; what it returns is changed in the report, "hang" reports nothing any more. */
  readonly onStep?: (
    step: number,
    worker: FakeWorker,
  ) => Partial<StepReport> | "hang" | undefined | Promise<Partial<StepReport> | "hang" | undefined>;
  /** Never says that it is ready. */
  readonly neverReady?: boolean;
  /** Peers that its heartbeats say it waits for: `1,2`. */
  readonly waitingFor?: () => string;
  /** Says nothing more after Register, not even heartbeats. */
  readonly silent?: boolean;
  /** Does not answer Abort and Release. */
  readonly neverReleases?: boolean;
  /** Ends its shards early by this many bytes. */
  readonly shortShardBytes?: number;
  /** Accepts ReadShard and sends nothing. */
  readonly silentShards?: boolean;
}

export interface FakeWorkerOptions extends Misbehaviour {
  readonly coordinator: string;
  readonly name: string;
  readonly backend?: string;
  readonly fingerprint?: string;
  readonly memoryLimitBytes?: number;
  readonly heartbeatMs?: number;
  /** Instead of what it would say of itself. */
  readonly register?: Register;
}

/** The value that every fake rank holds at a parameter's global element. */
export function fakeWeight(index: number): number {
  return index + 0.5;
}

/** Loss that fake ranks report. */
export function fakeLoss(step: number): number {
  return 1 / (step + 1);
}

/** Loss that fake ranks report of a held-out batch. */
export function fakeEvaluationLoss(step: number, batch: number): number {
  return 100 * step + batch;
}

/**
 * Speaks a worker's side of the protocol in this process, over real loopback gRPC, without computing anything: takes its
 * assignment, pulls weights and batches, reports steps, serves its shards.
 */
export class FakeWorker {
  readonly name: string;
  readonly assigned: Assign__Output[] = [];
  readonly batches: ReceivedBatch[] = [];
  /** Bytes of the initial weights that it pulled, by stored index. */
  readonly weights = new Map<number, Buffer>();
  readonly aborts: string[] = [];
  sessionError: Error | undefined;
  readonly #options: FakeWorkerOptions;
  readonly #server: RpcServer;
  readonly #client: RankServiceClient;
  #session: ClientDuplexStream<SessionRequest, SessionResponse__Output> | undefined;
  #heartbeats: NodeJS.Timeout | undefined;
  #current:
    | { readonly assign: Assign__Output; readonly program: Program; readonly stop: AbortController }
    | undefined;

  private constructor(options: FakeWorkerOptions) {
    this.name = options.name;
    this.#options = options;
    const { collective, rank } = services();
    this.#server = new RpcServer({
      services: [
        {
          service: collective,
          handlers: {
            PullFrames: serverStreaming(async function* () {
              // No rank pulls here: nothing is computed.
            }),
            ReadShard: serverStreaming(({ stored }: { stored: number }, { signal }) =>
              this.#shard(stored, signal),
            ),
          },
        },
      ],
    });
    this.#client = new rank.Client(options.coordinator, credentials.createInsecure(), {
      ...controlChannelOptions(),
      "grpc.use_local_subchannel_pool": 1,
    });
  }

  /** Starts a worker and resolves when the coordinator has taken it in. */
  static async join(options: FakeWorkerOptions): Promise<FakeWorker> {
    const worker = new FakeWorker(options);
    const { host, port } = await worker.#server.bind({ host: "127.0.0.1", port: 0 });
    try {
      await worker.#register({ address: `${host}:${port}` });
    } catch (error) {
      await worker.kill();
      throw error;
    }
    return worker;
  }

  /** Sends any message on the session, well-behaved or not. */
  send(message: SessionRequest): void {
    this.#session?.write(message);
  }

  /** Dies like a killed process: connections break, nothing is said. */
  async kill(): Promise<void> {
    clearInterval(this.#heartbeats);
    this.#current?.stop.abort();
    this.#session?.cancel();
    this.#client.close();
    await this.#server.stop(0);
  }

  /** Leaves in good order. */
  async leave(): Promise<void> {
    clearInterval(this.#heartbeats);
    this.#current?.stop.abort();
    this.#session?.end();
    this.#client.close();
    await this.#server.stop(100);
  }

  #register(more: Register): Promise<void> {
    const {
      name,
      backend = "cpu",
      fingerprint = "cpu/test",
      memoryLimitBytes = 2 ** 30,
      heartbeatMs = 50,
      silent,
    } = this.#options;
    const session = this.#client.session();
    this.#session = session;
    return new Promise((resolve, reject) => {
      session.on("error", (error) => {
        this.sessionError = error;
        this.#current?.stop.abort();
        clearInterval(this.#heartbeats);
        reject(error);
      });
      session.on("data", (message: SessionResponse__Output) => {
        if (message.registered) {
          if (silent !== true) {
            this.#heartbeats = setInterval(
              () =>
                this.send({
                  heartbeat: {
                    jobId: this.#current?.assign.jobId ?? "",
                    waitingFor: this.#options.waitingFor?.() ?? "",
                  },
                }),
              heartbeatMs,
            );
          }
          resolve();
        }
        if (silent !== true) this.#handle(message);
      });
      session.write({
        register: {
          name,
          backend,
          device: `${backend}:0`,
          fingerprint,
          memoryLimitBytes,
          httpAddress: "",
          version: "0.1.0",
          ...more,
          ...this.#options.register,
        },
      });
    });
  }

  #handle(message: SessionResponse__Output): void {
    const { assign, start, abort, release } = message;
    if (assign) {
      this.assigned.push(assign);
      const program = JSON.parse(decodeProgramText(assign.programJson)) as Program;
      this.#current = { assign, program, stop: new AbortController() };
      this.#prepare(assign, program).catch((error: unknown) => this.#fail(error));
    }
    if (start) this.#run().catch((error: unknown) => this.#fail(error));
    if (abort) this.aborts.push(abort.reason);
    const over = abort ?? release;
    if (over && this.#options.neverReleases !== true) {
      this.#current?.stop.abort();
      this.#current = undefined;
      this.send({ released: { jobId: over.jobId, generation: over.generation } });
    }
  }

  async #prepare(assign: Assign__Output, program: Program): Promise<void> {
    const { jobId, generation, rank } = assign;
    for (const [stored, tensor] of program.stored.entries()) {
      if (!assign.loadWeights || tensor.role !== "parameter") continue;
      const pieces: Buffer[] = [];
      for await (const { data } of this.#client.readInitialWeights({
        jobId,
        generation,
        rank,
        stored,
      }) as AsyncIterable<{ data: Buffer }>) {
        pieces.push(data);
      }
      this.weights.set(stored, Buffer.concat(pieces));
    }
    if (this.#options.neverReady !== true) this.send({ ready: { jobId, generation, rank } });
  }

  async #run(): Promise<void> {
    const current = this.#current;
    if (current === undefined) return;
    const { assign, program, stop } = current;
    const { jobId, generation, rank, steps } = assign;
    const call = this.#client.streamBatches({ jobId, generation, rank });
    stop.signal.addEventListener("abort", () => call.cancel());
    let inputs = program.inputs.map(() => [] as Buffer[]);
    try {
      for await (const piece of call as AsyncIterable<StreamBatchesResponse__Output>) {
        inputs[piece.input]?.push(piece.data);
        if (!piece.endOfStep) continue;
        const batch = inputs.map((pieces) => Buffer.concat(pieces));
        inputs = program.inputs.map(() => []);
        const { step, evaluation, batchHash: sentHash } = piece;
        this.batches.push({ step, evaluation, inputs: batch, sentHash });
        const batchHash = batch.reduce((hash, bytes) => crc32(bytes, hash), 0);
        if (evaluation !== undefined) {
          const loss = fakeEvaluationLoss(step, evaluation);
          this.send({
            evaluation: { jobId, generation, rank, step, batch: evaluation, loss, batchHash },
          });
          continue;
        }
        const changed = await this.#options.onStep?.(piece.step, this);
        if (changed === "hang" || stop.signal.aborted) return;
        const report = {
          loss: fakeLoss(piece.step),
          seconds: 0.25,
          batchHash,
          peakMemoryBytes: 1000 + rank,
        };
        this.send({ step: { jobId, generation, rank, step: piece.step, ...report, ...changed } });
      }
    } catch (error) {
      if (stop.signal.aborted) return;
      throw error;
    }
    const sizes = { peakMemoryBytes: 1000 + rank, rssBytes: 5000, collectiveBytes: 64 * steps };
    this.send({ finished: { jobId, generation, rank, ...sizes } });
  }

  #fail(error: unknown): void {
    const assign = this.#current?.assign;
    if (assign === undefined) return;
    const { jobId, generation, rank } = assign;
    const message = error instanceof Error ? error.message : String(error);
    this.send({ failed: { jobId, generation, rank, code: "INTERNAL", message } });
  }

  async *#shard(stored: number, signal: AbortSignal): AsyncGenerator<{ data: Buffer }, void, void> {
    const { silentShards, shortShardBytes = 0 } = this.#options;
    const current = this.#current;
    const tensor = current?.program.stored[stored];
    if (current === undefined || tensor === undefined)
      throw new Error(`no stored tensor ${stored}`);
    if (silentShards === true) {
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      return;
    }
    const intervals = shardIntervals(
      tensor.globalShape,
      tensor.layout,
      current.program.mesh,
      current.assign.rank,
    );
    const values: number[] = [];
    const visit = (dim: number, index: number): void => {
      const interval = intervals[dim];
      if (interval === undefined) {
        values.push(fakeWeight(index));
        return;
      }
      for (let i = interval.start; i < interval.end; i++)
        visit(dim + 1, index * (tensor.globalShape[dim] ?? 1) + i);
    };
    visit(0, 0);
    const bytes = Buffer.from(new Float32Array(values).buffer);
    // In two pieces cut at an odd place: a reader must not count on boundaries.
    const cut = Math.min(7, bytes.length);
    yield { data: bytes.subarray(0, cut) };
    yield { data: bytes.subarray(cut, bytes.length - shortShardBytes) };
  }
}
