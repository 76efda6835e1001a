import { isIPv6 } from "node:net";
import {
  type ChannelOptions,
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { HealthImplementation, type ServingStatusMap } from "grpc-health-check";
import { FailedPreconditionError } from "../errors.ts";
import { formatHostPort, type HostPort } from "./address.ts";
import { BULK_MESSAGE_LIMIT_BYTES, REPLY_LIMIT_BYTES } from "./channel.ts";
import { addReflection } from "./reflection.ts";

/** One service and what answers its calls. */
export interface ServedService {
  readonly service: { readonly name: string; readonly definition: ServiceDefinition };
  readonly handlers: UntypedServiceImplementation;
}

export interface RpcServerOptions {
  readonly services: readonly ServedService[];
  /**
   * Largest message taken, bytes; a larger one ends its call with RESOURCE_EXHAUSTED, others go on.
   * @default BULK_MESSAGE_LIMIT_BYTES
   */
  readonly maxReceiveMessageBytes?: number;
}

/** A gRPC server with health and reflection on. Starts as NOT_SERVING; `bind` makes it SERVING. */
export class RpcServer {
  readonly #server: Server;
  readonly #health: HealthImplementation;
  readonly #serviceNames: readonly string[];
  #stopping: Promise<void> | undefined;

  constructor(options: RpcServerOptions) {
    this.#serviceNames = options.services.map(({ service }) => service.name);
    this.#server = new Server(serverChannelOptions(options.maxReceiveMessageBytes));
    for (const { service, handlers } of options.services) {
      this.#server.addService(service.definition, handlers);
    }
    // "" stands for the server as a whole.
    const statuses: ServingStatusMap = { "": "NOT_SERVING" };
    for (const name of this.#serviceNames) statuses[name] = "NOT_SERVING";
    this.#health = new HealthImplementation(statuses);
    this.#health.addToServer(this.#server);
    addReflection(this.#server, this.#serviceNames);
  }

  /**
   * Listens, and reports SERVING.
   * @returns the address bound to: port 0 takes a free one
   * @throws FailedPreconditionError when the port is taken or the host is not this machine's
   */
  async bind({ host, port }: HostPort): Promise<HostPort> {
    const target = formatHostPort({ host, port });
    const bound = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(target, ServerCredentials.createInsecure(), (error, boundPort) => {
        if (error === null) resolve(boundPort);
        else reject(bindError(target, error));
      });
    });
    this.setServing(true);
    return { host, port: bound };
  }

  /** What health checks are told. A stopping server tells NOT_SERVING by itself. */
  setServing(serving: boolean): void {
    const status = serving ? "SERVING" : "NOT_SERVING";
    for (const name of ["", ...this.#serviceNames]) this.#health.setStatus(name, status);
  }

  /**
   * Reports NOT_SERVING, takes no new calls, waits for those that run, and cuts off what is left after
   * `graceMs`: a stream whose client vanished would never end by itself. End your own streams first.
   */
  stop(graceMs = 1_000): Promise<void> {
    this.#stopping ??= new Promise<void>((resolve) => {
      this.setServing(false);
      const timer = setTimeout(() => {
        this.#server.forceShutdown();
        resolve();
      }, graceMs);
      this.#server.tryShutdown((error) => {
        clearTimeout(timer);
        if (error !== undefined) this.#server.forceShutdown();
        resolve();
      });
    });
    return this.#stopping;
  }
}

function serverChannelOptions(maxReceiveMessageBytes = BULK_MESSAGE_LIMIT_BYTES): ChannelOptions {
  return {
    "grpc.max_receive_message_length": maxReceiveMessageBytes,
    "grpc.max_send_message_length": REPLY_LIMIT_BYTES,
    // A client that lost power sends no FIN: its session is found dead by pings.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.max_concurrent_streams": 1_024,
  };
}

function bindError(target: string, error: Error): FailedPreconditionError {
  const { message } = error;
  const cause = { cause: error };
  if (message.includes("EADDRINUSE")) {
    return new FailedPreconditionError(
      `cannot listen on ${target}: the port is in use; stop the other process or choose another port (0 takes a free one)`,
      cause,
    );
  }
  if (/EADDRNOTAVAIL|ENOTFOUND|EAI_AGAIN|Name resolution/.test(message)) {
    const host = target.slice(0, target.lastIndexOf(":"));
    const hint = isIPv6(host.replace(/[[\]]/g, "")) ? "; is IPv6 on?" : "";
    return new FailedPreconditionError(
      `cannot listen on ${target}: ${host} is not an address of this machine${hint}`,
      cause,
    );
  }
  if (message.includes("EACCES")) {
    return new FailedPreconditionError(
      `cannot listen on ${target}: this user may not use that port`,
      cause,
    );
  }
  return new FailedPreconditionError(`cannot listen on ${target}: ${message}`, cause);
}
