import * as grpc from "@grpc/grpc-js";
import { loadSync, type Options, type PackageDefinition } from "@grpc/proto-loader";
import { InternalError } from "../errors.ts";
import type {
  CollectiveServiceClient,
  CollectiveServiceDefinition,
} from "./gen/rankmesh/v1/CollectiveService.ts";
import type { RankServiceClient, RankServiceDefinition } from "./gen/rankmesh/v1/RankService.ts";
import type {
  TrainingServiceClient,
  TrainingServiceDefinition,
} from "./gen/rankmesh/v1/TrainingService.ts";
import { protosDirectory } from "./protos-directory.ts";

/**
 * How messages look as JavaScript objects. `scripts/gen-protos.mjs` gives the same choices to the type generator.
 * Keys are camelCase; 64-bit integers are numbers (exact to 2^53); enums are their names; bytes are Buffers.
 * Of a received message, plain scalars left out hold their zero, lists and maps are empty, messages left out
 * are null, and `optional` fields and members of a oneof that were left out are absent (undefined).
 */
export const PROTO_LOADER_OPTIONS: Options = {
  keepCase: false,
  longs: Number,
  enums: String,
  defaults: true,
  arrays: true,
  objects: false,
  oneofs: true,
};

const PROTO_FILES = ["training_service", "rank_service", "collective_service"].map(
  (name) => `rankmesh/v1/${name}.proto`,
);

/** What is needed to serve a service and to call it. */
export interface RpcService<Definition extends grpc.ServiceDefinition, Client extends grpc.Client> {
  /** Full name, as health checks and reflection know it. */
  readonly name: string;
  readonly definition: Definition;
  readonly Client: new (
    address: string,
    credentials: grpc.ChannelCredentials,
    options?: grpc.ClientOptions,
  ) => Client;
}

export interface RankmeshServices {
  readonly training: RpcService<TrainingServiceDefinition, TrainingServiceClient>;
  readonly rank: RpcService<RankServiceDefinition, RankServiceClient>;
  readonly collective: RpcService<CollectiveServiceDefinition, CollectiveServiceClient>;
}

let loaded: RankmeshServices | undefined;

/** The three services of `protos/rankmesh/v1`, read from disk on first use. */
export function services(): RankmeshServices {
  if (loaded === undefined) {
    const definitions = loadSync(PROTO_FILES, {
      ...PROTO_LOADER_OPTIONS,
      includeDirs: [protosDirectory()],
    });
    loaded = {
      training: serviceNamed(definitions, "rankmesh.v1.TrainingService"),
      rank: serviceNamed(definitions, "rankmesh.v1.RankService"),
      collective: serviceNamed(definitions, "rankmesh.v1.CollectiveService"),
    };
  }
  return loaded;
}

function serviceNamed<Definition extends grpc.ServiceDefinition, Client extends grpc.Client>(
  definitions: PackageDefinition,
  name: string,
): RpcService<Definition, Client> {
  const definition = definitions[name];
  if (definition === undefined) throw new InternalError(`protos define no service ${name}`);
  // The types come from the same files by the same options, which `verify` keeps true.
  const typed = definition as unknown as Definition;
  const Client = grpc.makeGenericClientConstructor(typed, name) as unknown as RpcService<
    Definition,
    Client
  >["Client"];
  return { name, definition: typed, Client };
}
