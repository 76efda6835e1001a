import { execFileSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";

const root = join(dirname(fileURLToPath(import.meta.url)), "../../../..");

describe("the package's command", () => {
  it("is an executable file after a build, so that npx runs it from a checkout", () => {
    const { bin, version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
      readonly bin: Readonly<Record<string, string>>;
      readonly version: string;
    };
    const file = join(root, bin["rankmesh"] ?? "");
    expect(statSync(file).mode & 0o111, "executable bits").to.equal(0o111);
    expect(execFileSync(file, ["--version"], { encoding: "utf8" }).trim()).to.equal(version);
  });
});
