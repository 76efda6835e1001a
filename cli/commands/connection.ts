import type { Command } from "commander";
import { DEFAULT_ADDRESS, RankmeshClient } from "../../client/client.ts";
import { UnavailableError } from "../../shared/errors.ts";
import { envOption, hostPort } from "../option-values.ts";

export interface ConnectionOptions {
  readonly address: string;
}

/** `--address` / RANKMESH_ADDRESS. */
export function withAddress(command: Command): Command {
  return command.addOption(
    envOption("--address <host:port>", "the coordinator", "ADDRESS")
      .default(DEFAULT_ADDRESS)
      .argParser(hostPort),
  );
}

/** Runs `body` with a client that is closed behind it; says what to do when nobody answers. */
export async function withClient<T>(
  options: ConnectionOptions,
  body: (client: RankmeshClient) => Promise<T>,
): Promise<T> {
  const client = new RankmeshClient({ address: options.address });
  try {
    return await body(client);
  } catch (error) {
    if (!(error instanceof UnavailableError)) throw error;
    throw new UnavailableError(
      `${error.message}\n  start one with "rankmesh coordinator", or name another with --address or RANKMESH_ADDRESS`,
      { cause: error.cause },
    );
  } finally {
    client.close();
  }
}
