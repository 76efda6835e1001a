import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import { assignGang, startGang, tinyBatches } from "../support/fake-coordinator.ts";
import { tinyProgram } from "../support/tiny-program.ts";
import { WorkerHarness } from "../support/worker-harness.ts";

/** Series by name, each with its labels (but for a histogram's `le`) and its value. */
interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

async function scrape(address: string): Promise<Map<string, Sample[]>> {
  const text = await (await fetch(`http://${address}/metrics`)).text();
  const samples = new Map<string, Sample[]>();
  for (const line of text.split("\n")) {
    const match = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (match === null) continue;
    const [, name = "", labelText = "", value = ""] = match;
    const labels = Object.fromEntries(
      [...labelText.matchAll(/(\w+)="([^"]*)"/g)].map(([, k = "", v = ""]) => [k, v]),
    );
    samples.set(name, [...(samples.get(name) ?? []), { labels, value: Number(value) }]);
  }
  return samples;
}

/** Metric and its labels, as the metrics reference lists them. */
const RANK = ["backend", "device", "job_id", "rank"];
const EXPECTED: Readonly<Record<string, readonly string[]>> = {
  rankmesh_rank_peak_memory_bytes: RANK,
  rankmesh_rank_memory_bytes: [...RANK, "kind"].sort(),
  rankmesh_rank_predicted_peak_memory_bytes: RANK,
  rankmesh_rank_memory_limit_bytes: RANK,
  rankmesh_train_step_duration_seconds_count: RANK,
  rankmesh_train_step: RANK,
  rankmesh_train_phase_seconds_total: [...RANK, "phase"].sort(),
  rankmesh_collective_duration_seconds_count: ["job_id", "op", "rank", "transport"],
  rankmesh_collective_bytes_total: ["direction", "job_id", "op", "rank"],
  rankmesh_collective_wait_seconds_total: ["job_id", "peer", "rank"],
  rankmesh_build_info: ["node", "role", "version"],
};

