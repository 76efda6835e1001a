import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { FailedPreconditionError, InvalidArgumentError } from "../../shared/errors.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { shardIntervals } from "../../shared/mesh/placement.ts";
import type { Program } from "../../shared/program/program.ts";
import { decodeProgramText } from "../../shared/program/wire.ts";
import type { PushBatchesResponse__Output } from "../../shared/rpc/gen/rankmesh/v1/PushBatchesResponse.ts";
import type { TensorData } from "../../shared/rpc/gen/rankmesh/v1/TensorData.ts";
import { fromServiceError } from "../../shared/rpc/status.ts";
import { wholeIntervals } from "../../shared/safetensors/box.ts";
import { SafetensorsFile } from "../../shared/safetensors/reader.ts";
import { SafetensorsWriter } from "../../shared/safetensors/writer.ts";
import { caught } from "../support/caught.ts";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";

/** Writes a safetensors file of float32 tensors that count up from 0, and returns its name. */
async function writeTensors(
  dir: string,
  name: string,
  shapes: Record<string, number[]>,
): Promise<string> {
  const specs = Object.entries(shapes).map(([tensor, shape]) => ({
    name: tensor,
    dtype: "F32" as const,
    shape,
  }));
  const writer = await SafetensorsWriter.create(join(dir, name), specs);
  for (const { name: tensor, shape } of specs) {
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i);
    await writer.writeSlice(tensor, wholeIntervals(shape), [new Uint8Array(values.buffer)]);
  }
  await writer.commit();
  return name;
}

const WEIGHTS = { "w1.weight": [8, 6], "w2.weight": [6, 8], "w3.weight": [8, 6] };

/** One batch [4, 6] that begins with `first`. */
function batch(first: number): TensorData[] {
  const values = Float32Array.from({ length: 24 }, (_, i) => first + i);
  return [{ name: "x", dtype: "float32", dims: [4, 6], data: Buffer.from(values.buffer) }];
}

