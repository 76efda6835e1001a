/**
 * The containers of deploy/k8s/overlays/cpu without Kubernetes: their own arguments and environment, as their own user, on
 * a read-only root, at the names that Kubernetes' DNS would give them.
 */
import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { JobResult } from "../../cli/job-result.ts";
import { rootPath } from "../support/deploy.ts";
import { Host, hostFault, type RunningCommand } from "../support/host.ts";
import {
  containerOf,
  environmentOf,
  missingKubectl,
  type Role,
  render,
  setOf,
} from "../support/k8s.ts";

const MAIN = rootPath("dist/cli/main.js");
/** Pods by the host that they are on; ports of coordinator and worker do not clash. */
const PODS = [
  { role: "coordinator", index: 0, host: 0 },
  { role: "worker", index: 0, host: 0 },
  { role: "worker", index: 1, host: 1 },
] as const satisfies readonly { role: Role; index: number; host: number }[];
const ADDRESSES = ["192.0.2.11", "192.0.2.12"] as const;

const JOB = {
  name: "pods",
  model: { feedForward: { dim: 32, hidden: 64 } },
  mesh: { tensorParallel: 2 },
  data: { batchSize: 4, random: { length: 16, seed: 0 } },
  steps: 5,
  output: { safetensors: "out.safetensors" },
};

/** Prints the status of the daemon at an address, as the gRPC probe of a kubelet asks for it. */
const PROBE = `
  const [, health, address] = process.argv;
  const { checkHealth } = await import(health);
  console.log(await checkHealth(address));
`;

const USER = ["--reuid=1000", "--regid=1000", "--clear-groups"];

/** Why a pod's user cannot run what is built here; undefined when it can. */
function userFault(): string | undefined {
  const { status } = spawnSync("setpriv", [...USER, process.execPath, MAIN, "--version"]);
  return status === 0 ? undefined : "needs a checkout that user 1000 may read, and setpriv";
}

const fault = missingKubectl() ?? hostFault() ?? userFault();
const describePods = fault === undefined ? describe : describe.skip;

