import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { ROOT } from "../../support/documents.ts";

/** Sources whose messages users read, each line joined to the next, as long texts are. */
function sources(): string {
  const files = ["cli", "coordinator", "shared", "worker"].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map((name) => readFileSync(join(ROOT, folder, name), "utf8")),
  );
  return files.join("\n").replace(/["`]\s*\+\s*["`]/g, "");
}

describe("messages that docs/deploy.md explains", () => {
  const text = readFileSync(join(ROOT, "docs/deploy.md"), "utf8");
  const table = /\| you read \|.*\n\|.*\n((?:\|.*\n)+)/.exec(text)?.[1] ?? "";
  const messages = [...table.matchAll(/^\| `([^`]+)` \|/gm)].map(([, message = ""]) => message);
  const code = sources();

  it("are many", () => {
    expect(messages).to.have.length.above(15).and.to.have.length(table.trim().split("\n").length);
  });

  for (const message of messages) {
    it(`are said: ${message}`, () => {
      const parts = message.split("...").map((part) => part.trim().replace(/^[:,(] ?/, ""));
      for (const part of parts.filter((part) => part.length > 3)) expect(code).to.contain(part);
    });
  }
});
