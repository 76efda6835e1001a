import type { ServerDuplexStream, ServerWritableStream } from "@grpc/grpc-js";
import { type Client, credentials } from "@grpc/grpc-js";
import type { Round } from "../../shared/job/rounds.ts";
import type { Program } from "../../shared/program/program.ts";
import { formatHostPort, parseHostPort } from "../../shared/rpc/address.ts";
import type { ReadInitialWeightsRequest__Output } from "../../shared/rpc/gen/rankmesh/v1/ReadInitialWeightsRequest.ts";
import type { ReadInitialWeightsResponse } from "../../shared/rpc/gen/rankmesh/v1/ReadInitialWeightsResponse.ts";
import type { Register__Output } from "../../shared/rpc/gen/rankmesh/v1/Register.ts";
import type { SessionRequest__Output } from "../../shared/rpc/gen/rankmesh/v1/SessionRequest.ts";
import type { SessionResponse } from "../../shared/rpc/gen/rankmesh/v1/SessionResponse.ts";
import type { StreamBatchesRequest__Output } from "../../shared/rpc/gen/rankmesh/v1/StreamBatchesRequest.ts";
import type { StreamBatchesResponse } from "../../shared/rpc/gen/rankmesh/v1/StreamBatchesResponse.ts";
import { services } from "../../shared/rpc/proto.ts";
import { RpcServer } from "../../shared/rpc/server.ts";
import { toServiceError } from "../../shared/rpc/status.ts";
import { tinyBatch } from "./tiny-program.ts";

type SessionCall = ServerDuplexStream<SessionRequest__Output, SessionResponse>;
type MessageKind = Exclude<SessionRequest__Output["message"], undefined>;

export interface FakeCoordinatorOptions {
  /** @default 127.0.0.1:0 */
  readonly listen?: string;
  /** Refuses a registration: what the session ends with. */
  readonly refuse?: (register: Register__Output) => Error | undefined;
  /** Messages of a rank's batch stream. @default the tiny batches of all steps */
  readonly batches?: (
    request: StreamBatchesRequest__Output,
  ) => Iterable<StreamBatchesResponse> | AsyncIterable<StreamBatchesResponse>;
  readonly weights?: (
    request: ReadInitialWeightsRequest__Output,
  ) => Iterable<ReadInitialWeightsResponse>;
  /** @default 0.05 */
  readonly heartbeatSeconds?: number;
}

/** Speaks RankService as a coordinator does, one message at a time as a test says. */
export class FakeCoordinator {
  readonly sessions: FakeSession[] = [];
  readonly address: string;
  readonly #server: RpcServer;

  private constructor(server: RpcServer, address: string) {
    this.#server = server;
    this.address = address;
  }

  static async start(options: FakeCoordinatorOptions = {}): Promise<FakeCoordinator> {
    const sessions: FakeSession[] = [];
    const server = new RpcServer({
      services: [
        {
          service: services().rank,
          handlers: {
            Session: (call: SessionCall) => {
              const session = new FakeSession(call, options);
              sessions.push(session);
            },
            StreamBatches: (
              call: ServerWritableStream<StreamBatchesRequest__Output, StreamBatchesResponse>,
            ) => {
              void sendAll(call, (options.batches ?? (() => tinyBatches(1000)))(call.request));
            },
            ReadInitialWeights: (
              call: ServerWritableStream<
                ReadInitialWeightsRequest__Output,
                ReadInitialWeightsResponse
              >,
            ) => {
              void sendAll(call, (options.weights ?? (() => []))(call.request));
            },
          },
        },
      ],
    });
    const bound = await server.bind(parseHostPort(options.listen ?? "127.0.0.1:0"));
    const coordinator = new FakeCoordinator(server, formatHostPort(bound));
    Object.assign(coordinator, { sessions });
    return coordinator;
  }

  /** The first `count` sessions that have registered, by worker name. */
  async registered(count: number): Promise<FakeSession[]> {
    await until(() => this.live().length >= count, `${count} registered workers`);
    return this.live().sort((a, b) => a.name.localeCompare(b.name));
  }

  live(): FakeSession[] {
    return this.sessions.filter((session) => session.register !== undefined && !session.ended);
  }

  /** Ends at once, as a crash would. */
  async kill(): Promise<void> {
    await this.#server.stop(0);
  }
}

export interface GangOptions {
  readonly steps: number;
  readonly jobId?: string;
  readonly generation?: number;
  readonly seed?: number;
  readonly loadWeights?: boolean;
  readonly collectiveTimeoutSeconds?: number;
  readonly evaluateEvery?: number;
  readonly evaluationBatches?: number;
}

/** Sends every session its assignment, in rank order. */
export function assignGang(
  sessions: readonly FakeSession[],
  program: Program,
  options: GangOptions,
): void {
  for (const rank of sessions.keys()) assignRank(sessions, rank, program, options);
}

export function assignRank(
  sessions: readonly FakeSession[],
  rank: number,
  program: Program,
  options: GangOptions,
): void {
  const peers = sessions.map(({ register }, other) => ({
    rank: other,
    address: register?.address ?? "",
    worker: register?.name ?? "",
  }));
  sessions[rank]?.send({
    assign: {
      jobId: options.jobId ?? "job",
      generation: options.generation ?? 1,
      rank,
      peers,
      programJson: Buffer.from(JSON.stringify(program)),
      steps: options.steps,
      seed: options.seed ?? 3,
      loadWeights: options.loadWeights ?? false,
      predictedPeakMemoryBytes: program.arenaBytes,
      collectiveTimeoutSeconds: options.collectiveTimeoutSeconds ?? 5,
      evaluateEvery: options.evaluateEvery ?? 0,
      evaluationBatches: options.evaluationBatches ?? 0,
    },
  });
}