describe("worker metrics", () => {
  const harness = new WorkerHarness();

  afterEach(() => harness.stop());

  it("have every name with its labels, and the values of the run", async () => {
    const { sessions, handles } = await harness.gang(2, {}, { memoryLimitBytes: 5_000 });
    const program = tinyProgram({ ranks: 2 });
    assignGang(sessions, program, { steps: 6, jobId: 'odd "name"\\n' });
    await startGang(sessions, { jobId: 'odd "name"\\n', generation: 1 });
    await Promise.all(sessions.map((session) => session.next("finished")));
    const samples = await scrape(handles[1]?.httpAddress ?? "");
    for (const [name, labels] of Object.entries(EXPECTED)) {
      const found = samples.get(name) ?? [];
      expect(found, name).to.not.deep.equal([]);
      for (const sample of found) {
        expect(Object.keys(sample.labels).sort(), name).to.deep.equal(labels);
        if ("rank" in sample.labels) expect(sample.labels["rank"]).to.equal("1");
      }
    }
    const only = (name: string): number | undefined => samples.get(name)?.[0]?.value;
    expect(only("rankmesh_rank_peak_memory_bytes")).to.equal(program.arenaBytes);
    expect(only("rankmesh_rank_predicted_peak_memory_bytes")).to.equal(program.arenaBytes);
    expect(only("rankmesh_rank_memory_limit_bytes")).to.equal(5_000);
    expect(only("rankmesh_train_step")).to.equal(6);
    expect(only("rankmesh_train_step_duration_seconds_count")).to.equal(6);
    expect(only("rankmesh_collective_duration_seconds_count")).to.equal(6);
    const kinds = (samples.get("rankmesh_rank_memory_bytes") ?? []).map(({ labels, value }) => [
      labels["kind"],
      value,
    ]);
    expect(Object.fromEntries(kinds)).to.deep.equal(program.memoryByKind);
    const bytes = (samples.get("rankmesh_collective_bytes_total") ?? []).map(
      ({ labels, value }) => [labels["direction"], value],
    );
    expect(Object.fromEntries(bytes)).to.deep.equal({ sent: 24, received: 24 });
    expect(
      samples.get("rankmesh_collective_duration_seconds_count")?.[0]?.labels["transport"],
    ).to.equal("grpc");
    expect(samples.get("rankmesh_collective_wait_seconds_total")?.[0]?.labels["peer"]).to.equal(
      "0",
    );
    expect(only("process_resident_memory_bytes")).to.be.greaterThan(10e6);
  });

  it("say what the steps' time went to: late batches, computing, a late device, a late peer", async () => {
    async function* batches() {
      for (const message of tinyBatches(3)) {
        if (message.step === 1 && message.offsetBytes === 0) await setTimeout(400);
        yield message;
      }
    }
    const { sessions, handles } = await harness.gang(2, { batches }, { device: "late:40" });
    const sleep = { kind: "compute", op: "sleep", inputs: [], outputs: [] } as const;
    const program = tinyProgram({ ranks: 2, prelude: [{ ...sleep, attrs: { rank: 1, ms: 60 } }] });
    assignGang(sessions, program, { steps: 3 });
    await startGang(sessions);
    await Promise.all(sessions.map((session) => session.next("finished")));
    const seconds = [];
    for (const { httpAddress } of handles) {
      const samples = await scrape(httpAddress);
      const phases = Object.fromEntries(
        (samples.get("rankmesh_train_phase_seconds_total") ?? []).map(
          ({ labels, value }) => [labels["phase"] ?? "", value] as const,
        ),
      );
      expect(Object.keys(phases)).to.deep.equal(["data", "compute", "device", "collective"]);
      const total = Object.values(phases).reduce((sum, value) => sum + value, 0);
      const [duration] = samples.get("rankmesh_train_step_duration_seconds_sum") ?? [];
      expect(total).to.be.closeTo(duration?.value ?? 0, 1e-9);
      seconds.push(phases);
    }
    // Less than was slept: timers may end a little early, and the ranks do not begin at the same moment.
    expect(seconds[0]?.["collective"]).to.be.above(0.1);
    expect(seconds[1]?.["compute"]).to.be.above(0.17);
    for (const phases of seconds) {
      expect(phases["data"]).to.be.above(0.2);
      expect(phases["device"]).to.be.above(0.11);
    }
  });

  it("keep a job's series after its end, with no memory held, and start anew with the next generation", async () => {
    const { sessions, handles } = await harness.gang(1);
    const address = handles[0]?.httpAddress ?? "";
    for (const generation of [1, 2]) {
      assignGang(sessions, tinyProgram({ ranks: 1 }), { steps: 4, generation });
      await startGang(sessions, { jobId: "job", generation });
      await sessions[0]?.next("finished");
      sessions[0]?.send({ release: { jobId: "job", generation } });
      await sessions[0]?.next("released");
      const samples = await scrape(address);
      expect(
        samples.get("rankmesh_train_step_duration_seconds_count")?.map(({ value }) => value),
      ).to.deep.equal([4]);
      for (const { value } of samples.get("rankmesh_rank_memory_bytes") ?? [])
        expect(value).to.equal(0);
      expect(samples.get("rankmesh_rank_peak_memory_bytes")?.[0]?.value).to.equal(104);
    }
  });

  it("are served beside /healthz, and nothing else is", async () => {
    const { handles } = await harness.gang(1);
    const base = `http://${handles[0]?.httpAddress}`;
    const status = async (path: string, method = "GET"): Promise<number> =>
      (await fetch(base + path, { method })).status;
    expect(await status("/healthz")).to.equal(200);
    expect(await status("/metrics?x=1")).to.equal(200);
    expect(await status("/")).to.equal(404);
    expect(await status("/metrics", "POST")).to.equal(405);
    expect(await (await fetch(`${base}/metrics`, { method: "HEAD" })).text()).to.equal("");
  });
});
