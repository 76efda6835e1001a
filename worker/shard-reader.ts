import type { ServerWritableStream } from "@grpc/grpc-js";
import { CancelledError, FailedPreconditionError, NotFoundError } from "../shared/errors.ts";
import { dtypeBytes } from "../shared/program/program.ts";
import type { ReadShardRequest__Output } from "../shared/rpc/gen/rankmesh/v1/ReadShardRequest.ts";
import type { ReadShardResponse } from "../shared/rpc/gen/rankmesh/v1/ReadShardResponse.ts";
import { toServiceError } from "../shared/rpc/status.ts";
import { MOVE_BYTES } from "./compute/compute-proxy.ts";
import type { RankRunner } from "./rank-runner.ts";

type ReadShardCall = ServerWritableStream<ReadShardRequest__Output, ReadShardResponse>;

/**
 * `CollectiveService.ReadShard`: streams a stored tensor's slice out of the arena, a piece at a time, so that the
 * worker holds no copy of its weights.
 */
export function readShardHandler(currentRunner: () => RankRunner | undefined) {
  return (call: ReadShardCall): void => {
    // A client that went away leaves write callbacks that never come.
    const gone = new Promise<never>((_, reject) => {
      call.once("cancelled", () => reject(new CancelledError("the reader of the shard went away")));
    });
    gone.catch(() => undefined);
    streamShard(call, currentRunner(), gone).then(
      () => call.end(),
      // `destroy` would drop the status.
      (error: unknown) => void call.emit("error", toServiceError(error)),
    );
  };
}

async function streamShard(
  call: ReadShardCall,
  runner: RankRunner | undefined,
  gone: Promise<never>,
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
      await Promise.race([written, gone]);
    });
  }
}
