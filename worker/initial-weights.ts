import { DataLossError, UnavailableError } from "../shared/errors.ts";
import { dtypeBytes } from "../shared/program/program.ts";
import type { RankServiceClient } from "../shared/rpc/gen/rankmesh/v1/RankService.ts";
import { fromServiceError } from "../shared/rpc/status.ts";
import type { Assignment } from "./assignment.ts";
import { MOVE_BYTES } from "./compute/compute-proxy.ts";

/** What takes the bytes: `ComputeProxy` in a worker. */
export interface SlotWriter {
  write(slot: number, offsetBytes: number, bytes: Uint8Array): Promise<void>;
}

/** Nothing for this long is an error. */
const SILENCE_MS = 60_000;

/**
 * Pulls this rank's slice of stored tensor `index` from the coordinator straight into its slot.
 * @throws UnavailableError when the coordinator keeps silent or fails; DataLossError when it sends too little or too much
 */
export async function loadInitialWeights(
  client: RankServiceClient,
  assignment: Assignment,
  index: number,
  writer: SlotWriter,
  signal: AbortSignal,
): Promise<void> {
  const { jobId, generation, rank, program } = assignment;
  const tensor = program.stored[index];
  const slot = program.slots[tensor?.slot ?? -1];
  if (tensor === undefined || slot === undefined) return;
  const wantedBytes = slot.shape.reduce((product, dim) => product * dim, dtypeBytes(slot.dtype));

  signal.throwIfAborted();
  const call = client.readInitialWeights({ jobId, generation, rank, stored: index });
  let silent = false;
  const watchdog = setTimeout(() => {
    silent = true;
    call.cancel();
  }, SILENCE_MS);
  const onAbort = (): void => call.cancel();
  signal.addEventListener("abort", onAbort);
  const writes = new Set<Promise<void>>();
  let offsetBytes = 0;
  try {
    for await (const message of call as AsyncIterable<{ readonly data: Buffer }>) {
      watchdog.refresh();
      if (offsetBytes + message.data.length > wantedBytes) {
        throw new DataLossError(
          `initial weights of ${tensor.name}: more than the ${wantedBytes} bytes of rank ${rank}'s slice came`,
        );
      }
      for (let at = 0; at < message.data.length; at += MOVE_BYTES) {
        const piece = message.data.subarray(at, at + MOVE_BYTES);
        const write = writer
          .write(tensor.slot, offsetBytes, piece)
          .finally(() => writes.delete(write));
        writes.add(write);
        offsetBytes += piece.length;
        if (writes.size >= 4) await Promise.race(writes);
      }
    }
    await Promise.all(writes);
  } catch (error) {
    await Promise.allSettled(writes);
    if (signal.aborted) throw signal.reason;
    if (silent) {
      throw new UnavailableError(
        `coordinator: sent nothing of the initial weights of ${tensor.name} for ${SILENCE_MS / 1000} s`,
      );
    }
    throw fromServiceError(error, `coordinator, asked for the initial weights of ${tensor.name}`);
  } finally {
    clearTimeout(watchdog);
    signal.removeEventListener("abort", onAbort);
    call.cancel();
  }
  if (offsetBytes !== wantedBytes) {
    throw new DataLossError(
      `initial weights of ${tensor.name}: ${offsetBytes} of the ${wantedBytes} bytes of rank ${rank}'s slice came`,
    );
  }
}
