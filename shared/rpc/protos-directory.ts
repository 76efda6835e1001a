import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { InternalError } from "../errors.ts";

/** The folder `protos/` of this package: beside package.json, whether this runs from dist/ or from source. */
export function protosDirectory(): string {
  const start = dirname(fileURLToPath(import.meta.url));
  for (let folder = start; ; folder = dirname(folder)) {
    const protos = join(folder, "protos");
    if (existsSync(join(protos, "rankmesh/v1/training_service.proto"))) return protos;
    if (dirname(folder) === folder) {
      throw new InternalError(
        `no protos/rankmesh/v1 in ${start} or above it; the installation is incomplete`,
      );
    }
  }
}
