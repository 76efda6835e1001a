import { type AddressInfo, createServer, type Socket } from "node:net";
import { Client, type ClientReadableStream, credentials } from "@grpc/grpc-js";
import { expect } from "chai";
import { PeerError } from "../../../../shared/errors.ts";
import type { Mesh } from "../../../../shared/mesh/mesh.ts";
import type { Collective } from "../../../../shared/program/program.ts";
import { services } from "../../../../shared/rpc/proto.ts";
import { RpcServer } from "../../../../shared/rpc/server.ts";
import { PeerCollectiveGroup, sourcesOf } from "../../../../worker/collective/collective-group.ts";
import { CollectiveHub } from "../../../../worker/collective/collective-hub.ts";
import { collectiveService } from "../../../../worker/collective/collective-service.ts";
import { OutgoingFrame } from "../../../../worker/collective/frame-codec.ts";
import { GrpcTransport } from "../../../../worker/collective/grpc-transport.ts";
import { bytesOf, descriptor, floatsOf, key, lineMesh } from "../../../support/collectives.ts";

interface Host {
  readonly hub: CollectiveHub;
  readonly server: RpcServer;
  readonly address: string;
}

const hosts: Host[] = [];
const transports: GrpcTransport[] = [];

/** A worker's server, without the worker. */
async function startHost(options = {}): Promise<Host> {
  const hub = new CollectiveHub(options);
  const handlers = { PullFrames: hub.pullFrames, ReadShard: () => undefined };
  const server = new RpcServer({ services: [{ service: collectiveService(), handlers }] });
  const { host, port } = await server.bind({ host: "127.0.0.1", port: 0 });
  const started = { hub, server, address: `${host}:${port}` };
  hosts.push(started);
  return started;
}

function open(
  host: Host,
  rank: number,
  addresses: readonly string[],
  generation = 1,
): GrpcTransport {
  const transport = new GrpcTransport({
    jobId: "job-1",
    generation,
    rank,
    addresses,
    hub: host.hub,
  });
  transports.push(transport);
  return transport;
}

const FRAME = {
  step: 0,
  microbatch: 0,
  collective: 0,
  segment: 0,
  batchHash: 0,
  payload: new Uint8Array(4),
};

interface Joined {
  readonly groups: PeerCollectiveGroup[];
  readonly transports: GrpcTransport[];
}

async function joined(mesh: Mesh, collectives: readonly Collective[]): Promise<Joined> {
  const size = mesh.axes.reduce((product, axis) => product * axis.size, 1);
  const started = await Promise.all(Array.from({ length: size }, () => startHost()));
  const addresses = started.map(({ address }) => address);
  const opened = started.map((host, rank) => open(host, rank, addresses));
  const program = { mesh, collectives };
  const groups = opened.map(
    (transport, rank) => new PeerCollectiveGroup({ program, rank, transport, timeoutMs: 5000 }),
  );
  await Promise.all(
    opened.map((transport, rank) => transport.connect(sourcesOf(program, rank), 5000)),
  );
  return { groups, transports: opened };
}

async function failure(promise: Promise<unknown>): Promise<PeerError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof PeerError) return error;
  throw new Error(`no PeerError: ${String(error)}`);
}