describePods(`pods of deploy/k8s${fault === undefined ? "" : ` (${fault})`}`, function () {
  this.timeout(180_000);
  const hosts: Host[] = [];
  const pods = new Map<string, RunningCommand>();
  let folder = "";

  const host = (index: number): Host => {
    const found = hosts[index];
    if (found === undefined) throw new Error(`no host ${index}`);
    return found;
  };
  /** What a client says, on the coordinator's host. */
  const client = (script: string) =>
    host(0).run(script.replaceAll("rankmesh ", `'${process.execPath}' '${MAIN}' `), {
      cwd: folder,
      timeoutMs: 90_000,
    });

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-pods-"));
    const objects = render("overlays/cpu");
    const names = PODS.map(({ role, index, host: at }) => {
      const { metadata, spec } = setOf(objects, role);
      const pod = `${metadata.name}-${index}`;
      return `${ADDRESSES[at]} ${pod}.${spec.serviceName}.${metadata.namespace}.svc`;
    });
    await writeFile(join(folder, "hosts"), `127.0.0.1 localhost\n${names.join("\n")}\n`);
    await writeFile(join(folder, "job.yaml"), JSON.stringify(JOB));
    for (const name of ["node-a", "node-b"]) hosts.push(await Host.start(name));
    Host.link(host(0), ADDRESSES[0], host(1), ADDRESSES[1]);
    // /tmp, and with it the folder that stands for /data, may be written; all else is read only.
    for (const each of hosts) {
      const { code, stderr } = await each.run(
        `mount --bind '${folder}/hosts' /etc/hosts
         mkdir -p '${folder}/data' && chmod 711 '${folder}' && chown 1000:1000 '${folder}/data'
         mount --bind '${tmpdir()}' '${tmpdir()}'
         mount -o remount,bind,ro /`,
        { cwd: "/" },
      );
      if (code !== 0) throw new Error(`${each.name}: ${stderr}`);
    }
    for (const { role, index, host: at } of PODS) {
      const set = setOf(objects, role);
      const { args } = containerOf(set);
      const variables = [...environmentOf(set, index)].map(([name, value]) =>
        // The volume is not mounted at the root of this machine.
        name === "RANKMESH_DATA_ROOT" ? `${name}='${folder}/data'` : `${name}='${value}'`,
      );
      const user = `setpriv ${USER.join(" ")} --bounding-set=-all --no-new-privs`;
      const command = host(at).start(
        `echo $$ > '${folder}/${role}-${index}.pid'
         exec ${user} env -i PATH="$PATH" ${variables.join(" ")} '${process.execPath}' '${MAIN}' ${args.join(" ")}`,
        { cwd: "/" },
      );
      pods.set(`${role} ${index}`, command);
      await command.firstLine(60_000);
    }
  });

  after(async () => {
    for (const each of hosts) await each.stop();
    await rm(folder, { recursive: true, force: true });
  });

  it("find each other by the names of pods, and serve what the probes ask for", async () => {
    for (const index of [0, 1]) {
      await pods.get(`worker ${index}`)?.waitFor(/registered/, 60_000);
    }
    const { stdout } = await client("rankmesh workers --json");
    const workers = JSON.parse(stdout) as { name: string; address: string; device: string }[];
    expect(workers.map(({ name, address }) => [name, address])).to.deep.equal([
      ["rankmesh-worker-0", "rankmesh-worker-0.rankmesh-worker.rankmesh.svc:50052"],
      ["rankmesh-worker-1", "rankmesh-worker-1.rankmesh-worker.rankmesh.svc:50052"],
    ]);
    // As many as the container's limit of cores, whatever the machine has.
    for (const { device } of workers) expect(device).to.match(/2 threads/);
    const health = rootPath("dist/cli/health.js");
    for (const address of [
      `${ADDRESSES[0]}:50051`,
      `${ADDRESSES[0]}:50052`,
      `${ADDRESSES[1]}:50052`,
    ]) {
      const probe = await host(0).run(
        `'${process.execPath}' --input-type=module -e '${PROBE}' '${health}' '${address}'`,
        { cwd: "/" },
      );
      expect(probe.stdout, `${address}: ${probe.stderr}`).to.equal("SERVING\n");
    }
  });

  it("train a job with a rank on each node, and write its weights to the volume", async () => {
    const { code, stderr } = await client("rankmesh job submit job.yaml --json result.json");
    expect(code, stderr).to.equal(0);
    const result = JSON.parse(await readFile(join(folder, "result.json"), "utf8")) as JobResult;
    expect(result.state).to.equal("SUCCEEDED");
    expect(result.ranks.map(({ worker }) => worker)).to.deep.equal([
      "rankmesh-worker-0",
      "rankmesh-worker-1",
    ]);
    expect(await readdir(join(folder, "data"))).to.deep.equal(["out.safetensors"]);
  });

  it("open the status page by the Service's name, and by no other", async () => {
    const ask = (name: string) =>
      client(
        `curl -s -o /dev/null -w '%{http_code}' -H 'Host: ${name}:8080' http://${ADDRESSES[0]}:8080/`,
      );
    expect((await ask("rankmesh-coordinator.rankmesh.svc")).stdout).to.equal("200");
    expect((await ask("attacker.example")).stdout).to.match(/^4\d\d$/);
  });

  it("end within the grace period when Kubernetes tells them to", async () => {
    for (const { role, index, host: at } of [...PODS].reverse()) {
      await host(at).run(`kill -TERM $(cat '${folder}/${role}-${index}.pid')`, { cwd: "/" });
      const result = await pods.get(`${role} ${index}`)?.end(60_000);
      expect(result?.code, result?.stderr).to.equal(0);
    }
  });
});
