import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Registry } from "prom-client";
import { FailedPreconditionError } from "../shared/errors.ts";
import { formatHostPort, type HostPort } from "../shared/rpc/address.ts";

export interface HttpEndpoint {
  readonly address: HostPort;
  close(): Promise<void>;
}

/**
 * Serves `/metrics` and `/healthz` (200 while `healthy()`, else 503), nothing else.
 * @throws FailedPreconditionError when it cannot listen there
 */
export async function serveHttp(
  at: HostPort,
  registry: Registry,
  healthy: () => boolean,
): Promise<HttpEndpoint> {
  const server = createServer((request, response) => {
    const path = (request.url ?? "").split("?", 1)[0];
    const answer = (status: number, type: string, body: string): void => {
      response.writeHead(status, { "content-type": type });
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
      if (healthy()) answer(200, "text/plain", "ok\n");
      else answer(503, "text/plain", "stopping\n");
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
    server.once("error", (cause) => {
      const where = formatHostPort(at);
      reject(
        new FailedPreconditionError(`cannot listen on ${where} for HTTP: ${cause.message}`, {
          cause,
        }),
      );
    });
    server.listen(at.port, at.host, () => {
      server.removeAllListeners("error");
      resolve();
    });
  });
}
