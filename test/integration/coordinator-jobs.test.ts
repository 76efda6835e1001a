import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import {
  AlreadyExistsError,
  FailedPreconditionError,
  InvalidArgumentError,
  NotFoundError,
  ResourceExhaustedError,
} from "../../shared/errors.ts";
import { jobSpecToProto } from "../../shared/job/proto.ts";
import { readStream } from "../../shared/rpc/call.ts";
import type { DownloadWeightsResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/DownloadWeightsResponse.ts";
import type { PlanJobResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/PlanJobResponse.ts";
import { wholeIntervals } from "../../shared/safetensors/box.ts";
import { SafetensorsFile } from "../../shared/safetensors/reader.ts";
import { caught } from "../support/caught.ts";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";
import { fakeLoss, fakeWeight } from "../support/fake-worker.ts";

describe("coordinator: jobs", function () {
  this.timeout(20_000);
  let coordinator: CoordinatorHarness;

  beforeEach(async () => {
    coordinator = await CoordinatorHarness.start();
  });

  afterEach(async () => {
    await coordinator.stop();
  });

  for (const [dp, tp] of [
    [1, 1],
    [1, 2],
    [2, 2],
    [3, 1],
  ] as const) {
    it(`runs a job at ${dp} x ${tp} to its end and writes each weight once`, async () => {
      const workers = await coordinator.joinMany(dp * tp);
      const spec = smallJob(dp, tp, {
        data: { batchSize: 6, random: { length: 8, seed: 1 } },
        output: { safetensors: "out.safetensors" },
      });
      const { jobId } = await coordinator.submit(spec);
      const events = await coordinator.events(jobId);

      expect(events.map((e) => e.eventId)).to.deep.equal(events.map((_, i) => i + 1));
      expect(events.flatMap((e) => (e.state ? [e.state.state] : []))).to.deep.equal([
        "JOB_STATE_QUEUED",
        "JOB_STATE_STARTING",
        "JOB_STATE_RUNNING",
        "JOB_STATE_SUCCEEDED",
      ]);
      expect(
        events.flatMap((e) =>
          e.step ? [[e.step.step, e.step.loss, e.step.seconds, e.step.samplesPerSecond]] : [],
        ),
      ).to.deep.equal([0, 1, 2].map((step) => [step, fakeLoss(step), 0.25, 24]));
      expect(events.at(-1)?.state?.ranks.map((r) => r.worker)).to.deep.equal(
        workers.map((w) => w.name),
      );

      const job = await coordinator.get(jobId);
      expect(job).to.include({
        state: "JOB_STATE_SUCCEEDED",
        stepsDone: 3,
        dataParallel: dp,
        tensorParallel: tp,
      });
      expect(job.loss).to.deep.equal([0, 1, 2].map(fakeLoss));
      expect(job.ranks.map((r) => r.rssBytes)).to.deep.equal(workers.map(() => 5000));
      expect(job.ranks[0]?.predictedPeakMemoryBytes).to.be.greaterThan(0);
      expect((await coordinator.listWorkers()).map((w) => w.state)).to.deep.equal(
        workers.map(() => "idle"),
      );

      const path = join(coordinator.dir, "out.safetensors");
      const file = await SafetensorsFile.open(path);
      expect([...file.header.tensors.keys()]).to.deep.equal([
        "w1.weight",
        "w2.weight",
        "w3.weight",
      ]);
      for (const tensor of file.header.tensors.values()) {
        const bytes = await file.readWhole(tensor, wholeIntervals(tensor.shape));
        const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
        expect([...values]).to.deep.equal(Array.from({ length: 48 }, (_, i) => fakeWeight(i)));
      }
      await file.close();

      const downloaded: Buffer[] = [];
      const call = coordinator.rpc.downloadWeights({ jobId });
      for await (const { data } of readStream<DownloadWeightsResponse__Output>(call, "coordinator"))
        downloaded.push(data);
      expect(Buffer.concat(downloaded).equals(await readFile(path))).to.equal(true);
    });
  }

  it("gives the ranks of a tensor-parallel group the same bytes and splits the batch over the data axis", async () => {
    const workers = await coordinator.joinMany(4);
    const { jobId } = await coordinator.submit(smallJob(2, 2));
    await coordinator.finished(jobId);
    const bytes = workers.map((w) => w.batches.map((b) => b.inputs.map((i) => i.toString("hex"))));
    expect(bytes[0]).to.deep.equal(bytes[1]);
    expect(bytes[2]).to.deep.equal(bytes[3]);
    expect(bytes[0]).to.not.deep.equal(bytes[2]);
    expect(workers[0]?.batches.map((b) => [b.step, b.inputs[0]?.length])).to.deep.equal(
      [0, 1, 2].map((s) => [s, 2 * 6 * 4]),
    );
  });

  it("replays events to a late watcher and only later ones after an id, also past the end", async () => {
    await coordinator.joinMany(1);
    const { jobId } = await coordinator.submit(smallJob(1, 1));
    const all = await coordinator.events(jobId);
    expect(await coordinator.events(jobId)).to.deep.equal(all);
    expect((await coordinator.events(jobId, 4)).map((e) => e.eventId)).to.deep.equal(
      all.slice(4).map((e) => e.eventId),
    );
    expect(await coordinator.events(jobId, 1_000)).to.deep.equal([]);
  });

  it("queues a job with the reason said, and starts it when the last worker joins", async () => {
    await coordinator.joinMany(1);
    const { jobId } = await coordinator.submit(smallJob(1, 2));
    expect(await coordinator.get(jobId)).to.include({
      state: "JOB_STATE_QUEUED",
      reason: "needs 2 workers, 1 is free (1 registered)",
    });
    await coordinator.join("w1");
    expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
  });

  it("waits while no worker is registered at all", async () => {
    const { jobId } = await coordinator.submit(smallJob(1, 1));
    expect((await coordinator.get(jobId)).reason).to.equal("needs 1 worker, none is registered");
    await coordinator.join("w0");
    expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
  });

  it("refuses with no_queue what cannot start now, and leaves no job behind", async () => {
    await coordinator.joinMany(1);
    const error = await caught(coordinator.submit(smallJob(1, 2), { noQueue: true }));
    expect(error).to.be.instanceOf(FailedPreconditionError);
    expect(error.message).to.equal(
      "the job cannot start now: needs 2 workers, 1 is free (1 registered)",
    );
    const list = await coordinator.list();
    expect(list.jobs).to.deep.equal([]);
  });

  it("takes all free workers for an auto size", async () => {
    await coordinator.joinMany(4);
    const { jobId } = await coordinator.submit(smallJob(1, "auto"));
    expect(await coordinator.finished(jobId)).to.include({ dataParallel: 1, tensorParallel: 4 });
  });

  it("refuses an auto size that does not compile with the workers that are free, with the numbers", async () => {
    await coordinator.joinMany(3);
    const error = await caught(coordinator.submit(smallJob(1, "auto")));
    expect(error).to.be.instanceOf(InvalidArgumentError);
    expect(error.message).to.match(/8.*3/);
  });

  it("refuses a job that no registered worker has the memory for, with the bill", async () => {
    await coordinator.joinMany(2, () => ({ memoryLimitBytes: 1000 }));
    const error = await caught(coordinator.submit(smallJob(1, 2)));
    expect(error).to.be.instanceOf(FailedPreconditionError);
    expect(error.message).to.match(
      /^a rank needs .*bytes: .*weights .*\) at dataParallel 1 x tensorParallel 2, but the largest registered worker, w0, has 1.00 kB/,
    );
  });

  it("finds all faults of a spec at once: schema, plan, divisibility and files", async () => {
    const error = await caught(
      coordinator.submit({
        ...smallJob(1, 3),
        name: "x\u0007",
        optimizer: { adamw: { lr: Number.NaN } },
        plan: { w9: "colwise", w1: "colwise", w3: "colwise", w2: "rowwise" },
        data: { batchSize: 4, safetensors: { path: "../../etc/passwd" } },
        output: { safetensors: "no/such/folder.safetensors" },
      }),
    );
    expect(error).to.be.instanceOf(InvalidArgumentError);
    const paths = (error as InvalidArgumentError).faults.map((f) => f.path);
    for (const path of [
      "name",
      "optimizer.adamw.lr",
      'plan["w9"]',
      "data.safetensors.path",
      "output.safetensors",
    ]) {
      expect(paths, error.message).to.include(path);
    }
    expect(error.message).to.match(/8.*3/);
  });

  it("gives the same job for a repeated id and equal spec, also when both are sent at once", async () => {
    const twice = await Promise.all(
      [1, 2].map(() => coordinator.submit(smallJob(1, 1), { jobId: "mine" })),
    );
    expect(twice.map((job) => job.jobId)).to.deep.equal(["mine", "mine"]);
    // Defaults written out mean the same job.
    await coordinator.submit(smallJob(1, 1, { clipGradNorm: 0 }), { jobId: "mine" });
    const error = await caught(coordinator.submit(smallJob(1, 1, { steps: 4 }), { jobId: "mine" }));
    expect(error).to.be.instanceOf(AlreadyExistsError);
    const list = await coordinator.list();
    expect(list.jobs.length).to.equal(1);
  });

  it("makes ids of its own that sort by time", async () => {
    const { jobId } = await coordinator.submit(smallJob(1, 1));
    expect(jobId).to.match(/^\d{8}-\d{6}-[0-9a-f]{6}$/);
  });

  for (const [what, jobId] of [
    ["a control character", "a\u001b[31mb"],
    ["300 bytes", "x".repeat(300)],
    ["a leading space", " a"],
  ] as const) {
    it(`refuses an id with ${what}`, async () => {
      const error = await caught(coordinator.submit(smallJob(1, 1), { jobId }));
      expect(error).to.be.instanceOf(InvalidArgumentError);
      expect((error as InvalidArgumentError).faults[0]?.path).to.equal("jobId");
      expect(await caught(coordinator.get(jobId))).to.be.instanceOf(InvalidArgumentError);
    });
  }

  it("refuses a 10 MB name by its size and goes on serving", async () => {
    const error = await caught(
      coordinator.submit(smallJob(1, 1, { name: "x".repeat(10_000_000) })),
    );
    expect(error).to.be.instanceOf(ResourceExhaustedError);
    await coordinator.joinMany(1);
    const { jobId } = await coordinator.submit(smallJob(1, 1));
    expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
  });

  it("answers NOT_FOUND for a job that is not there", async () => {
    for (const call of [
      coordinator.get("no"),
      coordinator.cancel("no"),
      coordinator.events("no"),
    ]) {
      expect(await caught(call)).to.be.instanceOf(NotFoundError);
    }
  });

  it("lists jobs newest first, in pages", async () => {
    for (const jobId of ["a", "b", "c"]) await coordinator.submit(smallJob(1, 1), { jobId });
    const first = await coordinator.list(2);
    expect(first.jobs.map((j) => j.jobId)).to.deep.equal(["c", "b"]);
    const second = await coordinator.list(2, first.nextPageToken);
    expect(second.jobs.map((j) => j.jobId)).to.deep.equal(["a"]);
    expect(second.nextPageToken).to.equal("");
    expect(await caught(coordinator.list(2, "nonsense"))).to.be.instanceOf(InvalidArgumentError);
  });

  it("plans a job without starting anything", async () => {
    const request = { spec: jobSpecToProto(smallJob(1, 2)) };
    const plan = await coordinator.call<PlanJobResponse__Output>((o, done) =>
      coordinator.rpc.planJob(request, o, done),
    );
    const report = JSON.parse(plan.reportJson) as { ranks: unknown[]; peakMemoryBytes: number };
    expect(report.ranks.length).to.equal(2);
    expect(report.peakMemoryBytes).to.be.greaterThan(0);
    expect(plan.reportText).to.contain("2 ranks");
  });

  it("offers no weights of a job that has none", async () => {
    const { jobId } = await coordinator.submit(smallJob(1, 1));
    const read = async (): Promise<void> => {
      for await (const _ of readStream(coordinator.rpc.downloadWeights({ jobId }), "c")) void _;
    };
    expect((await caught(read())).message).to.contain(
      "QUEUED; only a job that SUCCEEDED has weights",
    );
    await coordinator.joinMany(1);
    await coordinator.finished(jobId);
    expect((await caught(read())).message).to.contain("wrote no weights");
  });

  it("runs a second job after the first on the same workers, one after the other", async () => {
    await coordinator.joinMany(2);
    const ids = await Promise.all(
      [1, 2, 3].map(async () => (await coordinator.submit(smallJob(1, 2))).jobId),
    );
    for (const jobId of ids)
      expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
  });

  it("initialises and writes the output of a job of 0 steps", async () => {
    await coordinator.joinMany(1);
    const { jobId } = await coordinator.submit(
      smallJob(1, 1, { steps: 0, output: { safetensors: "zero.safetensors" } }),
    );
    const job = await coordinator.finished(jobId);
    expect(job).to.include({ state: "JOB_STATE_SUCCEEDED", stepsDone: 0 });
    expect((await readFile(join(coordinator.dir, "zero.safetensors"))).length).to.be.greaterThan(
      3 * 48 * 4,
    );
  });
});
