import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { protosDirectory } from "./rpc/protos-directory.ts";

/** This package's version, as package.json says it. */
export function packageVersion(): string {
  const file = join(dirname(protosDirectory()), "package.json");
  const { version } = JSON.parse(readFileSync(file, "utf8")) as { readonly version?: unknown };
  return typeof version === "string" ? version : "unknown";
}
