import type { Server } from "@grpc/grpc-js";
import { ReflectionService } from "@grpc/reflection";
import { FILE_DESCRIPTORS_BASE64 } from "./gen/file-descriptors.ts";

/** Full name of the health service, which every server of ours offers. */
export const HEALTH_SERVICE = "grpc.health.v1.Health";

/**
 * Lets clients without our protos ask for them (`grpc.reflection.v1` and `v1alpha`).
 *
 * Serves the compiler's own descriptors rather than those that proto-loader makes: those merge the files of a
 * package into one, and lose which fields are `optional`.
 * @param serviceNames what this server offers; others are not listed
 */
export function addReflection(server: Server, serviceNames: readonly string[]): void {
  const fileDescriptorProtos = FILE_DESCRIPTORS_BASE64.map((text) => Buffer.from(text, "base64"));
  // The service reads nothing of a package definition but its descriptors.
  const definition = { format: "", type: {}, fileDescriptorProtos };
  const packages = { "rankmesh.v1": definition } as unknown as ConstructorParameters<
    typeof ReflectionService
  >[0];
  new ReflectionService(packages, { services: [...serviceNames, HEALTH_SERVICE] }).addToServer(
    server,
  );
}
