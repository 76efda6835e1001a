import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { expect } from "chai";
import { protoPath as healthProtoPath } from "grpc-health-check";
import {
  FailedPreconditionError,
  InvalidArgumentError,
  ResourceExhaustedError,
} from "../../../../shared/errors.ts";
import { formatHostPort, type HostPort } from "../../../../shared/rpc/address.ts";
import { callUnary, readStream } from "../../../../shared/rpc/call.ts";
import { controlChannelOptions } from "../../../../shared/rpc/channel.ts";
import type { TrainingServiceClient } from "../../../../shared/rpc/gen/rankmesh/v1/TrainingService.ts";
import { serverStreaming, unary } from "../../../../shared/rpc/handlers.ts";
import { services } from "../../../../shared/rpc/proto.ts";
import { RpcServer } from "../../../../shared/rpc/server.ts";
import { caught } from "../../../support/caught.ts";
import { collectGarbage } from "../../../support/garbage.ts";

const LOCAL = { host: "127.0.0.1", port: 0 };

/** Resolves when `condition` holds; the deadline names what was waited for. */
async function eventually(what: string, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 5_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`${what} did not happen within 5 s`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe("RpcServer", () => {
  const log: string[] = [];
  let server: RpcServer;
  let bound: HostPort;
  let client: TrainingServiceClient;
  let written = 0;
  const made: WeakRef<object>[] = [];

  const handlers: grpc.UntypedServiceImplementation = {
    SubmitJob: unary((request: { spec: { name?: string } | null }) => {
      if (request.spec?.name === "bad")
        throw new InvalidArgumentError([{ path: "name", message: "is bad" }]);
      return { job: { jobId: "j", loss: [1, Number.NaN] } };
    }),
    GetJob: unary(async (_request: unknown, { signal }) => {
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      log.push("get cancelled");
      return {};
    }),
    PlanJob: unary(() => ({})),
    ListJobs: unary(() => ({})),
    CancelJob: unary(() => ({})),
    ListWorkers: unary(() => ({})),
    WatchJob: serverStreaming(async function* (request: { jobId?: string }, { signal }) {
      for (let eventId = 1; request.jobId === "long"; eventId++) {
        const event = { eventId, step: { step: eventId } };
        made.push(new WeakRef(event));
        yield event;
      }
      yield { eventId: 1, step: { step: 0, loss: Number.POSITIVE_INFINITY } };
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      log.push("watch cancelled");
    }),
    DownloadWeights: serverStreaming(async function* () {
      for (written = 0; written < 400; written++) yield { data: Buffer.alloc(1 << 18) };
      throw new FailedPreconditionError("no more");
    }),
    PushBatches: (_call: unknown, done: grpc.sendUnaryData<unknown>) => done(null, {}),
  };

  beforeEach(async () => {
    log.length = 0;
    server = new RpcServer({
      services: [{ service: services().training, handlers }],
      maxReceiveMessageBytes: 1 << 20,
    });
    bound = await server.bind(LOCAL);
    client = new (services().training.Client)(
      formatHostPort(bound),
      grpc.credentials.createInsecure(),
      {
        ...controlChannelOptions(),
        "grpc.max_send_message_length": -1,
      },
    );
  });

  afterEach(async () => {
    client.close();
    await server.stop(100);
  });

  const submit = (spec: { name: string }): Promise<unknown> =>
    callUnary((options, done) => client.submitJob({ spec }, options, done), {
      target: "coordinator",
    });

  it("answers with defaults filled in and NaN kept", async () => {
    const reply = await submit({ name: "good" });
    expect(reply).to.have.nested.property("job.jobId", "j");
    expect(reply).to.have.nested.property("job.state", "JOB_STATE_UNSPECIFIED");
    expect(reply).to.have.deep.nested.property("job.loss", [1, Number.NaN]);
  });

  it("sends a handler's error as its class", async () => {
    const error = await caught(submit({ name: "bad" }));
    expect(error).to.be.instanceOf(InvalidArgumentError);
    expect((error as InvalidArgumentError).faults).to.deep.equal([
      { path: "name", message: "is bad" },
    ]);
  });

  it("refuses a message past the limit and goes on serving", async () => {
    const error = await caught(submit({ name: "x".repeat(2 << 20) }));
    expect(error).to.be.instanceOf(ResourceExhaustedError);
    await submit({ name: "good" });
  });

  it("says which port is in use", async () => {
    const other = new RpcServer({ services: [] });
    const error = await caught(other.bind(bound));
    expect(error).to.be.instanceOf(FailedPreconditionError);
    expect(error.message).to.equal(
      `cannot listen on 127.0.0.1:${bound.port}: the port is in use; stop the other process or choose another port (0 takes a free one)`,
    );
    await other.stop(100);
  });

  it("says that a host is not of this machine", async () => {
    const other = new RpcServer({ services: [] });
    // TEST-NET-3: no machine has it.
    const error = await caught(other.bind({ host: "203.0.113.7", port: 0 }));
    expect(error.message).to.equal(
      "cannot listen on 203.0.113.7:0: 203.0.113.7 is not an address of this machine",
    );
    await other.stop(100);
  });

  it("tells a handler that its client cancelled", async () => {
    const abort = new AbortController();
    const call = callUnary((options, done) => client.getJob({}, options, done), {
      target: "c",
      signal: abort.signal,
    });
    setTimeout(() => abort.abort(), 20);
    expect((await caught(call)).name).to.equal("CancelledError");
    await eventually("the handler's end", () => log.includes("get cancelled"));
  });

  it("ends a unary call at its deadline and names the target", async () => {
    const call = callUnary((options, done) => client.getJob({}, options, done), {
      target: "coordinator",
      timeoutMs: 50,
    });
    expect((await caught(call)).message).to.match(/^coordinator did not answer in time/);
  });

  it("streams, and stops the generator when the reader leaves", async () => {
    for await (const event of readStream(client.watchJob({}), "coordinator")) {
      expect(event.step?.loss).to.equal(Number.POSITIVE_INFINITY);
      break;
    }
    await eventually("the generator's end", () => log.includes("watch cancelled"));
  });

  it("makes no more of a stream than its reader takes, then sends its error", async () => {
    const stream = readStream(client.downloadWeights({}), "coordinator");
    await stream.next();
    await new Promise((resolve) => setTimeout(resolve, 100));
    // 100 MiB would be made by now without backpressure.
    expect(written).to.be.below(100);
    const error = await caught(
      (async () => {
        for await (const { data } of stream) expect(data).to.have.length(1 << 18);
      })(),
    );
    expect(error).to.be.instanceOf(FailedPreconditionError);
    expect(error.message).to.equal("no more");
    expect(written).to.equal(400);
  });

  it("keeps no message of a stream that it has sent", async () => {
    made.length = 0;
    const stream = readStream(client.watchJob({ jobId: "long" }), "coordinator");
    for (let i = 0; i < 1000; i++) await stream.next();
    await collectGarbage();
    const read = made.slice(0, 900);
    expect(read.filter((one) => one.deref() !== undefined)).to.have.length.below(50);
    await stream.return();
  });

  it("stops within the grace time although a client still listens", async () => {
    const stream = readStream(client.watchJob({}), "coordinator");
    await stream.next();
    const start = performance.now();
    await server.stop(50);
    expect(performance.now() - start).to.be.below(2_000);
    expect((await caught(stream.next())).name).to.match(/UnavailableError|CancelledError/);
    await eventually("the generator's end", () => log.includes("watch cancelled"));
  });

  it("reports its health, for itself and each service", async () => {
    const health = grpc.loadPackageDefinition(
      loadSync(healthProtoPath, { enums: String }),
    ) as unknown as {
      grpc: { health: { v1: { Health: grpc.ServiceClientConstructor } } };
    };
    const checker = new health.grpc.health.v1.Health(
      formatHostPort(bound),
      grpc.credentials.createInsecure(),
    );
    const check = (service: string): Promise<unknown> =>
      callUnary(
        (options, done) =>
          checker.makeUnaryRequest<object, unknown>(
            "/grpc.health.v1.Health/Check",
            (value) =>
              health.grpc.health.v1.Health.service["Check"]?.requestSerialize(value) ??
              Buffer.alloc(0),
            (bytes): unknown =>
              health.grpc.health.v1.Health.service["Check"]?.responseDeserialize(bytes),
            { service },
            options,
            done,
          ),
        { target: "health" },
      );
    expect(await check("")).to.deep.equal({ status: "SERVING" });
    expect(await check("rankmesh.v1.TrainingService")).to.deep.equal({ status: "SERVING" });
    server.setServing(false);
    expect(await check("")).to.deep.equal({ status: "NOT_SERVING" });
    expect((await caught(check("rankmesh.v1.RankService"))).name).to.equal("NotFoundError");
    checker.close();
  });

  for (const version of ["v1", "v1alpha"]) {
    it(`describes its services through reflection ${version}, with all that they import`, async () => {
      const ask = reflectionClient(bound, version);
      const list = await ask({ listServices: "*" });
      expect(list.listServicesResponse?.service.map(({ name }) => name)).to.have.members([
        "rankmesh.v1.TrainingService",
        "grpc.health.v1.Health",
      ]);
      const files = async (request: object): Promise<(string | undefined)[]> =>
        ((await ask(request)).fileDescriptorResponse?.fileDescriptorProto ?? []).map(fileName);
      expect(await files({ fileContainingSymbol: "rankmesh.v1.TrainingService" })).to.have.members([
        "rankmesh/v1/training_service.proto",
        "rankmesh/v1/job_spec.proto",
        "google/protobuf/timestamp.proto",
        "google/protobuf/struct.proto",
      ]);
      expect(await files({ fileByFilename: "google/protobuf/struct.proto" })).to.deep.equal([
        "google/protobuf/struct.proto",
      ]);
      expect(await files({ fileContainingSymbol: "grpc.health.v1.Health" })).to.deep.equal([
        "grpc/health/v1/health.proto",
      ]);
      expect(
        (await ask({ fileContainingSymbol: "no.such.Thing" })).errorResponse?.errorCode,
      ).to.equal(grpc.status.NOT_FOUND);
    });
  }
});

interface ReflectionReply {
  readonly listServicesResponse?: { readonly service: readonly { readonly name: string }[] };
  readonly fileDescriptorResponse?: { readonly fileDescriptorProto: readonly Buffer[] };
  readonly errorResponse?: { readonly errorCode: number };
}

/** Asks one question on a stream of its own. */
function reflectionClient(
  address: HostPort,
  version: string,
): (request: object) => Promise<ReflectionReply> {
  const folder = dirname(createRequire(import.meta.url).resolve("@grpc/reflection/package.json"));
  const proto = join(folder, `build/proto/grpc/reflection/${version}/reflection.proto`);
  const definition = loadSync(proto)[
    `grpc.reflection.${version}.ServerReflection`
  ] as grpc.ServiceDefinition;
  const Client = grpc.makeGenericClientConstructor(definition, "ServerReflection");
  return async (request) => {
    const client = new Client(formatHostPort(address), grpc.credentials.createInsecure());
    const method = definition["ServerReflectionInfo"];
    if (method === undefined) throw new Error("reflection has no ServerReflectionInfo");
    const call = client.makeBidiStreamRequest(
      method.path,
      method.requestSerialize,
      (bytes) => method.responseDeserialize(bytes) as ReflectionReply,
    );
    call.write(request);
    call.end();
    try {
      for await (const reply of call) return reply as ReflectionReply;
      throw new Error("reflection ended without a reply");
    } finally {
      client.close();
    }
  };
}

/** A FileDescriptorProto begins with its name: tag, length (below 128), text. */
function fileName(descriptor: Buffer): string {
  return descriptor.subarray(2, 2 + (descriptor[1] ?? 0)).toString();
}
