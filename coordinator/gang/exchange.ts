import type { WorkerInfo } from "./worker-registry.ts";

/** How the ranks of a gang exchange. */
export interface ExchangeChoice {
  /** Over NCCL of this version, from device to device; undefined: over gRPC, from worker to worker. */
  readonly ncclVersion: string | undefined;
  /** For people, where there was a choice. */
  readonly note: string | undefined;
}

/**
 * NCCL where every rank has it in the same version, and a device of its own; else the gRPC ring, which any ranks can take.
 * @param workers of the ranks, in rank order
 */
export function chooseExchange(workers: readonly WorkerInfo[]): ExchangeChoice {
  const [first] = workers;
  const offers = workers.some(({ ncclVersion }) => ncclVersion !== undefined);
  if (first === undefined || workers.length < 2 || !offers) {
    return { ncclVersion: undefined, note: undefined };
  }
  const against = obstacle(workers, first);
  if (against !== undefined) {
    return { ncclVersion: undefined, note: `collectives run over gRPC, not NCCL: ${against}` };
  }
  const { ncclVersion } = first;
  return { ncclVersion, note: `collectives run on the ranks' devices, over NCCL ${ncclVersion}` };
}

function obstacle(workers: readonly WorkerInfo[], first: WorkerInfo): string | undefined {
  const byUuid = new Map<string, number>();
  for (const [rank, { name, backend, ncclVersion, deviceUuid }] of workers.entries()) {
    const who = `rank ${rank} (worker ${name}, ${backend})`;
    if (ncclVersion === undefined) return `${who} has none`;
    if (ncclVersion !== first.ncclVersion) {
      return `${who} has version ${ncclVersion}, rank 0 has ${first.ncclVersion}`;
    }
    if (backend !== first.backend) return `${who} is unlike rank 0 (${first.backend})`;
    if (deviceUuid === undefined) return `${who} does not name its device`;
    const other = byUuid.get(deviceUuid);
    if (other !== undefined) return `ranks ${other} and ${rank} share ${deviceUuid}`;
    byUuid.set(deviceUuid, rank);
  }
  return undefined;
}
