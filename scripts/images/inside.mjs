// What scripts/test-images.mjs does, in namespaces that it made: builds, runs, looks, and says what it found.
import {
  chmodSync,
  copyFileSync,
  existsSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { baseNames, bootstrap, importImage, withNode } from "./bases.mjs";
import { flagsOf, readServices, seconds } from "./compose.mjs";
import { Engine } from "./engine.mjs";
import { run } from "./processes.mjs";

const [, , folder] = process.argv;
const repository = fileURLToPath(new URL("../../", import.meta.url));
const dockerfile = join(repository, "deploy/Dockerfile");
const CPU = "localhost/rankmesh:cpu";
const CUDA = "localhost/rankmesh:cuda";
const HEALTHY_WITHIN_MS = 90_000;
const REVISION = "0123456789abcdef0123456789abcdef01234567";

/** The reference program, small. */
const JOB = {
  name: "images",
  model: { feedForward: { dim: 256, hidden: 256 } },
  mesh: { tensorParallel: 2 },
  plan: { w1: "colwise", w3: "colwise", w2: "rowwise" },
  loss: "sum",
  optimizer: { adamw: { lr: 3e-3 } },
  data: { batchSize: 8, random: { length: 64, seed: 0 } },
  steps: 20,
  output: { safetensors: "images.safetensors" },
};
/** Of losses in and outside: the same kernels, but another OpenBLAS may add in another order. */
const LOSS_TOLERANCE = 1e-5;
const COMPILERS = ["cc", "gcc", "c++", "g++", "clang", "tcc", "cpp", "as", "ld", "make", "nvcc"];
const PACKAGE_MANAGERS = ["npm", "npx", "yarn", "corepack"];

let passed = 0;
let failed = 0;

/** One thing that is to hold. What it returns is said beside it. */
async function check(name, body) {
  const start = performance.now();
  try {
    const said = await body();
    passed++;
    const time = ((performance.now() - start) / 1000).toFixed(1);
    console.log(`ok      ${name} (${time} s)${said === undefined ? "" : `: ${said}`}`);
    return true;
  } catch (error) {
    failed++;
    console.log(`not ok  ${name}`);
    console.log(`${error instanceof Error ? error.message : error}`.replace(/^/gm, "        "));
    return false;
  }
}

/** What the rest cannot do without. */
async function need(name, body) {
  if (!(await check(name, body))) throw new Stop();
}

class Stop extends Error {}

function expect(holds, otherwise) {
  if (!holds) throw new Error(otherwise);
}

function expectEqual(got, wanted, what) {
  const [left, right] = [JSON.stringify(got), JSON.stringify(wanted)];
  expect(left === right, `${what}: ${left}, not ${right}`);
}

async function waitHealthy(engine, name) {
  const deadline = performance.now() + HEALTHY_WITHIN_MS;
  while (!(await engine.isHealthy(name))) {
    const status = await engine.inspect("container", name, "{{.State.Status}}");
    const late = performance.now() > deadline;
    if (late || status !== "running") {
      const why = late ? `not healthy within ${HEALTHY_WITHIN_MS} ms` : `it is ${status}`;
      throw new Error(`${name}: ${why}\n${await engine.logs(name)}`);
    }
    await delay(500);
  }
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

const engine = new Engine(folder);

async function buildImages() {
  const names = baseNames(dockerfile);
  await need("base images are made of Debian's packages and this machine's Node", async () => {
    await engine.start();
    const kept = process.env.RANKMESH_ROOTFS;
    const log = join(folder, "debootstrap.log");
    const root =
      kept !== undefined && existsSync(join(kept, "rootfs/etc/debian_version"))
        ? join(kept, "rootfs")
        : await bootstrap(kept ?? folder, log);
    await importImage(engine.podman, root, names.DEBIAN_IMAGE);
    // No CUDA: the image is built and started, its backend is not.
    await importImage(engine.podman, root, names.CUDA_IMAGE);
    await importImage(engine.podman, await withNode(root, folder), names.NODE_IMAGE);
    const size = await engine.inspect("image", names.DEBIAN_IMAGE, "{{.Size}}");
    return `${megabytes(size)} of Debian`;
  });
  const { version } = JSON.parse(readFileSync(join(repository, "package.json"), "utf8"));
  for (const [target, tag, base] of [
    ["cpu", CPU, names.DEBIAN_IMAGE],
    ["cuda", CUDA, names.CUDA_IMAGE],
  ]) {
    await need(`target ${target} builds from deploy/Dockerfile`, async () => {
      await engine.build({
        dockerfile,
        context: repository,
        target,
        tag,
        args: { REVISION },
        log: join(folder, `build-${target}.log`),
      });
      const size = await engine.inspect("image", tag, "{{.Size}}");
      const below = await engine.inspect("image", base, "{{.Size}}");
      return `${megabytes(size)}, ${megabytes(size - below)} over its base`;
    });
    await check(`${target}: says its version, revision and licence`, async () => {
      const label = (key) =>
        engine.inspect("image", tag, `{{index .Labels "org.opencontainers.image.${key}"}}`);
      expectEqual(await label("version"), version, "version");
      expectEqual(await label("revision"), REVISION, "revision");
      expect((await label("licenses")).startsWith("Apache-2.0"), "licenses");
      const { stdout, stderr } = await engine.runOnce(tag, { command: ["--version"] });
      expectEqual(stdout.trim(), version, `rankmesh --version ${stderr}`);
    });
    await check(`${target}: no compiler, no package manager of Node's, no sources inside`, () =>
      lookInside(tag),
    );
    await check(`${target}: its health check fails where no daemon runs`, async () => {
      const { code, stdout } = await engine.runOnce(tag, { command: ["doctor", "--health"] });
      expectEqual(code, 1, `exit of doctor --health, ${stdout}`);
      const test = await engine.inspect("image", tag, "{{json .HealthCheck.Test}}");
      expectEqual(JSON.parse(test), ["CMD", "rankmesh", "doctor", "--health"], "HEALTHCHECK");
    });
  }
  await check("cpu: computes with OpenBLAS and the kernels of this processor", async () => {
    const { stdout } = await engine.runOnce(CPU, { command: ["doctor", "--json"] });
    const { findings } = JSON.parse(stdout);
    const { ok, detail } = findings.find(({ name }) => name === "backend cpu");
    expect(ok && detail.includes("OpenBLAS"), `backend cpu: ${detail}`);
    return detail;
  });
  const what = "cuda: trains on the look-alike driver, on a read-only root";
  if (existsSync(LOOK_ALIKE)) await check(what, trainOnLookAlike);
  else console.log(`--      ${what}: not run, \`npm test\` builds the look-alike`);
}

/** The driver and cuBLAS of the tests, which run the image's kernels on the processor; `npm test` builds it. */
const LOOK_ALIKE = join(repository, "dist/test-native/librankmesh_lookalike.so");

async function trainOnLookAlike() {
  const shared = engine.folder("look-alike");
  copyFileSync(LOOK_ALIKE, join(shared, "look-alike.so"));
  writeFileSync(join(shared, "job.yaml"), JSON.stringify({ ...JOB, steps: 2, output: undefined }));
  const variables = ["RANKMESH_CUDA_LIBRARY", "RANKMESH_CUBLAS_LIBRARY"];
  const { code, stdout, stderr } = await engine.runOnce(CUDA, {
    flags: [
      ...variables.flatMap((name) => ["--env", `${name}=/look-alike/look-alike.so`]),
      ...["--env", "RANKMESH_NCCL_LIBRARY=off", "--env", "RANKMESH_LOOKALIKE_DEVICES=2"],
      ...["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"],
      ...["--volume", `${shared}:/look-alike:ro`],
    ],
    command: ["run", "/look-alike/job.yaml", "--backend", "cuda"],
    timeoutMs: 120_000,
  });
  expectEqual(code, 0, `rankmesh run: ${stdout}${stderr}`);
  expect(/ cuda /.test(stdout), `no rank on cuda: ${stdout}`);
}

async function lookInside(tag) {
  const script = `
    for program in ${[...COMPILERS, ...PACKAGE_MANAGERS].join(" ")}; do
      if command -v "$program"; then echo "has $program"; fi
    done
    find /app -name '*.ts' -path '/app/dist/*' -o -name .npmrc -o -path /app/dist/test -o -path /app/node_modules/typescript
    find /app ! -user root -o -perm -o+w ! -type l
    [ -e /app/package-lock.json ] || echo 'no package-lock.json'
    [ -e /var/lib/dpkg/status ] || echo 'no lists of dpkg'
    ls /app/dist/native/*.so >/dev/null || echo 'no kernels'`;
  const { stdout, stderr } = await engine.runOnce(tag, {
    flags: ["--entrypoint", "sh"],
    command: ["-c", script],
  });
  expectEqual(`${stdout}${stderr}`, "", "found");
}

/** Coordinator and workers of profile `cpu`, as docker-compose.yml has them. */
async function runServices() {
  const all = readServices(join(repository, "docker-compose.yml"));
  const names = ["coordinator", "worker-cpu-1", "worker-cpu-2"];
  const services = names.map((name) => [name, all[name]]);
  // On the host's network names are no addresses by themselves.
  const hosts = names.flatMap((name) => ["--add-host", `${name}:127.0.0.1`]);
  for (const [name, service] of services) {
    await need(
      `${name}: starts by its settings in docker-compose.yml, and is healthy`,
      async () => {
        const test = JSON.parse(await engine.inspect("image", CPU, "{{json .HealthCheck.Test}}"));
        expectEqual(service.healthcheck.test, test, "health check, beside the image's");
        const flags = flagsOf(name, service);
        // Started in the order of depends_on.
        await engine.runService(CPU, [...flags, ...hosts], service.command);
        await waitHealthy(engine, name);
      },
    );
  }
  for (const [name, service] of services)
    await check(
      `${name}: no root, no privileges, and nothing to write to but what it was given`,
      () => lookAround(name, service),
    );
  await check("coordinator: knows both workers, and where Prometheus finds them", async () => {
    const workers = JSON.parse(await client(["workers", "--json"]));
    const list = Array.isArray(workers) ? workers : workers.workers;
    expectEqual(list.map(({ name }) => name).sort(), names.slice(1), "workers");
    const targets = JSON.parse(await get("coordinator", "http://127.0.0.1:8080/sd/workers"));
    const found = targets.flatMap((entry) => entry.targets).sort();
    expectEqual(found, ["worker-cpu-1:8081", "worker-cpu-2:8082"], "targets");
    for (const target of found) {
      const metrics = await get("coordinator", `http://${target}/metrics`);
      expect(metrics.includes("rankmesh_build_info"), `${target} serves no rankmesh_build_info`);
    }
  });
  await check("a job of 2 ranks trains over gRPC, and its losses are those of a run outside", () =>
    trainInAndOutside(),
  );
  for (const [name, service] of services.toReversed()) {
    await check(`${name}: ends in order when it is stopped`, async () => {
      const start = performance.now();
      await engine.stop(name);
      const took = (performance.now() - start) / 1000;
      const code = await engine.inspect("container", name, "{{.State.ExitCode}}");
      expectEqual(code, "0", `exit code, with\n${await engine.logs(name)}\n`);
      const grace = seconds(service.stop_grace_period);
      expect(took < grace, `took ${took.toFixed(1)} s of ${grace} s`);
    });
  }
}

async function lookAround(name, service) {
  const script = `
    id -u; id -g
    for file in /made-by-test /app/made-by-test /etc/made-by-test; do
      if touch "$file" 2>/dev/null; then echo "wrote $file"; fi
    done
    touch /tmp/made-by-test && echo tmp
    if [ "$(hostname)" = coordinator ]; then touch /data/made-by-test && rm /data/made-by-test && echo data; fi
    sed -n 's/^\\(CapEff\\|CapPrm\\|NoNewPrivs\\):\\s*/\\1 /p' /proc/1/status`;
  const { stdout, stderr } = await engine.exec(name, ["sh", "-c", script]);
  const [user, group] = service.user.split(":");
  const data = name === "coordinator" ? ["data"] : [];
  expectEqual(
    stdout.trim().split("\n"),
    [
      ...[user, group, "tmp", ...data],
      ...["CapPrm 0000000000000000", "CapEff 0000000000000000", "NoNewPrivs 1"],
    ],
    `what it may${stderr}`,
  );
}

/** A GET from inside a container. */
async function get(name, url) {
  const script = `fetch(${JSON.stringify(url)}, { signal: AbortSignal.timeout(5000) })
    .then(async (reply) => { process.stdout.write(await reply.text()); process.exitCode = reply.ok ? 0 : 1; })`;
  const { code, stdout, stderr } = await engine.exec(name, ["node", "-e", script]);
  expectEqual(code, 0, `GET ${url}: ${stdout}${stderr}`);
  return stdout;
}

/** `rankmesh ...` in a container of its own, which reaches the coordinator as any client would. */
async function client(command, flags = []) {
  const { code, stdout, stderr } = await engine.runOnce(CPU, {
    flags: ["--env", "RANKMESH_ADDRESS=127.0.0.1:50051", ...flags],
    command,
    timeoutMs: 120_000,
  });
  expectEqual(code, 0, `rankmesh ${command.join(" ")}: ${stdout}${stderr}`);
  return stdout;
}

async function trainInAndOutside() {
  const shared = engine.folder("job");
  chmodSync(shared, 0o777);
  // JSON is YAML.
  writeFileSync(join(shared, "job.yaml"), JSON.stringify(JOB));
  await client(
    ["job", "submit", "/job/job.yaml", "--json", "/job/inside.json"],
    ["--volume", `${shared}:/job`],
  );
  const main = join(repository, "dist/cli/main.js");
  await run(
    [
      ...[process.execPath, main, "run", join(shared, "job.yaml")],
      ...["--backend", "cpu", "--json", join(shared, "outside.json")],
    ],
    { timeoutMs: 120_000 },
  );
  const [inside, outside] = ["inside", "outside"].map((name) =>
    JSON.parse(readFileSync(join(shared, `${name}.json`), "utf8")),
  );
  expectEqual(inside.state, "SUCCEEDED", "state");
  expectEqual(inside.loss.length, JOB.steps, "number of losses");
  let worst = 0;
  for (const [step, loss] of inside.loss.entries()) {
    const wanted = outside.loss[step];
    worst = Math.max(worst, Math.abs(loss - wanted) / Math.abs(wanted));
    expect(worst <= LOSS_TOLERANCE, `step ${step}: loss ${loss}, outside ${wanted}`);
  }
  const workers = inside.ranks.map(({ worker }) => worker).sort();
  expectEqual(workers, ["worker-cpu-1", "worker-cpu-2"], "workers of the ranks");
  for (const { rank, peakMemoryBytes, predictedPeakMemoryBytes } of inside.ranks)
    expectEqual(peakMemoryBytes, predictedPeakMemoryBytes, `peak memory of rank ${rank}`);
  const script = "stat --format '%u:%g %s' /data/images.safetensors";
  const { stdout } = await engine.exec("coordinator", ["sh", "-c", script]);
  const bytes = statSync(join(shared, "images.safetensors")).size;
  expectEqual(stdout.trim(), `1000:1000 ${bytes}`, "owner and size of the weights in volume data");
  const agreement = worst === 0 ? "bit for bit" : `within ${worst.toExponential(1)}`;
  return `${JOB.steps} steps, loss ${inside.loss[0]} to ${inside.loss.at(-1)}, ${agreement}`;
}

try {
  await buildImages();
  await runServices();
} catch (error) {
  if (!(error instanceof Stop)) {
    failed++;
    console.log(error);
  }
} finally {
  await engine.removeAll().catch((error) => console.error(error));
}
console.log(`\n${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