describe("gRPC transport", () => {
  afterEach(async () => {
    await Promise.all(transports.splice(0).map((transport) => transport.close()));
    await Promise.all(
      hosts.splice(0).map(({ hub, server }) => {
        hub.close();
        return server.stop(200);
      }),
    );
  });

  for (const size of [2, 3, 4]) {
    it(`carries every op by both algorithms between ${size} ranks, exactly`, async () => {
      const collectives: Collective[] = [];
      for (const algorithm of ["ring", "direct"] as const) {
        for (const chunkElements of [1, 20_000]) {
          const segmentBytes = 32768;
          collectives.push(
            descriptor(size, { op: "allReduce", algorithm, chunkElements, segmentBytes }),
          );
          collectives.push(
            descriptor(size, { op: "reduceScatter", algorithm, chunkElements, segmentBytes }),
          );
          collectives.push(
            descriptor(size, { op: "allGather", algorithm, chunkElements, segmentBytes, outer: 2 }),
          );
        }
      }
      const { groups } = await joined(lineMesh(size), collectives);
      const one = (rank: number) =>
        Promise.all(
          collectives.map(async (collective, index) => {
            const { op, outer, chunkElements } = collective;
            const chunk = outer * chunkElements;
            const full = op === "allReduce" ? chunk : chunk * size;
            const input = bytesOf(
              Array.from({ length: op === "allGather" ? chunk : full }, (_, i) => i + rank),
            );
            const output = new Uint8Array((op === "reduceScatter" ? chunk : full) * 4);
            await groups[rank]?.run(collective, key(index), { input, output }, 0);
            return floatsOf(output);
          }),
        );
      const results = await Promise.all(groups.map((_, rank) => one(rank)));
      const ranksTotal = (size * (size - 1)) / 2;
      results.forEach((outputs, rank) => {
        outputs.forEach((values, index) => {
          const { op = "allReduce", chunkElements = 0 } = collectives[index] ?? {};
          const wrong = values.findIndex((value, i) => {
            if (op === "allReduce") return value !== i * size + ranksTotal;
            if (op === "reduceScatter")
              return value !== (rank * chunkElements + i) * size + ranksTotal;
            const row = Math.floor(i / (size * chunkElements));
            const giver = Math.floor(i / chunkElements) % size;
            return value !== row * chunkElements + (i % chunkElements) + giver;
          });
          expect(wrong, `rank ${rank}, collective ${index}`).to.equal(-1);
        });
      });
      const sent = groups.map((group) => group.sentBytes);
      const allowed = collectives.reduce((sum, { wireBytes }) => sum + wireBytes, 0);
      for (const bytes of sent) expect(bytes).to.be.at.most(allowed);
      expect(sent.reduce((a, b) => a + b)).to.equal(
        groups.reduce((sum, group) => sum + group.receivedBytes, 0),
      );
    });
  }

  it("sends frames that any gRPC client reads with the .proto file", async () => {
    const host = await startHost();
    const transport = open(host, 0, [host.address, "127.0.0.1:1"]);
    const { Client: Generated } = services().collective;
    const client = new Generated(host.address, credentials.createInsecure());
    const call = client.pullFrames({ jobId: "job-1", generation: 1, rank: 1, fromRank: 0 });
    const message = new Promise((resolve, reject) => {
      call.on("data", resolve);
      call.on("error", reject);
    });
    const payload = Uint8Array.of(1, 2, 3, 4);
    await transport.send(1, {
      step: 5,
      microbatch: 1,
      collective: 2,
      segment: 3,
      batchHash: 0xfedcba98,
      payload,
    });
    expect(await message).to.deep.equal({
      generation: 1,
      step: 5,
      microbatch: 1,
      collective: 2,
      segment: 3,
      batchHash: 0xfedcba98,
      payload: Buffer.from(payload),
    });
    call.on("error", () => undefined);
    call.cancel();
    client.close();
  });

  it("lets in a peer that was assigned earlier", async () => {
    const [a, b] = [await startHost(), await startHost()];
    const addresses = [a.address, b.address];
    const first = open(a, 0, addresses);
    const connecting = first.connect([1], 5000);
    await new Promise((resolve) => setTimeout(resolve, 50));
    open(b, 1, addresses);
    await connecting;
  });

  it("finds a peer whose server starts later", async () => {
    const a = await startHost();
    const probe = createServer();
    await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
    const { port } = probe.address() as AddressInfo;
    await new Promise((resolve) => probe.close(resolve));
    const addresses = [a.address, `127.0.0.1:${port}`];
    const connecting = open(a, 0, addresses).connect([1], 8000);
    await new Promise((resolve) => setTimeout(resolve, 150));
    const hub = new CollectiveHub();
    const handlers = { PullFrames: hub.pullFrames, ReadShard: () => undefined };
    const server = new RpcServer({ services: [{ service: collectiveService(), handlers }] });
    await server.bind({ host: "127.0.0.1", port });
    const late = { hub, server, address: addresses[1] ?? "" };
    hosts.push(late);
    open(late, 1, addresses);
    await connecting;
  });

  it("names the peers it does not reach, with their addresses", async () => {
    const host = await startHost();
    const accepted: Socket[] = [];
    const silent = createServer((socket) => accepted.push(socket));
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
    const { port } = silent.address() as AddressInfo;
    const transport = open(host, 0, [host.address, "127.0.0.1:1", `127.0.0.1:${port}`]);
    const error = await failure(transport.connect([1, 2], 400));
    silent.close();
    for (const socket of accepted) socket.destroy();
    expect(error.message).to.contain(
      "rank 0 could not connect within 400 ms to rank 1 at 127.0.0.1:1 (",
    );
    expect(error.message).to.contain("connection refused");
    expect(error.message).to.contain(
      `rank 2 at 127.0.0.1:${port} (no connection, or no gRPC server behind it)`,
    );
    expect([error.code, error.peer]).to.deep.equal(["UNAVAILABLE", 1]);
  });

  it("names a peer that was never assigned", async () => {
    const [a, b] = [await startHost(), await startHost({ assignmentWaitMs: 30 })];
    const transport = open(a, 0, [a.address, b.address]);
    const error = await failure(transport.connect([1], 1000));
    expect(error.message).to.contain("this worker was not assigned to it within 30 ms");
  });

  const refused: readonly [
    string,
    { generation: number; rank: number; fromRank: number },
    string,
  ][] = [
    ["a stale generation", { generation: 1, rank: 1, fromRank: 0 }, "the job is at generation 2"],
    ["another rank than its own", { generation: 2, rank: 1, fromRank: 3 }, "this worker is rank 0"],
    ["a rank past the mesh", { generation: 2, rank: 7, fromRank: 0 }, "the job has ranks 0 to 1"],
    ["itself", { generation: 2, rank: 0, fromRank: 0 }, "the job has ranks 0 to 1"],
  ];
  for (const [name, fields, text] of refused) {
    it(`refuses ${name} with FAILED_PRECONDITION`, async () => {
      const host = await startHost();
      open(host, 0, [host.address, host.address], 2);
      const client = new Client(host.address, credentials.createInsecure());
      const { path, requestSerialize, responseDeserialize } =
        services().collective.definition.PullFrames;
      const request = { jobId: "job-1", ...fields };
      const call: ClientReadableStream<unknown> = client.makeServerStreamRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
      );
      const error = await new Promise<Error>((resolve) => call.on("error", resolve));
      client.close();
      expect(error.message).to.contain("9 FAILED_PRECONDITION").and.contain(text);
    });
  }

  it("names a peer that is reached and not assigned by the deadline", async () => {
    const [a, b] = [await startHost(), await startHost()];
    const error = await failure(open(a, 0, [a.address, b.address]).connect([1], 300));
    expect(error.message).to.contain("it was not assigned to this generation");
  });

  it("refuses at once what asks for a generation that has ended", async () => {
    const [a, b] = [await startHost(), await startHost()];
    const addresses = [a.address, b.address];
    await open(b, 1, addresses).close();
    const began = performance.now();
    const error = await failure(open(a, 0, addresses).connect([1], 5000));
    expect(error.message).to.contain("this generation has ended");
    expect(error.code).to.equal("ABORTED");
    expect(performance.now() - began).to.be.below(2000);
  });

  it("fails a wait at once when the peer's server dies, and sends to it", async () => {
    const collective = descriptor(2, { op: "allReduce", algorithm: "direct", chunkElements: 8 });
    const { groups } = await joined(lineMesh(2), [collective]);
    const buffer = new Uint8Array(32);
    const waiting = failure(
      groups[0]?.run(collective, key(), { input: buffer, output: buffer }, 0) ?? Promise.reject(),
    );
    await hosts[1]?.server.stop(1);
    const error = await waiting;
    expect(error.message).to.contain(
      'rank 0 <- rank 1: stream lost while segment 0 of allReduce "t" (step 0) was awaited',
    );
    expect([error.code, error.peer]).to.deep.equal(["UNAVAILABLE", 1]);
  });

  it("refuses a frame of another generation, naming both", async () => {
    const [a, b] = [await startHost(), await startHost()];
    const transport = open(a, 0, [a.address, b.address]);
    const frames: number[] = [];
    transport.onFrame((_, { segment }) => frames.push(segment));
    const lost = new Promise<Error>((resolve) =>
      transport.onPeerLost((_, cause) => resolve(cause)),
    );
    b.hub.register({
      jobId: "job-1",
      generation: 1,
      rank: 1,
      worldSize: 2,
      accept: (_, call) => {
        call.write(new OutgoingFrame({ ...FRAME, generation: 9 }));
      },
    });
    await transport.connect([1], 5000);
    expect((await lost).message).to.equal(
      "rank 0 <- rank 1: got a frame of generation 9 in generation 1",
    );
    expect(frames).to.deep.equal([]);
  });

  it("gives a rank one stream: a second one replaces it before the first frame and is refused after", async () => {
    const host = await startHost();
    const transport = open(host, 0, [host.address, "127.0.0.1:1"]);
    const { Client: Generated } = services().collective;
    const clients = [0, 1, 2].map(() => new Generated(host.address, credentials.createInsecure()));
    const pull = async (client: (typeof clients)[number] | undefined) => {
      const call = client?.pullFrames({ jobId: "job-1", generation: 1, rank: 1, fromRank: 0 });
      const error = new Promise<Error>((resolve) => call?.on("error", resolve));
      const segments: number[] = [];
      call?.on("data", ({ segment }: { segment: number }) => segments.push(segment));
      await new Promise((resolve) => call?.on("metadata", resolve));
      return { error, segments };
    };
    const first = await pull(clients[0]);
    const second = await pull(clients[1]);
    expect((await first.error).message).to.contain("rank 1 opened another stream");
    await transport.send(1, FRAME);
    const third = await pull(clients[2]);
    expect((await third.error).message).to.contain(
      "rank 1 has a stream of rank 0's frames already",
    );
    await transport.send(1, { ...FRAME, segment: 1 });
    const deadline = performance.now() + 5000;
    while (second.segments.length < 2 && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(second.segments).to.deep.equal([0, 1]);
    for (const client of clients) client.close();
  });

  it("rejects frames for a peer that has closed its stream", async () => {
    const [a, b] = [await startHost(), await startHost()];
    const addresses = [a.address, b.address];
    const [sender, receiver] = [open(a, 0, addresses), open(b, 1, addresses)];
    await receiver.connect([0], 5000);
    await receiver.close();
    const deadline = performance.now() + 5000;
    let error: unknown;
    while (error === undefined && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      error = await sender.send(1, FRAME)?.catch((reason: unknown) => reason);
    }
    expect(error).to.be.instanceOf(PeerError);
    expect((error as PeerError).message).to.equal("rank 0 -> rank 1: rank 1 has closed its stream");
  });

  it("hands over all frames before it tells that a peer has ended", async () => {
    const collective = descriptor(2, {
      op: "allReduce",
      algorithm: "direct",
      chunkElements: 300_000,
      segmentBytes: 65536,
    });
    const { groups, transports: opened } = await joined(lineMesh(2), [collective]);
    const run = async (rank: number): Promise<number> => {
      const buffer = bytesOf(new Float32Array(300_000).fill(rank + 1));
      await groups[rank]?.run(collective, key(), { input: buffer, output: buffer }, 0);
      await opened[rank]?.close();
      return new Float32Array(buffer.buffer).reduce((sum, value) => sum + value, 0);
    };
    expect(await Promise.all([run(0), run(1)])).to.deep.equal([900_000, 900_000]);
  });

  it("stops reading a paused peer, so that its sender feels it, and loses nothing", async () => {
    const [a, b] = [await startHost(), await startHost()];
    const addresses = [a.address, b.address];
    const [sender, receiver] = [open(a, 0, addresses), open(b, 1, addresses)];
    const segments: number[] = [];
    receiver.onFrame((_, { segment }) => segments.push(segment));
    await receiver.connect([0], 5000);
    receiver.pause(0);
    const payload = new Uint8Array(1 << 20);
    let handed = 0;
    const sending = (async () => {
      for (let segment = 0; segment < 64; segment++) {
        await sender.send(1, {
          step: 0,
          microbatch: 0,
          collective: 0,
          segment,
          batchHash: 0,
          payload,
        });
        handed += 1;
      }
    })();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(handed).to.be.below(50);
    receiver.resume(0);
    await sending;
    const deadline = performance.now() + 5000;
    while (segments.length < 64 && performance.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 5));
    expect(segments).to.deep.equal(Array.from({ length: 64 }, (_, i) => i));
  });
});
