import { credentials, makeGenericClientConstructor } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { protoPath } from "grpc-health-check";
import { InternalError } from "../shared/errors.ts";
import { callUnary } from "../shared/rpc/call.ts";
import { controlChannelOptions } from "../shared/rpc/channel.ts";
import { HEALTH_SERVICE } from "../shared/rpc/reflection.ts";

const TIMEOUT_MS = 5000;

/**
 * Asks a daemon for its health as a whole.
 * @returns `SERVING` or `NOT_SERVING`
 * @throws UnavailableError when nobody answers
 */
export async function checkHealth(address: string): Promise<string> {
  const definition = loadSync(protoPath, { enums: String })[HEALTH_SERVICE];
  const check = definition !== undefined && "Check" in definition ? definition["Check"] : undefined;
  if (check === undefined || typeof check !== "object" || !("requestSerialize" in check)) {
    throw new InternalError("the health protocol defines no Check");
  }
  const Client = makeGenericClientConstructor({ Check: check }, HEALTH_SERVICE);
  const client = new Client(address, credentials.createInsecure(), controlChannelOptions());
  try {
    const response = await callUnary<{ readonly status: string }>(
      (options, done) =>
        client.makeUnaryRequest(
          check.path,
          check.requestSerialize,
          // The protocol's message, as the loader's options give it.
          check.responseDeserialize as (bytes: Buffer) => { readonly status: string },
          {},
          options,
          done,
        ),
      { target: `daemon at ${address}`, timeoutMs: TIMEOUT_MS },
    );
    return response.status;
  } finally {
    client.close();
  }
}