describe("coordinator: data and weights", function () {
  this.timeout(20_000);
  let coordinator: CoordinatorHarness;

  beforeEach(async () => {
    coordinator = await CoordinatorHarness.start();
  });

  afterEach(async () => {
    await coordinator.stop();
  });

  const faultsOf = async (more: Partial<JobSpecInput>): Promise<string[]> => {
    const error = await caught(coordinator.submit(smallJob(1, 1, more)));
    expect(error, error.message).to.be.instanceOf(InvalidArgumentError);
    return (error as InvalidArgumentError).faults.map(({ path, message }) => `${path}: ${message}`);
  };

  /** Pushes batches in one call; resolves with its answer. */
  const push = async (jobId: string, batches: TensorData[][]): Promise<number> =>
    await new Promise((resolve, reject) => {
      const call = coordinator.rpc.pushBatches((error, response?: PushBatchesResponse__Output) => {
        if (error !== null) reject(fromServiceError(error, "coordinator"));
        else resolve(response?.batches ?? 0);
      });
      call.on("error", () => undefined);
      for (const [index, tensors] of batches.entries()) {
        call.write({ jobId: index === 0 ? jobId : "", tensors });
      }
      call.end();
    });

  for (const [dp, tp] of [
    [1, 1],
    [1, 2],
    [2, 2],
  ] as const) {
    it(`hands each rank exactly its slices of the initial weights at ${dp} x ${tp}`, async () => {
      const workers = await coordinator.joinMany(dp * tp);
      const safetensors = await writeTensors(coordinator.dir, "init.safetensors", WEIGHTS);
      const sharding = dp > 1 ? ({ dataParallelSharding: "full" } as const) : {};
      const { jobId } = await coordinator.submit(
        smallJob(dp, tp, { init: { safetensors }, ...sharding }),
      );
      const job = await coordinator.finished(jobId);
      expect(job.state, job.error?.message).to.equal("JOB_STATE_SUCCEEDED");
      const file = await SafetensorsFile.open(join(coordinator.dir, safetensors));
      for (const [rank, worker] of workers.entries()) {
        const program = JSON.parse(
          decodeProgramText(worker.assigned[0]?.programJson ?? Buffer.alloc(0)),
        ) as Program;
        expect(worker.weights.size).to.equal(3);
        for (const [stored, bytes] of worker.weights) {
          const tensor = program.stored[stored];
          if (tensor === undefined) throw new Error("no tensor");
          const intervals = shardIntervals(tensor.globalShape, tensor.layout, program.mesh, rank);
          const expected = await file.readWhole(file.tensor(tensor.name), intervals);
          expect(bytes.equals(expected), `${tensor.name} of rank ${rank}`).to.equal(true);
          expect(bytes.length).to.equal((48 * 4) / (dp * tp));
        }
      }
      await file.close();
    });
  }

  it("refuses initial weights that are missing, of another shape or too many, all at once", async () => {
    const { "w1.weight": w1 } = WEIGHTS;
    const safetensors = await writeTensors(coordinator.dir, "init.safetensors", {
      "w1.weight": w1,
      "w2.weight": [8, 6],
      "w3.wieght": [8, 6],
      bias: [6],
    });
    expect(await faultsOf({ init: { safetensors } })).to.deep.equal([
      'init.safetensors: init.safetensors: tensor "w2.weight" is [8, 6], the model\'s is [6, 8]',
      'init.safetensors: init.safetensors: has no tensor "w3.weight" (float32 [8, 6]); did you mean "w3.wieght"?',
      'init.safetensors: init.safetensors: has 2 tensors that the model does not: "bias", "w3.wieght"; leave out what is no parameter',
    ]);
  });

  it("refuses a truncated file of weights and data with too few columns, in one answer", async () => {
    await writeFile(
      join(coordinator.dir, "broken.safetensors"),
      Buffer.from([99, 0, 0, 0, 0, 0, 0, 0, 123]),
    );
    const path = await writeTensors(coordinator.dir, "data.safetensors", { x: [10, 5] });
    const faults = await faultsOf({
      init: { safetensors: "broken.safetensors" },
      data: { batchSize: 4, safetensors: { path } },
    });
    expect(faults.length).to.equal(2);
    expect(faults.join("\n")).to.match(/data\.safetensors\.path: .*\[10, 5\] F32.*\[rows, 6\]/);
    expect(faults.join("\n")).to.match(
      /init\.safetensors: broken\.safetensors: file truncated: have 9 bytes/,
    );
  });

  it("refuses files outside the data root, and every file without one", async () => {
    expect((await faultsOf({ output: { safetensors: "/tmp/x.safetensors" } }))[0]).to.match(
      /^output\.safetensors: .*outside the data root/,
    );
    const other = await CoordinatorHarness.start({ files: { kind: "none" } });
    const error = await caught(
      other.submit(smallJob(1, 1, { output: { safetensors: "x.safetensors" } })),
    );
    expect(error.message).to.contain("no data root");
    await other.stop();
  });

  it("trains on rows of a file in order, wrapping round at its end", async () => {
    const [worker] = await coordinator.joinMany(1);
    const path = await writeTensors(coordinator.dir, "data.safetensors", { x: [5, 6] });
    const { jobId } = await coordinator.submit(
      smallJob(1, 1, { data: { batchSize: 4, safetensors: { path } } }),
    );
    await coordinator.finished(jobId);
    const firstColumns = worker?.batches.map(({ inputs }) => {
      const x = inputs[0] ?? Buffer.alloc(0);
      return [0, 1, 2, 3].map((row) => x.readFloatLE(row * 24) / 6);
    });
    expect(firstColumns).to.deep.equal([
      [0, 1, 2, 3],
      [4, 0, 1, 2],
      [3, 4, 0, 1],
    ]);
  });

  it("fails a job whose data file vanished between submit and start", async () => {
    const path = await writeTensors(coordinator.dir, "data.safetensors", { x: [5, 6] });
    const { jobId } = await coordinator.submit(
      smallJob(1, 1, { data: { batchSize: 4, safetensors: { path } } }),
    );
    await writeFile(join(coordinator.dir, path), "x");
    const [worker] = await coordinator.joinMany(1);
    const { error } = await coordinator.finished(jobId);
    expect(error?.code).to.equal("INVALID_ARGUMENT");
    expect(error?.message).to.match(
      /^data\.safetensors\.path: data\.safetensors: not a safetensors file/,
    );
    // It was never told of the job: there is nothing for it to abort.
    expect([worker?.assigned, worker?.aborts]).to.deep.equal([[], []]);
    await coordinator.until(
      "the worker is idle",
      async () => (await coordinator.listWorkers())[0]?.state === "idle",
    );
  });

  describe("pushed by a client", () => {
    const streamed = (steps: number) =>
      smallJob(1, 2, { steps, data: { batchSize: 4, stream: {} } });

    it("trains on each batch as it comes, so that a client can wait for its step", async () => {
      const workers = await coordinator.joinMany(2);
      const { jobId } = await coordinator.submit(streamed(3));
      const events = coordinator.watch(jobId);
      for (const step of [0, 1, 2]) {
        // One call a batch: the end of a call is not the end of the data.
        expect(await push(jobId, [batch(100 * step)])).to.equal(1);
        for (;;) {
          const { value } = await events.next();
          if (value?.step?.step === step) break;
        }
      }
      expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
      for (const worker of workers) {
        expect(worker.batches.map((b) => b.inputs[0]?.readFloatLE(0))).to.deep.equal([0, 100, 200]);
      }
    });

    it("takes batches before there are workers, and holds a fast client back", async () => {
      const { jobId } = await coordinator.submit(streamed(20));
      const pushed = push(
        jobId,
        Array.from({ length: 20 }, (_, i) => batch(i)),
      );
      let answered = false;
      void pushed.then(() => {
        answered = true;
      });
      await new Promise((resolve) => setTimeout(resolve, 100));
      expect(answered).to.equal(false);
      await coordinator.joinMany(2);
      expect(await pushed).to.equal(20);
      expect((await coordinator.finished(jobId)).stepsDone).to.equal(20);
    });

    it("refuses a batch of another shape with its faults, and the job goes on", async () => {
      await coordinator.joinMany(2);
      const { jobId } = await coordinator.submit(streamed(1));
      const wrong = [{ ...batch(0)[0], dims: [4, 5] }];
      const error = await caught(push(jobId, [wrong]));
      expect(error).to.be.instanceOf(InvalidArgumentError);
      expect(error.message).to.contain('input "x" is [4, 6], not [4, 5]');
      await push(jobId, [batch(0)]);
      expect((await coordinator.finished(jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
    });

    it("refuses batches for a job that reads its own data, or that is over", async () => {
      const own = await coordinator.submit(smallJob(1, 2));
      expect((await caught(push(own.jobId, [batch(0)]))).message).to.contain("reads its own data");
      const { jobId } = await coordinator.submit(streamed(1));
      await coordinator.cancel(jobId);
      const error = await caught(push(jobId, [batch(0)]));
      expect(error).to.be.instanceOf(FailedPreconditionError);
      expect(error.message).to.contain("is CANCELLED and takes no more batches");
    });

    it("ends a waiting push when the job is cancelled", async () => {
      const { jobId } = await coordinator.submit(streamed(20));
      const pushed = caught(
        push(
          jobId,
          Array.from({ length: 20 }, (_, i) => batch(i)),
        ),
      );
      await new Promise((resolve) => setTimeout(resolve, 50));
      await coordinator.cancel(jobId);
      expect((await pushed).message).to.contain("takes no more batches");
    });
  });
});
