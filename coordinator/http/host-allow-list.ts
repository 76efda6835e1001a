import { isIP } from "node:net";

/**
 * Whether a request's Host header names this server. A page elsewhere can make its own name lead to this address (DNS
 * rebinding) and would then read what is served here as its own; such a request carries that name.
 *
 * Allowed are IP addresses, which no name can be rebound to, `localhost`, and the given names.
 * @param names in any case, without port
 */
export class HostAllowList {
  readonly #names: ReadonlySet<string>;

  constructor(names: readonly string[]) {
    this.#names = new Set(names.map(canonical));
  }

  allows(hostHeader: string | undefined): boolean {
    const match = /^(?:\[([^\]]*)\]|([^:]*))(?::\d*)?$/.exec(hostHeader ?? "");
    const [, bracketed, plain] = match ?? [];
    if (bracketed !== undefined) return isIP(bracketed) === 6;
    if (plain === undefined || plain === "") return false;
    const name = canonical(plain);
    return (
      isIP(name) === 4 ||
      name === "localhost" ||
      name.endsWith(".localhost") ||
      this.#names.has(name)
    );
  }
}

function canonical(name: string): string {
  return name.toLowerCase().replace(/\.$/, "");
}
