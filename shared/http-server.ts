import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Registry } from "prom-client";
import { FailedPreconditionError } from "./errors.ts";
import { formatHostPort, type HostPort } from "./rpc/address.ts";

export interface HttpEndpoint {
  readonly address: HostPort;
  close(): Promise<void>;
}

export interface HttpRoute {
  /** What it serves, for those who ask for something else. */
  readonly serves: string;
  /** Answers a GET or HEAD of `path`, which has no query, and returns true; false: the path is not one of its own. */
  answer(path: string, request: IncomingMessage, response: ServerResponse): boolean;
}

export interface HttpOptions {
  readonly registry: Registry;
  /** Why the daemon cannot serve; undefined while it can. */
  readonly problem: () => string | undefined;
  /** What else it serves, asked in order. */
  readonly routes?: readonly HttpRoute[];
}

/** More are closed as they come: they would take descriptors from the gRPC server of the same process. */
const MAX_CONNECTIONS = 512;

/**
 * Serves `/metrics`, `/healthz` (200, or 503 with the problem) and the given routes. Read-only.
 * @throws FailedPreconditionError when it cannot listen there
 */
export async function serveHttp(at: HostPort, options: HttpOptions): Promise<HttpEndpoint> {
  const { registry, problem, routes = [] } = options;
  const served = ["/metrics", "/healthz", ...routes.map((route) => route.serves)].join(", ");
  const server = createServer((request, response) => {
    const path = (request.url ?? "").split("?", 1)[0] ?? "";
    const answer = (code: number, type: string, body: string): void => {
      response.writeHead(code, { "content-type": type });
      response.end(request.method === "HEAD" ? undefined : body);
    };
    if (request.method !== "GET" && request.method !== "HEAD") {
      response.setHeader("allow", "GET, HEAD");
      answer(405, "text/plain", "only GET and HEAD\n");
    } else if (path === "/metrics") {
      registry.metrics().then(
        (text) => answer(200, registry.contentType, text),
        (error: unknown) => answer(500, "text/plain", `${String(error)}\n`),
      );
    } else if (path === "/healthz") {
      const why = problem();
      if (why === undefined) answer(200, "text/plain", "ok\n");
      else answer(503, "text/plain", `${why}\n`);
    } else if (!routes.some((route) => route.answer(path, request, response))) {
      answer(404, "text/plain", `nothing here; there are ${served}\n`);
    }
  });
  server.headersTimeout = 10_000;
  server.requestTimeout = 10_000;
  server.maxConnections = MAX_CONNECTIONS;
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
