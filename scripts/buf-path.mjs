import { createRequire } from "node:module";

const PACKAGES = {
  "linux x64": "@bufbuild/buf-linux-x64",
  "linux arm64": "@bufbuild/buf-linux-aarch64",
  "darwin x64": "@bufbuild/buf-darwin-x64",
  "darwin arm64": "@bufbuild/buf-darwin-arm64",
  "win32 x64": "@bufbuild/buf-win32-x64",
};

/** Path of the buf binary in its platform package: found so also where install scripts are off. */
export function bufPath() {
  const platform = `${process.platform} ${process.arch}`;
  const name = PACKAGES[platform];
  if (name === undefined) throw new Error(`buf has no binary for ${platform}`);
  const suffix = process.platform === "win32" ? ".exe" : "";
  try {
    return createRequire(import.meta.url).resolve(`${name}/bin/buf${suffix}`);
  } catch (cause) {
    throw new Error(
      `${name} is not installed: run \`npm ci\` (it is an optional dependency of @bufbuild/buf)`,
      { cause },
    );
  }
}
