/** Runs what README and docs show, as written: each document in a fresh copy of the checkout, on a host of its own. */
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { copyCheckout, removeCheckout } from "../support/document-copy.ts";
import { missingProgram, standInsOf, writeStandIns } from "../support/document-programs.ts";
import { DocumentSession } from "../support/document-session.ts";
import { documentPaths, placeOf, readBlocks } from "../support/documents.ts";
import { Host, hostFault } from "../support/host.ts";

const fault = hostFault();

for (const document of documentPaths()) {
  const blocks = readBlocks(document).filter(
    ({ mark }) => mark !== undefined && !mark.options.has("host"),
  );
  if (blocks.length === 0) continue;

  describe(`commands of ${document}`, function () {
    this.timeout(660_000);
    let folder = "";
    let host: Host | undefined;
    let session: DocumentSession | undefined;

    before(async () => {
      if (fault !== undefined) return;
      folder = await mkdtemp(join(tmpdir(), "rankmesh-docs-"));
      await copyCheckout(folder);
      host = await Host.start("docs");
      const lastPath = join(folder, ".stand-ins");
      await writeStandIns(lastPath);
      session = new DocumentSession(host, folder, lastPath);
    });

    after(async () => {
      await host?.stop();
      await removeCheckout(folder);
    });

    let skipped: string | undefined;
    let standIns: string[] = [];
    for (const block of blocks) {
      const { mark } = block;
      if (mark?.kind !== "output") {
        const needs = mark?.options.get("needs")?.split(",") ?? [];
        skipped = fault ?? missingProgram(needs);
        standIns = standInsOf(needs);
      }
      const what = block.text.trim().split("\n")[0] ?? "";
      const by = standIns.length === 0 ? "" : ` (by a stand-in for ${standIns.join(", ")})`;
      const title = `${placeOf(block)} ${mark?.kind === "output" ? "shows what was written" : what}${by}`;
      if (skipped !== undefined) {
        it.skip(`${title} (${skipped})`);
        continue;
      }
      it(title, async () => {
        await session?.play(block);
      });
    }
  });
}
