/**
 * The compose files on two hosts, as docs/deploy.md starts them, without Docker: what a service's container would be given,
 * its command and its environment, is given to a process on the host. Containers share their host's network in
 * compose.worker.yml; for the coordinator, whose ports are published at RANKMESH_BIND, the hosts' own addresses stand in.
 */
import { mkdir, mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { parse } from "yaml";
import { copyCheckout, removeCheckout } from "../support/document-copy.ts";
import { ROOT } from "../support/documents.ts";
import { Host, hostFault } from "../support/host.ts";

interface Service {
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly ports?: readonly string[];
  readonly network_mode?: string;
}

/** The services of a compose file, its variables replaced by `variables` or their defaults. @throws for one that must be set */
async function services(
  file: string,
  variables: Readonly<Record<string, string>>,
): Promise<Readonly<Record<string, Service>>> {
  const text = await readFile(join(ROOT, file), "utf8");
  const whole = text.replace(
    /\$\{(\w+)(?:(:-|:\?)([^}]*))?\}/g,
    (_, name: string, operator: string | undefined, rest: string | undefined) => {
      const value = variables[name];
      if (value !== undefined) return value;
      if (operator === ":-") return rest ?? "";
      throw new Error(`${file}: ${name} is not set: ${rest ?? ""}`);
    },
  );
  return (parse(whole, { merge: true }) as { services: Record<string, Service> }).services;
}

const fault = hostFault();
const A = "192.0.2.11";
const B = "192.0.2.12";

(fault === undefined ? describe : describe.skip)(
  `two hosts by compose${fault === undefined ? "" : ` (${fault})`}`,
  function () {
    this.timeout(180_000);
    let folder = "";
    const hosts: Host[] = [];

    before(async () => {
      folder = await mkdtemp(join(tmpdir(), "rankmesh-compose-"));
      await copyCheckout(join(folder, "rankmesh"));
      await mkdir(join(folder, "data"));
      for (const name of ["host-a", "host-b"]) hosts.push(await Host.start(name));
      const [a, b] = hosts;
      if (a !== undefined && b !== undefined) Host.link(a, A, b, B);
    });

    after(async () => {
      for (const host of hosts) await host.stop();
      await removeCheckout(folder);
    });

    async function up(host: Host | undefined, service: Service | undefined): Promise<void> {
      if (host === undefined || service === undefined) throw new Error("no such host or service");
      const settings = Object.entries({ ...service.environment })
        .map(([name, value]) => `export ${name}='${value}'`)
        .join("\n");
      const script = `${settings}\nexec npx rankmesh ${service.command.join(" ")}\n`;
      const daemon = host.start(script, { cwd: join(folder, "rankmesh") });
      await daemon.waitFor(
        service.command[0] === "worker" ? /registered with the coordinator/ : /\n/,
        60_000,
      );
    }

    it("the coordinator is published at RANKMESH_BIND and nowhere else", async () => {
      const { coordinator } = await services("docker-compose.yml", {
        RANKMESH_BIND: A,
        RANKMESH_DATA: join(folder, "data"),
      });
      expect(coordinator?.ports).to.deep.equal([`${A}:50051:50051`, `${A}:8080:8080`]);
      if (coordinator === undefined) return;
      const environment = { ...coordinator.environment, RANKMESH_DATA_ROOT: join(folder, "data") };
      await up(hosts[0], { ...coordinator, environment });
    });

    for (const [index, address] of [A, B].entries()) {
      it(`a worker of ${address} listens there and joins`, async () => {
        const all = await services("deploy/compose.worker.yml", {
          RANKMESH_COORDINATOR: `${A}:50051`,
          RANKMESH_ADVERTISE: address,
        });
        expect(all["worker-cpu"]?.network_mode).to.equal("host");
        expect(all["worker-gpu-0"]?.environment).to.include({
          RANKMESH_LISTEN: `${address}:50052`,
          RANKMESH_BACKEND: "cuda",
        });
        await up(hosts[index], all["worker-cpu"]);
      });
    }

    it("a job trains across them", async () => {
      const result = await hosts[1]?.run(
        `npx rankmesh job submit /dev/stdin --address ${A}:50051 --json result.json < examples/two-hosts.yaml`,
        { cwd: join(folder, "rankmesh") },
      );
      expect(result?.code, result?.stderr).to.equal(0);
      const text = await readFile(join(folder, "rankmesh/result.json"), "utf8");
      const { ranks } = JSON.parse(text) as { ranks: { worker: string }[] };
      expect(ranks.map(({ worker }) => worker).sort()).to.deep.equal([`${A}-cpu`, `${B}-cpu`]);
    });

    it("refuses to start a worker that was not told its address", async () => {
      const error = await services("deploy/compose.worker.yml", {}).catch(String);
      expect(error).to.match(/RANKMESH_ADVERTISE is not set: the address of this host/);
    });
  },
);
