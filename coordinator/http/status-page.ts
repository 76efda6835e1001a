import type { IncomingMessage, ServerResponse } from "node:http";
import { hostname } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import type { HttpRoute } from "../../shared/http-server.ts";
import { quote } from "../../shared/quote.ts";
import { formatHostPort, type HostPort } from "../../shared/rpc/address.ts";
import { type Asset, loadAssets } from "./assets.ts";
import { type EventStreamLimits, EventStreams, FOLLOW_EVENTS } from "./event-streams.ts";
import { HostAllowList } from "./host-allow-list.ts";
import type { Snapshots } from "./snapshots.ts";

export interface StatusPageOptions {
  readonly snapshots: Snapshots;
  /** Names under which browsers may ask for the page, beside this machine's own. */
  readonly hostNames: readonly string[];
  readonly logger: Logger;
  readonly limits?: EventStreamLimits;
}

export interface StatusPage {
  readonly route: HttpRoute;
  /** Ends all streams. */
  close(): void;
}

/**
 * On every answer. The page runs its own files and nothing else, talks to this server alone, and no other page may
 * frame or read it; what makes markup out of text is switched off.
 */
const HEADERS: Readonly<Record<string, string>> = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
};

/** Between the pieces of a long log. */
const FOLLOW_REST_MS = 10;

const API = "/api/v1/";
const ASSETS = "/assets/";

/**
 * Serves `/`, `/assets/...` and `/api/v1/...`: the page, and as JSON and server-sent events what it shows. Read-only.
 */
export function statusPage(options: StatusPageOptions): StatusPage {
  const { snapshots, logger } = options;
  const assets = loadAssets();
  const missingFile =
    assets.size > 0
      ? "no such file\n"
      : `the status page was not built; run \`npm run build\`. ${API}status works without it\n`;
  const streams = new EventStreams(snapshots, options.limits);
  const hosts = new HostAllowList([hostname(), ...options.hostNames]);

  const serve = (path: string, request: IncomingMessage, response: ServerResponse): void => {
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
    const { host } = request.headers;
    if (!hosts.allows(host)) {
      const message =
        `this coordinator does not answer to the host name ${quote(host ?? "")}; open it by its address, ` +
        "or start it with `rankmesh coordinator --http-host NAME` (RANKMESH_HTTP_HOST) to allow the name";
      if (path.startsWith(API)) sendError(request, response, 403, "PERMISSION_DENIED", message);
      else send(request, response, 403, "text/plain; charset=utf-8", `${message}\n`);
    } else if (path.startsWith(API)) {
      serveApi(path.slice(API.length), request, response);
    } else {
      const name = path === "/" ? "index.html" : path.slice(ASSETS.length);
      const asset = assets.get(name);
      if (asset === undefined) send(request, response, 404, "text/plain", missingFile);
      else sendAsset(request, response, asset);
    }
  };

  const serveApi = (path: string, request: IncomingMessage, response: ServerResponse): void => {
    const answer = (value: unknown): void => sendJson(request, response, 200, value);
    const [, encoded, what] = /^jobs\/([^/]+)(?:\/(plan))?$/.exec(path) ?? [];
    if (encoded !== undefined) serveJob(encoded, what, request, response);
    else if (path === "status") answer(snapshots.status());
    else if (path === "workers") answer({ workers: snapshots.workers() });
    else if (path === "jobs") answer({ jobs: snapshots.jobs() });
    else if (path === "events") serveEvents(request, response);
    else {
      const known = "status, workers, jobs, jobs/ID, jobs/ID/plan and events";
      sendError(request, response, 404, "NOT_FOUND", `not in the API; it has ${known}`);
    }
  };

  const serveJob = (
    encoded: string,
    what: string | undefined,
    request: IncomingMessage,
    response: ServerResponse,
  ): void => {
    const jobId = decoded(encoded);
    const job = jobId === undefined ? undefined : snapshots.job(jobId);
    if (job === undefined) {
      const message = `no job ${quote(jobId ?? encoded)}; ${API}jobs lists those there are`;
      sendError(request, response, 404, "NOT_FOUND", message);
    } else if (what === "plan") {
      sendJson(request, response, 200, snapshots.plan(job));
    } else {
      const history = snapshots.history(job);
      const details = async (): Promise<void> => {
        while (!history.follow(FOLLOW_EVENTS) && !response.destroyed) await delay(FOLLOW_REST_MS);
        sendJson(request, response, 200, snapshots.details(job));
      };
      details().catch((error: unknown) => fail(request, response, error));
    }
  };

  const serveEvents = (request: IncomingMessage, response: ServerResponse): void => {
    const [, query = ""] = (request.url ?? "").split("?", 2);
    const jobId = new URLSearchParams(query).get("job") ?? undefined;
    if (request.method === "HEAD") {
      send(request, response, 200, "text/event-stream; charset=utf-8", "");
    } else if (streams.hasRoom) {
      streams.open(request, response, jobId);
    } else {
      response.setHeader("retry-after", "10");
      const message = `${streams.size} pages are open already; close some and try again`;
      sendError(request, response, 503, "RESOURCE_EXHAUSTED", message);
    }
  };

  const fail = (request: IncomingMessage, response: ServerResponse, error: unknown): void => {
    logger.error({ err: error, path: request.url?.slice(0, 200) }, "internal: a request failed");
    if (response.headersSent) response.destroy();
    else sendError(request, response, 500, "INTERNAL", "internal: see the coordinator's log");
  };

  return {
    route: {
      serves: `/, ${API}...`,
      answer(path, request, response) {
        if (path !== "/" && !path.startsWith(ASSETS) && !path.startsWith(API)) return false;
        try {
          serve(path, request, response);
        } catch (error) {
          fail(request, response, error);
        }
        return true;
      },
    },
    close: () => streams.close(),
  };
}

/** Where a browser on this machine finds the page of a server bound there. */
export function pageUrl({ host, port }: HostPort): string {
  const isWildcard = host === "0.0.0.0" || host === "::";
  return `http://${formatHostPort({ host: isWildcard ? "127.0.0.1" : host, port })}/`;
}

/** Undefined for what is no percent-encoded text. */
function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

function sendAsset(request: IncomingMessage, response: ServerResponse, asset: Asset): void {
  // Asked for again each time, and then mostly unchanged: a newer coordinator never meets an older page's files.
  response.setHeader("cache-control", "no-cache");
  response.setHeader("etag", asset.etag);
  response.setHeader("vary", "accept-encoding");
  if (request.headers["if-none-match"] === asset.etag) {
    response.writeHead(304).end();
    return;
  }
  const zips = takesGzip(String(request.headers["accept-encoding"] ?? ""));
  if (zips) response.setHeader("content-encoding", "gzip");
  send(request, response, 200, asset.type, zips ? asset.gzipped : asset.body);
}

/** RFC 9110, 12.5.3: a quality of 0 refuses an encoding. */
function takesGzip(acceptEncoding: string): boolean {
  return /\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))/i.test(acceptEncoding);
}

function sendError(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  code: string,
  message: string,
): void {
  sendJson(request, response, status, { error: { code, message } });
}

function sendJson(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  value: unknown,
): void {
  response.setHeader("cache-control", "no-store");
  send(request, response, status, "application/json; charset=utf-8", `${JSON.stringify(value)}\n`);
}

function send(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  type: string,
  body: string | Buffer,
): void {
  if (response.destroyed) return;
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) });
  response.end(request.method === "HEAD" ? undefined : body);
}
