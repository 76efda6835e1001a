import type { ClientWritableStream } from "@grpc/grpc-js";
import { InvalidArgumentError } from "../shared/errors.ts";
import { RepeatedRace } from "../shared/repeated-race.ts";
import type { PushBatchesRequest } from "../shared/rpc/gen/rankmesh/v1/PushBatchesRequest.ts";
import type { TensorData } from "../shared/rpc/gen/rankmesh/v1/TensorData.ts";
import { fromServiceError } from "../shared/rpc/status.ts";

/** One input of a batch, row-major. */
export interface BatchTensor {
  readonly data: Float32Array | Int32Array;
  /** [batch size, ...] */
  readonly dims: readonly number[];
}

/** One global batch: a tensor for each of the model's inputs (and `y` for a loss with targets). */
export type Batch = Readonly<Record<string, BatchTensor>>;

export type BatchSource = AsyncIterable<Batch> | Iterable<Batch>;

export type OpenPush = (
  callback: (error: Error | null, response?: { batches: number }) => void,
) => ClientWritableStream<PushBatchesRequest>;

/**
 * Sends one message a batch, and asks the source for the next one only when the last has left for the network.
 * @returns number of batches that the coordinator took
 */
export async function pushBatches(
  open: OpenPush,
  jobId: string,
  source: BatchSource,
  target: string,
  signal: AbortSignal | undefined,
): Promise<number> {
  signal?.throwIfAborted();
  const call = openCall(open);
  const cancel = () => call.stream.cancel();
  signal?.addEventListener("abort", cancel);
  const iterator =
    Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  const ended = new RepeatedRace(call.ended);
  let exhausted = false;
  try {
    for (let first = true; ; first = false) {
      // The call may end (job cancelled, server gone) while the source is still making its batch.
      const next = await ended.against(iterator.next());
      if (next.done === true) break;
      const tensors = Object.entries(next.value).map(([name, tensor]) => encode(name, tensor));
      await ended.against(call.write({ ...(first ? { jobId } : {}), tensors }));
    }
    exhausted = true;
    call.stream.end();
    return await call.answer;
  } catch (error) {
    call.stream.cancel();
    throw signal?.aborted ? signal.reason : fromServiceError(error, target);
  } finally {
    signal?.removeEventListener("abort", cancel);
    if (!exhausted) {
      // Not awaited: a source that hangs must not hold the error back.
      void Promise.resolve(iterator.return?.()).catch(() => {});
    }
  }
}

interface PushCall {
  readonly stream: ClientWritableStream<PushBatchesRequest>;
  /** Fulfilled with the server's count. */
  readonly answer: Promise<number>;
  /** Rejects when the call fails; fulfilled as "no more batches" when the server has had enough. */
  readonly ended: Promise<{ readonly done: true }>;
  write(message: PushBatchesRequest): Promise<void>;
}

function openCall(open: OpenPush): PushCall {
  let settle: (error: Error | null, response?: { batches: number }) => void = () => {};
  const answer = new Promise<number>((resolve, reject) => {
    settle = (error, response) =>
      error === null ? resolve(response?.batches ?? 0) : reject(error);
  });
  const ended = answer.then(() => ({ done: true }) as const);
  ended.catch(() => {}); // Reported through the race or through `answer`.
  answer.catch(() => {});
  const stream = open((error, response) => settle(error, response));
  stream.on("error", () => {}); // The callback says the same.
  return {
    stream,
    answer,
    ended,
    write: (message) =>
      new Promise<void>((resolve, reject) => {
        stream.write(message, (error: Error | null | undefined) =>
          error ? reject(error) : resolve(),
        );
      }),
  };
}

function encode(name: string, tensor: BatchTensor): TensorData {
  const { data, dims } = tensor;
  const elements = dims.reduce((product, dim) => product * dim, 1);
  if (elements !== data.length) {
    throw new InvalidArgumentError([
      {
        path: name,
        message: `dims [${dims.join(", ")}] hold ${elements} elements, but data has ${data.length}`,
      },
    ]);
  }
  return {
    name,
    dtype: data instanceof Int32Array ? "int32" : "float32",
    dims: [...dims],
    // Little-endian on the wire, as on every platform that Node runs on. Encoding copies the bytes.
    data: Buffer.from(data.buffer, data.byteOffset, data.byteLength),
  };
}
