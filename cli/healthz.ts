import { get } from "node:http";
import { UnavailableError } from "../shared/errors.ts";
import { formatHostPort, type HostPort } from "../shared/rpc/address.ts";

const TIMEOUT_MS = 3000;
/** Of an answer; what a daemon says of itself is shorter. */
const MAX_LENGTH = 300;
/** Addresses that stand for all of this machine's, which nobody can dial. */
const WILDCARDS: Readonly<Record<string, string>> = { "0.0.0.0": "127.0.0.1", "::": "::1" };

/** Where a server that listens at `address` is reached from the same machine. */
export function dialled({ host, port }: HostPort): HostPort {
  return { host: WILDCARDS[host] ?? host, port };
}

/**
 * Asks a daemon's /healthz. Light on purpose: a container runs this every few seconds.
 * @returns whether it is healthy, and its own words
 * @throws UnavailableError when nobody answers within 3 s, or somebody who is no daemon
 */
export function askHealthz(at: HostPort): Promise<{ healthy: boolean; words: string }> {
  const { host, port } = at;
  const where = `http://${formatHostPort(at)}/healthz`;
  return new Promise((resolve, reject) => {
    const fail = (cause: Error): void =>
      reject(new UnavailableError(`${where}: ${reasonOf(cause)}`, { cause }));
    // The deadline holds for the whole exchange; a socket's own timeout starts anew with each byte.
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const request = get({ host, port, path: "/healthz", agent: false, signal }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("error", fail);
      response.on("data", (part: string) => {
        text = (text + part).slice(0, MAX_LENGTH);
      });
      response.on("end", () => {
        const { statusCode } = response;
        if (statusCode === 200 || statusCode === 503)
          resolve({ healthy: statusCode === 200, words: text.trim() });
        else fail(new Error(`HTTP status ${statusCode}; what listens there is no rankmesh daemon`));
      });
    });
    request.on("error", fail);
  });
}

function reasonOf(error: Error & { readonly code?: unknown }): string {
  if (error.name === "AbortError" || error.name === "TimeoutError")
    return `no answer within ${TIMEOUT_MS} ms`;
  return error.code === "ECONNREFUSED" ? "connection refused" : error.message;
}
