import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { expect } from "chai";
import { askHealthz, dialled } from "../../cli/healthz.ts";
import { UnavailableError } from "../../shared/errors.ts";
import { caught } from "../support/caught.ts";
import { runCli } from "../support/cli.ts";

describe("doctor --health", () => {
  let server: Server;
  let port = 0;
  /** What the daemon says; undefined: nothing, ever. */
  let answer: { readonly code: number; readonly body: string } | undefined;
  const asked: (string | undefined)[] = [];

  before(async () => {
    server = createServer((request, response) => {
      asked.push(request.url);
      if (answer === undefined) response.flushHeaders();
      else response.writeHead(answer.code).end(answer.body);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    port = (server.address() as AddressInfo).port;
  });

  after(() => {
    server.closeAllConnections();
    server.close();
  });

  it("asks /healthz of the daemon at RANKMESH_HTTP by loopback where it listens everywhere", async () => {
    answer = { code: 200, body: "ok\n" };
    asked.length = 0;
    const env = { RANKMESH_HTTP: `0.0.0.0:${port}`, RANKMESH_ADDRESS: "127.0.0.1:1" };
    const { code, stdout } = await runCli(["doctor", "--health"], { env });
    expect(stdout).to.equal(`ok    health: 127.0.0.1:${port} says "ok"\n`);
    expect(code).to.equal(0);
    expect(asked).to.deep.equal(["/healthz"]);
  });

  it("exits with 1 and the daemon's reason when it is not well", async () => {
    answer = { code: 503, body: "the device was lost\n" };
    const { code, stdout } = await runCli(["doctor", "--health", "--http", `127.0.0.1:${port}`]);
    expect(stdout).to.equal(`FAIL  health: 127.0.0.1:${port} says "the device was lost"\n`);
    expect(code).to.equal(1);
  });

  it("exits with 1 when nobody listens, and says what to do", async () => {
    const { code, stdout } = await runCli(["doctor", "--health", "--http", "127.0.0.1:1"]);
    expect(stdout).to.match(
      /^FAIL {2}health: http:\/\/127\.0\.0\.1:1\/healthz: connection refused/,
    );
    expect(stdout).to.include("start the daemon, or name");
    expect(code).to.equal(1);
  });

  it("waits 3 s for a daemon that has begun to answer, and no longer", async () => {
    answer = undefined;
    const start = performance.now();
    const error = await caught(askHealthz({ host: "127.0.0.1", port }));
    expect(error).to.be.instanceOf(UnavailableError);
    expect(String(error)).to.include(`http://127.0.0.1:${port}/healthz: no answer within 3000 ms`);
    expect(performance.now() - start).to.be.above(2500);
  });

  it("takes what says neither 200 nor 503 for no daemon, and says what it said", async () => {
    answer = { code: 404, body: "" };
    const error = await caught(askHealthz({ host: "127.0.0.1", port }));
    expect(error).to.be.instanceOf(UnavailableError);
    expect(String(error)).to.include(`http://127.0.0.1:${port}/healthz: HTTP status 404; what`);
  });

  it("keeps no more than the beginning of a long answer", async () => {
    answer = { code: 200, body: "x".repeat(100_000) };
    const { healthy, words } = await askHealthz({ host: "127.0.0.1", port });
    expect(healthy).to.equal(true);
    expect(words).to.equal("x".repeat(300));
  });

  it("dials loopback in place of every address", () => {
    expect(dialled({ host: "0.0.0.0", port: 1 })).to.deep.equal({ host: "127.0.0.1", port: 1 });
    expect(dialled({ host: "::", port: 2 })).to.deep.equal({ host: "::1", port: 2 });
    expect(dialled({ host: "192.0.2.1", port: 3 })).to.deep.equal({ host: "192.0.2.1", port: 3 });
  });
});
