import { connect } from "node:net";
import { UnavailableError } from "../../shared/errors.ts";
import { parseHostPort } from "../../shared/rpc/address.ts";

/**
 * Dials a worker back at the address it advertises: one that peers could never reach is told so when it joins, not when the
 * first job fails.
 * @throws UnavailableError when nothing answers within `timeoutMs`
 */
export async function requireReachable(
  name: string,
  address: string,
  timeoutMs: number,
): Promise<void> {
  const { host, port } = parseHostPort(address, "address");
  const problem = await new Promise<string | undefined>((resolve) => {
    const socket = connect({ host, port });
    const settle = (result: string | undefined): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(result);
    };
    const timer = setTimeout(() => settle(`no answer within ${timeoutMs / 1000} s`), timeoutMs);
    socket.once("connect", () => settle(undefined));
    socket.once("error", (error: NodeJS.ErrnoException) => settle(reasonOf(error)));
  });
  if (problem === undefined) return;
  throw new UnavailableError(
    `the coordinator cannot reach worker ${JSON.stringify(name)} at ${address}: ${problem}; give the worker an --advertise address that its peers can reach`,
  );
}

/** In words: a client would take the system's code in a text for the state of its own connection. */
function reasonOf(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case "ECONNREFUSED":
      return "nothing listens there";
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return "the name has no address here";
    case "EHOSTUNREACH":
    case "ENETUNREACH":
      return "there is no route to it";
    default:
      return `it cannot be dialled (${error.code?.toLowerCase() ?? "unknown reason"})`;
  }
}
