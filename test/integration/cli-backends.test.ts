import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { QuickstartResult } from "../../cli/memory-table.ts";
import { CliProcess, jobFolder, runCli } from "../support/cli.ts";
import { lookAlike } from "../support/look-alike.ts";

const NO_DRIVER = { RANKMESH_CUDA_LIBRARY: "/nowhere/libcuda.so.1" };
const WORKER = ["worker", "--coordinator", "127.0.0.1:1"];

interface Finding {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  readonly absent?: boolean;
}

async function backendsOfDoctor(env: NodeJS.ProcessEnv): Promise<Finding[]> {
  const { code, stdout, stderr } = await runCli(["doctor", "--json"], { env });
  expect(code, stderr).to.equal(0);
  const { findings } = JSON.parse(stdout) as { findings: Finding[] };
  return findings.filter(({ name }) => /^(backend|GPU) /.test(name));
}

describe("without libraries of CUDA", () => {
  it("a worker that is told to use it ends at once, names the driver and says what to install", async () => {
    const args = [...WORKER, "--backend", "cuda"];
    const { code, stdout, stderr } = await runCli(args, { env: NO_DRIVER });
    expect([code, stdout]).to.deep.equal([1, ""]);
    expect(stderr).to.match(
      /^rankmesh: cuda backend: \/nowhere\/libcuda\.so\.1 could not be loaded \(.*\); install NVIDIA's driver .*\n$/,
    );
  });

  it("a worker that finds a driver but no cuBLAS names that", async () => {
    const env = { ...lookAlike().env, RANKMESH_CUBLAS_LIBRARY: "/nowhere/libcublas.so.13" };
    const { code, stderr } = await runCli([...WORKER, "--backend", "cuda"], { env });
    expect(code).to.equal(1);
    expect(stderr).to.match(
      /^rankmesh: cuda backend: \/nowhere\/libcublas\.so\.13 could not be loaded \(.*\); install cuBLAS .*\n$/,
    );
  });

  it("a worker left to choose says in its log what it took, and why not cuda", async () => {
    const worker = new CliProcess(WORKER, { env: NO_DRIVER });
    try {
      const [line] = await worker.waitFor(/^\{.*"worker listens".*\}$/m);
      const logged = JSON.parse(line) as { readonly backend: string; readonly reason: string };
      expect(logged.backend).to.equal("cpu");
      expect(logged.reason).to.match(
        /^auto: the fastest that runs here \(no cuda: \/nowhere\/libcuda\.so\.1 could not be loaded/,
      );
    } finally {
      worker.child.kill("SIGKILL");
    }
  });

  it("doctor says so, what to install, and that all else is well", async () => {
    const [cuda, ...others] = await backendsOfDoctor(NO_DRIVER);
    expect(cuda).to.deep.include({ name: "backend cuda", ok: true, absent: true });
    expect(cuda?.detail).to.match(
      /^\/nowhere\/libcuda\.so\.1 could not .*; install NVIDIA's driver/,
    );
    expect(others.map(({ name }) => name)).to.deep.equal([
      "backend cpu",
      "backend gpujs",
      "backend reference",
    ]);
  });
});

describe("with a GPU", function () {
  this.timeout(120_000);
  let folder: Awaited<ReturnType<typeof jobFolder>>;

  before(async () => {
    folder = await jobFolder("feedforward-sum");
  });

  after(() => folder.dispose());

  it("doctor tells of device, compute capability, cuBLAS, driver and memory of every GPU", async () => {
    const env = { ...lookAlike().env, RANKMESH_LOOKALIKE_DEVICES: "2" };
    const found = await backendsOfDoctor(env);
    expect(found[0]).to.include({ name: "backend cuda", ok: true });
    expect(found[0]?.detail).to.match(
      /^CUDA look-alike on the CPU .*cuBLAS \d+\.\d+\.\d+.*; computes in fp32, bf16$/,
    );
    const gpus = found.filter(({ name }) => name.startsWith("GPU "));
    expect(gpus.map(({ name }) => name)).to.deep.equal(["GPU 0", "GPU 1"]);
    expect(gpus[1]?.detail).to.match(
      /^CUDA look-alike on the CPU, GPU-[0-9a-f-]+e01, compute capability \d\.\d, 8\.59 GB of memory, driver of CUDA 13\.0$/,
    );
  });

  it("auto takes it, says so, and deals the GPUs out to the ranks", async () => {
    const file = await folder.write("job.yaml", {
      model: { feedForward: { dim: 48, hidden: 80 } },
      mesh: { tensorParallel: "auto" },
      data: { batchSize: 6, random: {} },
      steps: 1,
    });
    const env = { ...lookAlike().env, RANKMESH_LOOKALIKE_DEVICES: "2" };
    const { code, stdout, stderr } = await runCli(["run", file], { env, timeoutMs: 100_000 });
    expect(code, stderr).to.equal(0);
    expect(stderr).to.match(/^backend cuda, the fastest that runs here$/m);
    // One rank a GPU.
    expect(stdout.match(/^ +\d +worker-\d +cuda /gm)).to.have.length(2);
  });

  it("quickstart trains on it, with predictions that are met, and writes its JSON", async () => {
    const json = join(folder.path, "quickstart.json");
    const args = ["quickstart", "--dim", "48", "--hidden", "80", "--steps", "3", "--tp", "1,2"];
    const { code, stdout, stderr } = await runCli(
      [...args, "--backend", "cuda", "--device", "0", "--json", json],
      { env: lookAlike().env, timeoutMs: 100_000 },
    );
    expect(code, stderr).to.equal(0);
    expect(stdout).to.contain("measured = predicted on every rank, initialisation included");
    expect(stdout).to.contain("\nworkspace: what the backend takes beside the program");
    expect(stderr).to.match(
      /^the largest run \(\d ranks?\) takes about .* of memory of GPU 0 \(CUDA look-alike on the CPU\); 8\.59 GB of 8\.59 GB are available$/m,
    );
    const result = JSON.parse(await readFile(json, "utf8")) as QuickstartResult;
    expect(result.backend).to.equal("cuda");
    expect(result.runs.map(({ ranks }) => ranks.length)).to.deep.equal([1, 2]);
    for (const { ranks } of result.runs) {
      for (const rank of ranks) {
        expect(rank.peakMemoryBytes).to.equal(rank.predictedPeakMemoryBytes);
        expect(rank.workspaceBytes).to.be.above(16 << 20);
      }
    }
  });

  it("quickstart refuses at once what its memory cannot hold", async () => {
    const args = ["quickstart", "--dim", "4096", "--hidden", "4096", "--tp", "1"];
    const env = { ...lookAlike().env, RANKMESH_LOOKALIKE_MEMORY: "100000000" };
    const { code, stderr } = await runCli([...args, "--backend", "cuda"], { env });
    expect(code).to.equal(2);
    expect(stderr).to.match(
      /^rankmesh: the largest run \(1 rank\) takes about .* of memory of GPU 0 .*; 100\.0 MB of 100\.0 MB are available; choose/m,
    );
  });
});
