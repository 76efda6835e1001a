import { Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { expect } from "chai";
import {
  AlreadyExistsError,
  CancelledError,
  DataLossError,
  DeadlineExceededError,
  FailedPreconditionError,
  InternalError,
  InvalidArgumentError,
  NotFoundError,
  PeerError,
  ResourceExhaustedError,
  UnavailableError,
} from "../../../../shared/errors.ts";
import { fromServiceError, statusCode, toServiceError } from "../../../../shared/rpc/status.ts";

/** What a client of grpc-js would report. */
function failed(code: status, details: string): ServiceError {
  return Object.assign(new Error(`${code} ${details}`), {
    code,
    details,
    metadata: new Metadata(),
  });
}

describe("errors and gRPC statuses", () => {
  const errors = [
    [new InvalidArgumentError("batch 0"), status.INVALID_ARGUMENT],
    [new FailedPreconditionError("4 workers, 2 here"), status.FAILED_PRECONDITION],
    [new ResourceExhaustedError("disk full"), status.RESOURCE_EXHAUSTED],
    [new DeadlineExceededError("planning took more than 25 s"), status.DEADLINE_EXCEEDED],
    [new NotFoundError("no job"), status.NOT_FOUND],
    [new AlreadyExistsError("job j"), status.ALREADY_EXISTS],
    [new CancelledError("by user"), status.CANCELLED],
    [new UnavailableError("closing"), status.UNAVAILABLE],
    [new DataLossError("crc"), status.DATA_LOSS],
    [new InternalError("overlap"), status.INTERNAL],
  ] as const;
  for (const [error, code] of errors) {
    it(`carries ${error.name} as ${status[code]} and back`, () => {
      const sent = toServiceError(error);
      expect(sent.code).to.equal(code).and.equal(statusCode(error));
      const got = fromServiceError(sent, "coordinator");
      expect(got).to.be.instanceOf(error.constructor);
      expect(got.message).to.equal(error.message);
      expect(got.cause).to.equal(sent);
    });
  }

  it("carries every fault with its field path", () => {
    const faults = [
      { path: "mesh.tensorParallel", message: "80 hidden units do not divide by 3" },
      { path: 'plan["w1: x"]', message: "matches no layer;\nnearest: w1" },
    ];
    const got = fromServiceError(toServiceError(new InvalidArgumentError(faults)), "coordinator");
    expect((got as InvalidArgumentError).faults).to.deep.equal(faults);
  });

  for (const code of ["UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "DATA_LOSS"] as const) {
    it(`carries ranks and step of a PeerError with ${code}`, () => {
      const error = new PeerError("rank 2 <- rank 1: gone", { code, rank: 2, peer: 1, step: 7 });
      const got = fromServiceError(toServiceError(error), "worker") as PeerError;
      expect(got).to.be.instanceOf(PeerError);
      expect({ ...got }).to.include({ code, rank: 2, peer: 1, step: 7 });
    });
  }

  it("marks errors that are not ours as internal", () => {
    const sent = toServiceError(new TypeError("x is undefined"));
    expect(sent.code).to.equal(status.INTERNAL);
    expect(fromServiceError(sent, "worker")).to.be.instanceOf(InternalError);
    expect(fromServiceError(sent, "worker").message).to.equal("internal: x is undefined");
  });

  it("keeps a thousand long faults within 8 KiB of metadata and counts those left out", () => {
    const faults = Array.from({ length: 1000 }, (_, i) => ({
      path: `plan[${i}]`,
      message: "\u00e9 ".repeat(5000),
    }));
    const sent = toServiceError(new InvalidArgumentError(faults));
    const binary = sent.metadata.get("rankmesh-faults-bin")[0] as Buffer;
    const sentBytes = encodeURI(sent.details).length + binary.toString("base64").length;
    expect(sentBytes).to.be.below(7_500);
    const got = (fromServiceError(sent, "coordinator") as InvalidArgumentError).faults;
    expect(got[0]?.path).to.equal("plan[0]");
    expect(got.at(-1)?.message).to.equal(
      `and ${1000 - (got.length - 1)} more faults; fix these first`,
    );
  });

  it("sends text that no encoder chokes on", () => {
    const { details } = toServiceError(new NotFoundError(`job "\ud800" 100%`));
    expect(() => encodeURI(details)).not.to.throw();
    expect(details).to.equal('job "\ufffd" 100%');
  });

  const transport = [
    [
      status.UNAVAILABLE,
      "No connection established. Last error: Error: connect ECONNREFUSED 127.0.0.1:1",
      "connection refused; check that it runs",
    ],
    [
      status.UNAVAILABLE,
      "Name resolution failed for target dns:nohost:1",
      "the host name does not resolve",
    ],
    [
      status.UNAVAILABLE,
      "No connection established. Last error: Error: connect EHOSTUNREACH 10.0.0.1:1",
      "the host cannot be reached",
    ],
    [status.UNAVAILABLE, "Connection dropped", "the connection broke"],
    [
      status.INTERNAL,
      "Received RST_STREAM with code 2 (Internal server error)",
      "the connection broke",
    ],
    [
      status.RESOURCE_EXHAUSTED,
      "Received message larger than max (1213486160 vs 4194304)",
      "something else than gRPC answers on this port",
    ],
  ] as const;
  for (const [code, details, message] of transport) {
    it(`says of "${details.slice(0, 60)}" that ${message}`, () => {
      const got = fromServiceError(failed(code, details), "coordinator at h:1");
      expect(got).to.be.instanceOf(UnavailableError);
      expect(got.message)
        .to.match(/^coordinator at h:1: /)
        .and.include(message);
    });
  }

  it("leaves a real message limit a limit", () => {
    const got = fromServiceError(
      failed(status.RESOURCE_EXHAUSTED, "Received message larger than max (5000000 vs 4194304)"),
      "c",
    );
    expect(got).to.be.instanceOf(ResourceExhaustedError);
  });

  it("says whom it waited for when the deadline passed", () => {
    const got = fromServiceError(
      failed(status.DEADLINE_EXCEEDED, "Deadline exceeded after 1.0s"),
      "coordinator at h:1",
    );
    expect(got).to.be.instanceOf(UnavailableError);
    expect(got.message).to.equal(
      "coordinator at h:1 did not answer in time (Deadline exceeded after 1.0s)",
    );
  });

  it("takes no harm from metadata that is not ours", () => {
    const error = failed(status.INVALID_ARGUMENT, "text");
    error.metadata.set("rankmesh-faults-bin", Buffer.from("{broken"));
    expect((fromServiceError(error, "c") as InvalidArgumentError).faults).to.deep.equal([
      { path: "", message: "text" },
    ]);
  });

  it("passes other errors through", () => {
    const error = new RangeError("mine");
    expect(fromServiceError(error, "c")).to.equal(error);
  });
});
