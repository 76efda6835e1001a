import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Registry } from "prom-client";
import { FailedPreconditionError } from "./errors.ts";
import { formatHostPort, type HostPort } from "./rpc/address.ts";

export interface HttpEndpoint {
  readonly address: HostPort;
  close(): Promise<void>;
}

export interface HttpOptions {
  readonly registry: Registry;
  /** Why the daemon cannot serve; undefined while it can. */
  readonly problem: () => string | undefined;
  /** What `/` answers, as JSON; left out: nothing. */
  readonly status?: () => unknown;
}

/**
 * Serves `/metrics`, `/healthz` (200, or 503 with the problem) and `/`, a short status. Read-only.
 * @throws FailedPreconditionError when it cannot listen there
 */
export async function serveHttp(at: HostPort, options: HttpOptions): Promise<HttpEndpoint> {
  const { registry, problem, status } = options;
  const server = createServer((request, response) => {
    const path = (request.url ?? "").split("?", 1)[0];
    const answer = (code: number, type: string, body: string): void => {
      response.writeHead(code, { "content-type": type });
      response.end(request.method === "HEAD" ? undefined : body);
    };
    if (request.method !== "GET" && request.method !== "HEAD") {
      answer(405, "text/plain", "only GET\n");
    } else if (path === "/metrics") {
      registry.metrics().then(
        (text) => answer(200, registry.contentType, text),
        (error: unknown) => answer(500, "text/plain", `${String(error)}\n`),
      );
    } else if (path === "/healthz") {
      const why = problem();
      if (why === undefined) answer(200, "text/plain", "ok\n");
      else answer(503, "text/plain", `${why}\n`);
    } else if (path === "/" && status !== undefined) {
      answer(200, "application/json", `${JSON.stringify(status(), null, 2)}\n`);
    } else answer(404, "text/plain", "see /metrics and /healthz\n");
  });
  server.headersTimeout = 10_000;
  server.requestTimeout = 10_000;
  await listen(server, at);
  // Once listening on TCP, the address is an object.
  const { port } = server.address() as AddressInfo;
  return {
    address: { host: at.host, port },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listen(server: Server, at: HostPort): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (cause: NodeJS.ErrnoException) => {
      const where = formatHostPort(at);
      const why =
        cause.code === "EADDRINUSE"
          ? "the port is in use; stop the other process or choose another port (0 takes a free one)"
          : cause.message;
      reject(new FailedPreconditionError(`cannot listen on ${where} for HTTP: ${why}`, { cause }));
    });
    server.listen(at.port, at.host, () => {
      server.removeAllListeners("error");
      resolve();
    });
  });
}
