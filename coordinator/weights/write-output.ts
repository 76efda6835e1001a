import { stat } from "node:fs/promises";
import { credentials } from "@grpc/grpc-js";
import { DataLossError, UnavailableError } from "../../shared/errors.ts";
import { worldSize } from "../../shared/mesh/mesh.ts";
import { type Interval, shardIntervals } from "../../shared/mesh/placement.ts";
import { readStream } from "../../shared/rpc/call.ts";
import { bulkChannelOptions } from "../../shared/rpc/channel.ts";
import type { CollectiveServiceClient } from "../../shared/rpc/gen/rankmesh/v1/CollectiveService.ts";
import type { ReadShardResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/ReadShardResponse.ts";
import { services } from "../../shared/rpc/proto.ts";
import { SafetensorsWriter } from "../../shared/safetensors/writer.ts";
import type { Gang } from "../gang/gang.ts";
import type { WrittenFile } from "../job/job-files.ts";
import type { ProgramOutline } from "../planner.ts";
import { modelForm, type OutputForm } from "./output-form.ts";

/** One rank's slice of one parameter. */
export interface ShardToRead {
  /** Index in Program.stored. */
  readonly stored: number;
  readonly name: string;
  readonly rank: number;
  readonly intervals: readonly Interval[];
}

/** Which slices to read from whom so that each element of each parameter comes once, from the lowest rank that has it. */
export function shardsToRead(program: ProgramOutline): ShardToRead[] {
  const shards: ShardToRead[] = [];
  program.stored.forEach((tensor, stored) => {
    if (tensor.role !== "parameter") return;
    const seen = new Set<string>();
    for (let rank = 0; rank < worldSize(program.mesh); rank++) {
      const intervals = shardIntervals(tensor.globalShape, tensor.layout, program.mesh, rank);
      const key = JSON.stringify(intervals);
      if (seen.has(key)) continue;
      seen.add(key);
      shards.push({ stored, name: tensor.name, rank, intervals });
    }
  });
  return shards;
}

/**
 * Pulls the parameters from the gang's ranks and writes them as one safetensors file, whole or not at all. Ranks are read in
 * parallel, the slices of one rank after another.
 * @param form names and order in the file
 * @throws UnavailableError naming the rank that kept silent for `silenceMs` or was lost; CancelledError when the gang is over
 */
export async function writeOutput(
  path: string,
  gang: Gang,
  silenceMs: number,
  form: OutputForm = modelForm(gang.plan.program),
): Promise<WrittenFile> {
  const { program } = gang.plan;
  const writer = await SafetensorsWriter.create(path, form.specs, form.metadata);
  const { Client } = services().collective;
  const shards = shardsToRead(program);
  const clients: CollectiveServiceClient[] = [];
  const failed = new AbortController();
  const signal = AbortSignal.any([gang.signal, failed.signal]);
  try {
    const perRank = gang.workers.map(async ({ address }, rank) => {
      const mine = shards.filter((shard) => shard.rank === rank);
      if (mine.length === 0) return;
      const client = new Client(address, credentials.createInsecure(), bulkChannelOptions());
      clients.push(client);
      for (const shard of mine) {
        const pieces = readShard(client, gang, shard, silenceMs, signal);
        await form.write(writer, shard.name, shard.intervals, pieces);
      }
    });
    // The first failure stops the others; all are awaited, so that nobody writes to a closed file.
    for (const rank of perRank) rank.catch((error: unknown) => failed.abort(error));
    await Promise.allSettled(perRank);
    await Promise.all(perRank.map(async (rank) => rank)).catch((error: unknown) => {
      throw failed.signal.aborted ? failed.signal.reason : error;
    });
    gang.signal.throwIfAborted();
    await writer.commit();
  } catch (error) {
    await writer.abort();
    throw error;
  } finally {
    for (const client of clients) client.close();
  }
  const { size, mtimeMs } = await stat(path);
  return { path, bytes: size, modifiedMs: mtimeMs };
}

/** The bytes of one shard. */
async function* readShard(
  client: CollectiveServiceClient,
  gang: Gang,
  shard: ShardToRead,
  silenceMs: number,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  const { rank, name, stored, intervals } = shard;
  const { jobId, generation, workers } = gang;
  const who = `rank ${rank} (worker ${workers[rank]?.name})`;
  const wanted = intervals.reduce((bytes, { start, end }) => bytes * (end - start), 4);
  const silent = new AbortController();
  const watchdog = setTimeout(() => silent.abort(), silenceMs);
  let got = 0;
  try {
    const call = client.readShard({ jobId, generation, rank, stored });
    const either = AbortSignal.any([signal, silent.signal]);
    for await (const { data } of readStream<ReadShardResponse__Output>(call, who, either)) {
      got += data.length;
      if (got > wanted) break;
      yield data;
      watchdog.refresh();
    }
  } catch (error) {
    signal.throwIfAborted();
    if (silent.signal.aborted) {
      throw new UnavailableError(
        `${who} sent nothing of ${name} for ${silenceMs / 1000} s; its weights are not written`,
      );
    }
    throw error;
  } finally {
    clearTimeout(watchdog);
  }
  if (got !== wanted) {
    throw new DataLossError(
      `${who} sent ${got > wanted ? "more than" : `${got} of`} the ${wanted} bytes of its part of ${name}`,
    );
  }
}
