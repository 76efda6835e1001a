import { isIPv6 } from "node:net";
import { InvalidArgumentError } from "../errors.ts";

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/**
 * Reads `host:port` (`127.0.0.1:0`, `worker-1:5000`, `[::1]:5000`).
 * @param path field or flag that holds it, for the error
 * @throws InvalidArgumentError when it is not of that form
 */
export function parseHostPort(text: string, path = ""): HostPort {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\]/]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || !(port <= 65_535)) {
    const message = `${JSON.stringify(text)} is not host:port; write for example 127.0.0.1:50051, or [::1]:50051 for IPv6`;
    throw new InvalidArgumentError([{ path, message }]);
  }
  return { host, port };
}

/** `host:port`, with brackets around an IPv6 address. */
export function formatHostPort({ host, port }: HostPort): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Whether only this machine can reach a server bound to `host`. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}
