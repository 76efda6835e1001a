/** One rank of the all-reduce benchmark: a process that talks to its parent over IPC and to its peers over gRPC. */
import { chooseAlgorithm, wireBytes } from "../shared/collective/algorithm.ts";
import type { Collective, Program } from "../shared/program/program.ts";
import { RpcServer } from "../shared/rpc/server.ts";
import { bestSumKernel } from "../worker/collective/best-sum.ts";
import { PeerCollectiveGroup, sourcesOf } from "../worker/collective/collective-group.ts";
import { CollectiveHub } from "../worker/collective/collective-hub.ts";
import { collectiveService } from "../worker/collective/collective-service.ts";
import { GrpcTransport } from "../worker/collective/grpc-transport.ts";

/** What the parent sends: first the task, then the addresses of all ranks. */
export interface RankTask {
  readonly rank: number;
  readonly ranks: number;
  readonly sizes: readonly number[];
  /** Timed repeats per size, in the order of `sizes`. */
  readonly repeats: readonly number[];
  /** In place of what the compiler would choose, to compare. */
  readonly algorithm?: Collective["algorithm"];
  readonly segmentBytes?: number;
}

/** What a rank tells: where it listens, then its times. */
export type RankReport =
  | { readonly kind: "listening"; readonly address: string }
  | {
      readonly kind: "times";
      readonly seconds: readonly (readonly number[])[];
      /** Processor seconds of this rank per repeat, by size: what counts on a machine that others use too. */
      readonly cpuSeconds: readonly number[];
      readonly kernel: string;
    }
  | { readonly kind: "failed"; readonly message: string };

/** Until the code is compiled: as many repeats as move this many bytes, within bounds. */
const WARMUP_BYTES = 64 << 20;
const MIN_WARMUP_REPEATS = 3;
const MAX_WARMUP_REPEATS = 500;

function collectives(task: RankTask): Collective[] {
  const barrier = allReduce(task, 4, "barrier");
  return [barrier, ...task.sizes.map((bytes) => allReduce(task, bytes, `${bytes} bytes`))];
}

function allReduce(task: RankTask, bytes: number, label: string): Collective {
  const chosen = { ...chooseAlgorithm("allReduce", bytes, task.ranks) };
  const algorithm = task.algorithm ?? chosen.algorithm;
  return {
    op: "allReduce",
    axes: [0],
    inputSlot: 0,
    outputSlot: 0,
    dtype: "float32",
    outer: 1,
    chunkElements: bytes / 4,
    algorithm,
    segmentBytes: task.segmentBytes ?? chosen.segmentBytes,
    payloadBytes: bytes,
    wireBytes: wireBytes("allReduce", algorithm, bytes, task.ranks, 4),
    sameInputs: false,
    label,
    from: "P",
    to: "R",
    phase: "forward",
  };
}

async function measure(
  task: RankTask,
  addresses: readonly string[],
  hub: CollectiveHub,
): Promise<RankReport> {
  const { rank, ranks } = task;
  const program: Pick<Program, "mesh" | "collectives"> = {
    mesh: { axes: [{ name: "tensorParallel", size: ranks }] },
    collectives: collectives(task),
  };
  const transport = new GrpcTransport({ jobId: "bench", generation: 1, rank, addresses, hub });
  const { sum, name } = bestSumKernel();
  const group = new PeerCollectiveGroup({ program, rank, transport, sum });
  await transport.connect(sourcesOf(program, rank), 20_000);

  let step = 0;
  const reduce = (index: number, bytes: Uint8Array): Promise<void> => {
    const descriptor = program.collectives[index];
    if (descriptor === undefined) throw new Error(`no collective ${index}`);
    return group.run(
      descriptor,
      { step: step++, microbatch: 0, collective: index },
      { input: bytes, output: bytes },
      0,
    );
  };
  const barrier = new Uint8Array(4);
  const seconds: number[][] = [];
  const cpuSeconds: number[] = [];
  for (const [i, size] of task.sizes.entries()) {
    const values = new Float32Array(size / 4);
    const bytes = new Uint8Array(values.buffer);
    for (let at = 0; at < values.length; at++) values[at] = (at % 97) * (rank + 1);
    await reduce(0, barrier);
    await reduce(i + 1, bytes);
    const sumOfRanks = (ranks * (ranks + 1)) / 2;
    for (let at = 0; at < values.length; at++) {
      if (values[at] === (at % 97) * sumOfRanks) continue;
      throw new Error(`rank ${rank}, ${size} bytes: element ${at} is ${values[at]}`);
    }
    values.fill(0);
    const warmup = Math.min(
      MAX_WARMUP_REPEATS,
      Math.max(MIN_WARMUP_REPEATS, Math.floor(WARMUP_BYTES / size)),
    );
    for (let repeat = 0; repeat < warmup; repeat++) await reduce(i + 1, bytes);
    const times: number[] = [];
    const cpu = process.cpuUsage();
    for (let repeat = 0; repeat < (task.repeats[i] ?? 5); repeat++) {
      await reduce(0, barrier);
      const began = performance.now();
      await reduce(i + 1, bytes);
      times.push((performance.now() - began) / 1000);
    }
    const { user, system } = process.cpuUsage(cpu);
    cpuSeconds.push((user + system) / 1e6 / times.length);
    seconds.push(times);
  }
  await reduce(0, barrier);
  await transport.close();
  return { kind: "times", seconds, cpuSeconds, kernel: name };
}

function report(message: RankReport): void {
  process.send?.(message);
}

const hub = new CollectiveHub();
const server = new RpcServer({
  services: [
    { service: collectiveService(), handlers: { PullFrames: hub.pullFrames, ReadShard: unserved } },
  ],
});
let task: RankTask | undefined;
process.on("message", (message: RankTask | readonly string[]) => {
  if (!isAddresses(message)) {
    task = message;
    server
      .bind({ host: "127.0.0.1", port: 0 })
      .then(({ host, port }) => report({ kind: "listening", address: `${host}:${port}` }), failed);
  } else if (task !== undefined) {
    measure(task, message, hub).then(report, failed);
  }
});
process.on("disconnect", () => process.exit(0));

function unserved(call: { destroy(error: Error): void }): void {
  call.destroy(new Error("a benchmark holds no tensors"));
}

function failed(error: unknown): void {
  report({
    kind: "failed",
    message: error instanceof Error ? (error.stack ?? error.message) : String(error),
  });
}

function isAddresses(message: RankTask | readonly string[]): message is readonly string[] {
  return Array.isArray(message);
}
