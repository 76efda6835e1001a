import { execFile, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { caught } from "../support/caught.ts";
import {
  type ComposeFile,
  missingCompose,
  resolveCompose,
  type Service,
} from "../support/compose.ts";
import { rootPath } from "../support/deploy.ts";

const HOST = "docker-compose.yml";
const FURTHER = "deploy/compose.worker.yml";
/** What the file for further hosts cannot do without. */
const JOINING = { RANKMESH_COORDINATOR: "192.0.2.11:50051", RANKMESH_ADVERTISE: "192.0.2.12" };
const PROFILES = [undefined, "cpu", "gpu", "gpu-2", "gpu-4", "gpu-8"];
const GPU_PROFILES = PROFILES.filter((profile) => profile?.startsWith("gpu") === true);
/** Seconds that a daemon takes for its own end, at most (cli/daemon.ts). */
const DAEMON_GRACE = 5;

const missing = missingCompose();

function seconds(text: string | undefined): number {
  const match = /^(?:(\d+)m)?(?:(\d+)s)?$/.exec(text ?? "");
  return Number(match?.[1] ?? 0) * 60 + Number(match?.[2] ?? 0);
}

function service(file: ComposeFile, name: string): Service {
  const found = file.services[name];
  if (found === undefined) throw new Error(`no service ${name}`);
  return found;
}

/** Services that compute: their names start so. */
function workers(file: ComposeFile): [string, Service][] {
  return Object.entries(file.services).filter(([name]) => name.startsWith("worker-"));
}

/** Whether its image is built from this repository. */
function isOurs({ image }: Service): boolean {
  return image.startsWith("rankmesh:");
}

function chosen(file: ComposeFile, profile: string | undefined): string[] {
  return Object.entries(file.services)
    .filter(([, { profiles = [] }]) => profiles.length === 0 || profiles.includes(profile ?? ""))
    .map(([name]) => name)
    .sort();
}

describe("compose files", function () {
  this.timeout(60_000);

  it("pass dclint without a warning", async () => {
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [rootPath("node_modules/dclint/bin/dclint.cjs"), HOST, FURTHER, "--max-warnings=0"],
      { cwd: rootPath(".") },
    );
    expect(stdout.trim()).to.equal("");
  });

  (missing === undefined ? describe : describe.skip)(
    `as docker-compose reads them${missing === undefined ? "" : ` (${missing})`}`,
    () => {
      let host: ComposeFile;
      let further: ComposeFile;

      before(async () => {
        host = await resolveCompose(HOST);
        further = await resolveCompose(FURTHER, { env: JOINING });
      });

      const all = () => [...Object.entries(host.services), ...Object.entries(further.services)];

      for (const profile of PROFILES) {
        it(`are valid ${profile === undefined ? "without a profile" : `with profile ${profile}`}`, async () => {
          for (const [file, env] of [
            [HOST, {}],
            [FURTHER, JOINING],
          ] as const) {
            const options = { env, ...(profile === undefined ? {} : { profile }) };
            expect(Object.keys(await resolveCompose(file, options)), file).to.include("services");
          }
        });
      }

      it("start coordinator, Prometheus and Grafana, and the workers of a profile alone", () => {
        const always = ["coordinator", "grafana", "prometheus"];
        expect(chosen(host, undefined)).to.deep.equal(always);
        expect(chosen(host, "cpu")).to.deep.equal([...always, "worker-cpu-1", "worker-cpu-2"]);
        expect(chosen(further, undefined)).to.deep.equal([]);
        expect(chosen(further, "cpu")).to.deep.equal(["worker-cpu"]);
        for (const profile of GPU_PROFILES) {
          const gpus = Number(profile?.slice(4) || 1);
          const names = Array.from({ length: gpus }, (_, index) => `worker-gpu-${index}`);
          expect(chosen(host, profile)).to.deep.equal([...always, ...names]);
          expect(chosen(further, profile)).to.deep.equal(names);
        }
      });

      it("give each GPU worker one GPU, its own, and no other service any", () => {
        for (const [name, { deploy, environment }] of all()) {
          const gpu = /^worker-gpu-(\d)$/.exec(name)?.[1];
          if (gpu === undefined) {
            expect(deploy, name).to.equal(undefined);
            expect(environment?.["RANKMESH_BACKEND"] ?? "cpu", name).to.equal("cpu");
            continue;
          }
          const devices = deploy?.resources.reservations.devices;
          const device = { driver: "nvidia", device_ids: [gpu], capabilities: ["gpu"] };
          expect(devices, name).to.deep.equal([device]);
          expect(environment?.["RANKMESH_BACKEND"]).to.equal("cuda");
        }
      });

      it("publish coordinator, Prometheus and Grafana on loopback, and no worker", () => {
        const published = Object.entries(host.services).flatMap(([name, { ports = [] }]) =>
          ports.map((port) => `${name} ${port.replace(/\/tcp$/, "")}`),
        );
        expect(published.sort()).to.deep.equal([
          "coordinator 127.0.0.1:50051:50051",
          "coordinator 127.0.0.1:8080:8080",
          "grafana 127.0.0.1:3000:3000",
          "prometheus 127.0.0.1:9090:9090",
        ]);
        for (const [name, { network_mode }] of Object.entries(host.services))
          expect(network_mode, name).to.equal(undefined);
      });

      it("publish the coordinator at RANKMESH_BIND, and nothing else there", async () => {
        const wide = await resolveCompose(HOST, { env: { RANKMESH_BIND: "192.0.2.11" } });
        const at = Object.entries(wide.services).flatMap(([name, { ports = [] }]) =>
          ports.filter((port) => !port.startsWith("127.0.0.1:")).map((port) => `${name} ${port}`),
        );
        expect(at.sort()).to.deep.equal([
          "coordinator 192.0.2.11:50051:50051/tcp",
          "coordinator 192.0.2.11:8080:8080/tcp",
        ]);
      });

      it("bind workers of a further host to the address that peers dial, each to ports of its own", () => {
        for (const profile of ["cpu", "gpu-8"]) {
          const addresses = chosen(further, profile).flatMap((name) => {
            const { environment = {}, network_mode } = service(further, name);
            expect(network_mode, name).to.equal("host");
            return [environment["RANKMESH_LISTEN"] ?? "", environment["RANKMESH_HTTP"] ?? ""];
          });
          expect(new Set(addresses).size).to.equal(addresses.length);
          for (const address of addresses)
            expect(address).to.match(/^192\.0\.2\.12:(5005\d|808\d)$/);
        }
      });

      for (const name of Object.keys(JOINING)) {
        it(`refuse to join without ${name}`, async () => {
          const env = Object.fromEntries(Object.entries(JOINING).filter(([key]) => key !== name));
          const error = (await caught(resolveCompose(FURTHER, { env }))) as { stderr?: string };
          expect(error.stderr).to.match(/Missing mandatory value/);
        });
      }

      it("let workers of one host be dialled by the name and port they listen at", () => {
        for (const profile of ["cpu", "gpu-8"]) {
          const addresses = workers(host)
            .filter(([, { profiles = [] }]) => profiles.includes(profile))
            .map(([name, { environment = {} }]) => {
              const port = environment["RANKMESH_LISTEN"]?.replace("0.0.0.0:", "");
              expect(environment["RANKMESH_NAME"]).to.equal(name);
              expect(environment["RANKMESH_ADVERTISE"]).to.equal(`${name}:${port}`);
              expect(environment["RANKMESH_COORDINATOR"]).to.equal("coordinator:50051");
              return `${port} ${environment["RANKMESH_HTTP"]}`;
            });
          expect(new Set(addresses).size, profile).to.equal(addresses.length);
        }
      });

      it("run everything without root, on a root that is read-only, without privileges", () => {
        for (const [name, settings] of all()) {
          expect(Number(settings.user?.split(":")[0]), name).to.be.above(0);
          expect(settings.read_only, name).to.equal(true);
          expect(
            settings.tmpfs?.some((entry) => entry.startsWith("/tmp")),
            name,
          ).to.equal(true);
          expect(settings.cap_drop, name).to.deep.equal(["ALL"]);
          expect(settings.security_opt, name).to.deep.equal(["no-new-privileges:true"]);
          expect(settings.init, name).to.equal(true);
        }
      });

      it("check everything's health, start it again, give it time to end and bound its logs", () => {
        for (const [name, settings] of all()) {
          expect(settings.healthcheck?.test[0], name).to.equal("CMD");
          expect(settings.restart, name).to.equal("unless-stopped");
          expect(seconds(settings.stop_grace_period), name).to.be.at.least(30);
          expect(settings.logging?.options, name).to.have.keys("max-size", "max-file");
        }
      });

      it("ask daemons by `rankmesh doctor --health`, and let them end by themselves", () => {
        for (const [name, settings] of all()) {
          if (!isOurs(settings)) continue;
          expect(settings.healthcheck?.test, name).to.deep.equal([
            ...["CMD", "rankmesh", "doctor", "--health"],
          ]);
          expect(settings.environment?.["RANKMESH_HTTP"], name).to.match(/:\d+$/);
          expect(seconds(settings.stop_grace_period), name).to.be.above(2 * DAEMON_GRACE);
        }
      });

      it("name a version of every image, and the package's own for its images", () => {
        const { version } = JSON.parse(readFileSync(rootPath("package.json"), "utf8")) as {
          version: string;
        };
        for (const [name, { image, build }] of all()) {
          expect(image, name).to.match(/:v?\d+\.\d+\.\d+(-\w+)?$/);
          if (build === undefined) continue;
          expect(image).to.equal(`rankmesh:${version}-${build.target}`);
          expect(build.args["VERSION"]).to.equal(version);
        }
      });

      // Compose builds side by side, and of two that export one name the second fails: "already exists".
      for (const profile of PROFILES) {
        it(`build each image once ${profile === undefined ? "without a profile" : `with profile ${profile}`}, and pull none of them`, () => {
          for (const file of [host, further]) {
            const ours = chosen(file, profile)
              .map((name) => service(file, name))
              .filter(isOurs);
            const built = ours.filter(({ build }) => build !== undefined);
            expect(built.map(({ image }) => image).sort()).to.deep.equal(
              [...new Set(ours.map(({ image }) => image))].sort(),
            );
            for (const { build, image, pull_policy } of ours)
              expect(pull_policy, image).to.equal(build === undefined ? "never" : undefined);
          }
        });
      }

      it("mount files of the repository read-only, and volumes that are declared", () => {
        const seen = [];
        for (const [file, { services, volumes = {} }] of Object.entries({ host, further })) {
          for (const [name, settings] of Object.entries(services)) {
            for (const mount of settings.volumes ?? []) {
              const [source = "", target, mode] = mount.split(":");
              seen.push(target);
              if (source.startsWith("/")) {
                expect(source, `${file} ${name}`).to.include(rootPath("deploy/"));
                expect(existsSync(source), `${name}: ${source} is there`).to.equal(true);
                expect(mode, mount).to.equal("ro");
              } else expect(Object.keys(volumes), name).to.include(source);
            }
          }
        }
        expect(seen).to.include.members(["/data", "/etc/prometheus", "/etc/grafana/dashboards"]);
      });

      it("take the folder of RANKMESH_DATA in place of the volume", async () => {
        const { services } = await resolveCompose(HOST, { env: { RANKMESH_DATA: "/srv/models" } });
        expect(services["coordinator"]?.volumes).to.deep.equal(["/srv/models:/data:rw"]);
      });

      describe("Grafana's password", () => {
        let folder = "";

        beforeEach(() => {
          folder = mkdtempSync(join(tmpdir(), "rankmesh-grafana-"));
          for (const name of ["var/lib/grafana", "run/secrets"])
            mkdirSync(join(folder, name), { recursive: true });
          const body = '#!/bin/sh\ncat "$GF_SECURITY_ADMIN_PASSWORD__FILE"\n';
          writeFileSync(join(folder, "run.sh"), body, { mode: 0o755 });
        });

        afterEach(() => rmSync(folder, { recursive: true, force: true }));

        /** The service's entry point with its folders moved, and what Grafana would read. */
        function start(): string {
          const [shell = "", flags = "", script = ""] = service(host, "grafana").entrypoint ?? [];
          const moved = script
            .replaceAll("$$", "$")
            .replaceAll(/(\/var\/lib\/grafana|\/run\/secrets|\/run\.sh)/g, `${folder}$1`);
          const { status, stdout, stderr } = spawnSync(shell, [flags, moved], { encoding: "utf8" });
          expect(status, stderr).to.equal(0);
          return stdout.trim();
        }

        it("is made at the first start and kept", () => {
          const first = start();
          expect(first).to.match(/^[A-Za-z0-9+/]{24}$/);
          expect(start()).to.equal(first);
          rmSync(join(folder, "var/lib/grafana/admin-password"));
          expect(start()).to.not.equal(first);
        });

        it("is the secret's where one is given", () => {
          writeFileSync(join(folder, "run/secrets/grafana-password"), "chosen\n");
          expect(start()).to.equal("chosen");
        });

        it("comes from GRAFANA_PASSWORD_FILE, else from a file without content", async () => {
          const env = { GRAFANA_PASSWORD_FILE: "/etc/grafana-password" };
          const { secrets } = await resolveCompose(HOST, { env });
          expect(secrets?.["grafana-password"]?.file).to.equal("/etc/grafana-password");
          expect(host.secrets?.["grafana-password"]?.file).to.equal("/dev/null");
        });
      });
    },
  );
});
