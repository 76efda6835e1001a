/** The units of deploy/systemd and their settings: checked by systemd where it is, and started as it would. */
import { spawnSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { DAEMON_VARIABLES } from "../../cli/option-values.ts";
import { describedCommandLine, usageFault } from "../support/command-line.ts";
import { copyCheckout, removeCheckout } from "../support/document-copy.ts";
import { ROOT } from "../support/documents.ts";
import { Host, hostFault } from "../support/host.ts";

const FOLDER = join(ROOT, "deploy/systemd");
const UNITS = ["rankmesh-coordinator.service", "rankmesh-worker@.service"] as const;
/** Where the units find what is installed. */
const INSTALLED = "/opt/rankmesh";
const NODE = "/usr/bin/node";

const hasSystemd = spawnSync("systemd-analyze", ["--version"]).status === 0;
const fault = hostFault();

describe("deploy/systemd", function () {
  this.timeout(120_000);
  const program = describedCommandLine();
  let folder = "";

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-systemd-"));
  });

  after(async () => {
    await removeCheckout(folder);
  });

  for (const unit of UNITS) {
    const needs = hasSystemd ? "" : " (needs systemd-analyze: apt-get install systemd)";
    (hasSystemd ? it : it.skip)(`${unit} is one that systemd takes${needs}`, async () => {
      // Programs have to be there for it, and these are not where an installed unit has them.
      const text = (await readFile(join(FOLDER, unit), "utf8")).replace(NODE, "/bin/true");
      const path = join(folder, unit);
      await writeFile(path, text);
      const { status, stderr } = spawnSync("systemd-analyze", ["verify", path], {
        encoding: "utf8",
      });
      expect(stderr).to.equal("");
      expect(status).to.equal(0);
    });
  }

  it("sets variables that the daemons read", async () => {
    for (const name of (await readdir(FOLDER)).filter((name) => name.endsWith(".env"))) {
      const variables = [...(await readFile(join(FOLDER, name), "utf8")).matchAll(/^(\w+)=/gm)];
      expect(variables, name).to.have.length.above(2);
      for (const [, variable] of variables) expect([...DAEMON_VARIABLES]).to.include(variable);
    }
  });

  const title = "starts a coordinator and a worker that joins it, from their settings alone";
  (fault === undefined ? it : it.skip)(
    `${title}${fault === undefined ? "" : ` (${fault})`}`,
    async () => {
      const checkout = join(folder, "rankmesh");
      const data = join(folder, "data");
      await copyCheckout(checkout);
      await mkdir(data);
      const host = await Host.start("systemd");
      try {
        await host.run("ip address add 192.0.2.11/32 dev lo; ip address add 192.0.2.12/32 dev lo", {
          cwd: "/",
        });
        const start = async (unit: (typeof UNITS)[number], settings: string) => {
          const words = (
            /^ExecStart=(.*)$/m.exec(await readFile(join(FOLDER, unit), "utf8"))?.[1] ?? ""
          )
            .split(" ")
            .map((word) => word.replace(NODE, "node").replace(INSTALLED, checkout));
          const env = (await readFile(join(FOLDER, settings), "utf8"))
            .replace("/var/lib/rankmesh", data)
            .replace("RANKMESH_BACKEND=cuda\nRANKMESH_DEVICE=0", "RANKMESH_BACKEND=cpu");
          // What the settings give, the flags need not.
          expect(usageFault(program, words.slice(2), true)).to.equal(undefined);
          const script = `set -a\n${env}\nexec ${words.join(" ")}\n`;
          return host.start(script, { cwd: data });
        };
        const coordinator = await start("rankmesh-coordinator.service", "coordinator.env");
        await coordinator.firstLine(60_000);
        const worker = await start("rankmesh-worker@.service", "worker-0.env");
        await worker.waitFor(/registered with the coordinator/, 60_000);
        const { stdout } = await host.run(
          "npx rankmesh workers --address 192.0.2.11:50051; npx rankmesh doctor --health --http 192.0.2.12:8081",
          { cwd: checkout },
        );
        expect(stdout).to.match(/^host-b-0 +idle +192\.0\.2\.12:50052 /m);
      } finally {
        await host.stop();
      }
    },
  );
});