/** Waits until all ranks are ready, then begins the steps. */
export async function startGang(
  sessions: readonly FakeSession[],
  key = { jobId: "job", generation: 1 },
): Promise<void> {
  await Promise.all(sessions.map((session) => session.next("ready")));
  for (const session of sessions) session.send({ start: key });
}

/** One worker's session, as the coordinator sees it. */
export class FakeSession {
  register: Register__Output | undefined;
  ended = false;
  readonly messages: SessionRequest__Output[] = [];
  readonly #call: SessionCall;
  readonly #seen = new Map<MessageKind, number>();

  constructor(call: SessionCall, options: FakeCoordinatorOptions) {
    this.#call = call;
    call.on("data", (message: SessionRequest__Output) => {
      this.messages.push(message);
      if (message.message === "register" && message.register) {
        const refusal = options.refuse?.(message.register);
        if (refusal !== undefined) {
          call.emit("error", toServiceError(refusal));
          return;
        }
        this.register = message.register;
        const workerId = `id-${message.register.name}`;
        this.send({
          registered: { workerId, heartbeatIntervalSeconds: options.heartbeatSeconds ?? 0.05 },
        });
      } else if (message.message === "heartbeat") this.send({ heartbeat: {} });
    });
    call.on("end", () => {
      this.ended = true;
      call.end();
    });
    call.on("cancelled", () => {
      this.ended = true;
    });
    call.on("error", () => {
      this.ended = true;
    });
  }

  get name(): string {
    return this.register?.name ?? "";
  }

  send(message: SessionResponse): void {
    this.#call.write(message);
  }

  /** Ends the stream with OK, as a coordinator that stops does. */
  end(): void {
    this.#call.end();
  }

  all<K extends MessageKind>(kind: K): NonNullable<SessionRequest__Output[K]>[] {
    return this.messages.flatMap((message) => {
      const value = message.message === kind ? message[kind] : undefined;
      return value ? [value as NonNullable<SessionRequest__Output[K]>] : [];
    });
  }

  /** The next message of a kind that this method has not returned yet. */
  async next<K extends MessageKind>(
    kind: K,
    timeoutMs = 10_000,
  ): Promise<NonNullable<SessionRequest__Output[K]>> {
    const index = this.#seen.get(kind) ?? 0;
    this.#seen.set(kind, index + 1);
    await until(
      () => this.all(kind).length > index,
      `message ${kind} of ${this.name}`,
      timeoutMs,
      () => {
        const failed = this.all("failed")[0];
        return failed === undefined ? "" : `; it reported: ${failed.code} ${failed.message}`;
      },
    );
    return this.all(kind)[index] as NonNullable<SessionRequest__Output[K]>;
  }
}

/** The batches of steps 0..steps-1, each in two pieces. */
export function* tinyBatches(steps: number, rows?: number): Generator<StreamBatchesResponse> {
  for (let step = 0; step < steps; step++) {
    const { bytes, hash } = tinyBatch(step, rows);
    const half = bytes.length / 2;
    yield { step, input: 0, offsetBytes: 0, data: bytes.subarray(0, half) };
    yield {
      step,
      input: 0,
      offsetBytes: half,
      data: bytes.subarray(half),
      endOfStep: true,
      batchHash: hash,
    };
  }
}

/** The batches of these rounds; that of an evaluation's batch b is the tiny batch of step 100 + b. */
export function* tinyRounds(rounds: readonly Round[]): Generator<StreamBatchesResponse> {
  for (const { step, evaluation } of rounds) {
    const { bytes, hash } = tinyBatch(evaluation === undefined ? step : 100 + evaluation);
    const at = evaluation === undefined ? { step } : { step, evaluation };
    yield { ...at, input: 0, offsetBytes: 0, data: bytes, endOfStep: true, batchHash: hash };
  }
}

/** Reads a stored tensor's slice from a worker, as floats. */
export function readShard(
  session: FakeSession,
  stored: number,
  rank: number,
  key = { jobId: "job", generation: 1 },
): Promise<number[]> {
  const client = new (services().collective.Client)(
    session.register?.address ?? "",
    credentials.createInsecure(),
  );
  return new Promise<number[]>((resolve, reject) => {
    const parts: Buffer[] = [];
    const call = client.readShard({ ...key, rank, stored });
    call.on("data", (message: { readonly data: Buffer }) => parts.push(message.data));
    call.on("error", reject);
    call.on("end", () => {
      const bytes = new Uint8Array(Buffer.concat(parts));
      resolve([...new Float32Array(bytes.buffer)]);
    });
  }).finally(() => (client as Client).close());
}

/** Waits for a condition. @throws Error that says what did not come */
export async function until(
  holds: () => boolean,
  what: string,
  timeoutMs = 10_000,
  also: () => string = () => "",
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`no ${what} within ${timeoutMs} ms${also()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function sendAll<T>(
  call:
    | ServerWritableStream<never, T>
    | ServerWritableStream<StreamBatchesRequest__Output, T>
    | ServerWritableStream<ReadInitialWeightsRequest__Output, T>,
  messages: Iterable<T> | AsyncIterable<T>,
): Promise<void> {
  call.on("error", () => undefined);
  let gone = (): void => undefined;
  call.on("cancelled", () => gone());
  for await (const message of messages) {
    if (call.cancelled) return;
    if (!call.write(message)) {
      await new Promise<void>((resolve) => {
        call.once("drain", resolve);
        gone = resolve;
      });
    }
  }
  call.end();
}
