import type { ServerWritableStream } from "@grpc/grpc-js";
import {
  CancelledError,
  FailedPreconditionError,
  NotFoundError,
  UnavailableError,
} from "../shared/errors.ts";
import { dtypeBytes } from "../shared/program/program.ts";
import type { ReadShardRequest__Output } from "../shared/rpc/gen/rankmesh/v1/ReadShardRequest.ts";
import type { ReadShardResponse } from "../shared/rpc/gen/rankmesh/v1/ReadShardResponse.ts";
import { toServiceError } from "../shared/rpc/status.ts";
import { MOVE_BYTES } from "./compute/compute-proxy.ts";
import { Deferred } from "./deferred.ts";
import type { RankRunner } from "./rank-runner.ts";

type ReadShardCall = ServerWritableStream<ReadShardRequest__Output, ReadShardResponse>;

/** A reader that takes nothing for this long is cut off: it would hold what other readers need. */
const SILENCE_MS = 60_000;

/**
 * `CollectiveService.ReadShard`: streams a stored tensor's slice out of the arena, a piece at a time, so that the
 * worker holds no copy of its weights.
 */
export function readShardHandler(currentRunner: () => RankRunner | undefined) {
  return (call: ReadShardCall): void => {
    // What ends a read from outside; a write under way would never call back.
    const cut = new Deferred<never>();
    const runner = currentRunner();
    const onEnded = (): void => cut.reject(new CancelledError("the rank was released"));
    const watchdog = setTimeout(() => {
      cut.reject(new UnavailableError(`nothing of the shard was taken for ${SILENCE_MS / 1000} s`));
    }, SILENCE_MS);
    call.once("cancelled", () => cut.reject(new CancelledError("the reader went away")));
    runner?.ended.addEventListener("abort", onEnded);
    streamShard(call, runner, cut.promise, watchdog)
      .then(
        () => call.end(),
        // `destroy` would drop the status.
        (error: unknown) => void call.emit("error", toServiceError(error)),
      )
      .finally(() => {
        clearTimeout(watchdog);
        runner?.ended.removeEventListener("abort", onEnded);
      });
  };
}

async function streamShard(
  call: ReadShardCall,
  runner: RankRunner | undefined,
  cut: Promise<never>,
  watchdog: NodeJS.Timeout,
): Promise<void> {
  const { jobId, generation, rank, stored } = call.request;
  const held = runner?.assignment;
  if (
    runner === undefined ||
    held?.jobId !== jobId ||
    held.generation !== generation ||
    held.rank !== rank
  ) {
    const has =
      held === undefined
        ? "it serves no job"
        : `it serves rank ${held.rank} of job ${held.jobId}, generation ${held.generation}`;
    throw new NotFoundError(
      `this worker does not serve rank ${rank} of job ${jobId}, generation ${generation}; ${has}`,
    );
  }
  const tensor = held.program.stored[stored];
  const slot = held.program.slots[tensor?.slot ?? -1];
  if (tensor === undefined || slot === undefined) {
    const count = held.program.stored.length;
    throw new NotFoundError(`the program stores tensors 0 to ${count - 1}, not ${stored}`);
  }
  const compute = runner.finishedCompute;
  if (compute === undefined) {
    throw new FailedPreconditionError(
      `rank ${rank} of job ${jobId} is not at its end; its weights can be read from RankFinished until Release`,
    );
  }
  const size = slot.shape.reduce((product, dim) => product * dim, dtypeBytes(slot.dtype));
  for (let offset = 0; offset < size; offset += MOVE_BYTES) {
    const length = Math.min(MOVE_BYTES, size - offset);
    // The buffer is used again once the write's callback has come: the bytes have left by then.
    await compute.read(tensor.slot, offset, length, async (bytes) => {
      const written = new Promise<void>((resolve, reject) => {
        call.write({ data: bytes }, (error: Error | null | undefined) => {
          if (error) reject(error);
          else resolve();
        });
      });
      await Promise.race([written, cut]);
      watchdog.refresh();
    });
  }
}
