import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { eventFromWire, jobFromWire } from "../../client/convert.ts";
import { InvalidArgumentError } from "../../shared/errors.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { caught } from "../support/caught.ts";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";
import { integers, writeTensors } from "../support/data.ts";
import { fakeEvaluationLoss, fakeLoss } from "../support/fake-worker.ts";
import { tokenizerJson } from "../support/tokenizer.ts";

const LLAMA = {
  llama: { dim: 8, layers: 1, heads: 2, kvHeads: 2, hidden: 8, vocab: 128 },
} as const;

/** A small language model on `tensorParallel` ranks. */
function languageJob(tensorParallel: number, more: Partial<JobSpecInput>): JobSpecInput {
  return {
    name: "language",
    model: LLAMA,
    mesh: { tensorParallel },
    loss: "cross_entropy",
    data: { batchSize: 2, random: { seqLen: 4 } },
    steps: 2,
    ...more,
  };
}

describe("coordinator: texts and held-out data", function () {
  this.timeout(30_000);
  let coordinator: CoordinatorHarness;

  beforeEach(async () => {
    coordinator = await CoordinatorHarness.start();
  });

  afterEach(async () => {
    await coordinator.stop();
  });

  const write = (name: string, content: string | Uint8Array): Promise<void> =>
    writeFile(join(coordinator.dir, name), content);

  const faultsOf = async (spec: JobSpecInput): Promise<string[]> => {
    const error = await caught(coordinator.submit(spec));
    expect(error, error.message).to.be.instanceOf(InvalidArgumentError);
    return (error as InvalidArgumentError).faults.map(({ path, message }) => `${path}: ${message}`);
  };

  it("evaluates every k steps and after the last, and tells so in events, job and metrics", async () => {
    const workers = await coordinator.joinMany(2);
    const { jobId } = await coordinator.submit(
      smallJob(1, 2, {
        steps: 5,
        eval: { every: 2, batches: 2, data: { random: { length: 11, seed: 9 } } },
      }),
    );
    const told = (await coordinator.events(jobId)).flatMap((event) => eventFromWire(event) ?? []);
    const steps = told.flatMap((event) =>
      event.kind === "step" || event.kind === "eval" ? [`${event.kind} ${event.step}`] : [],
    );
    expect(steps).to.deep.equal([
      ...["step 0", "step 1", "eval 2", "step 2", "step 3", "eval 4"],
      ...["step 4", "eval 5"],
    ]);
    const mean = (after: number): number =>
      (fakeEvaluationLoss(after, 0) + fakeEvaluationLoss(after, 1)) / 2;
    const evaluations = [
      { step: 2, loss: mean(1), batches: 2 },
      { step: 4, loss: mean(3), batches: 2 },
      { step: 5, loss: mean(4), batches: 2 },
    ];
    const job = jobFromWire(await coordinator.get(jobId));
    expect(job.evaluations).to.deep.equal(evaluations);
    expect(job).to.include({ state: "SUCCEEDED", stepsDone: 5 });
    expect(job.loss).to.deep.equal([0, 1, 2, 3, 4].map(fakeLoss));
    expect(await coordinator.metrics()).to.contain(
      `rankmesh_eval_loss{job_id="${jobId}"} ${mean(4)}`,
    );
    for (const worker of workers) {
      const kinds = worker.batches.map(({ step, evaluation }) => `${step} ${evaluation ?? ""}`);
      expect(kinds).to.deep.equal([
        ...["0 ", "1 ", "1 0", "1 1", "2 ", "3 ", "3 0", "3 1"],
        ...["4 ", "4 0", "4 1"],
      ]);
      // The same batches each time, in order, and none of the training data.
      const bytes = (index: number): string =>
        worker.batches[index]?.inputs[0]?.toString("hex") ?? "";
      expect([bytes(6), bytes(9)]).to.deep.equal([bytes(2), bytes(2)]);
      expect([bytes(7), bytes(10)]).to.deep.equal([bytes(3), bytes(3)]);
      expect(new Set([0, 1, 2, 3].map(bytes)).size).to.equal(4);
    }
    const list = await coordinator.list();
    expect(list.jobs[0]?.evaluations).to.deep.equal([]);
  });

  it("evaluates on all whole batches where the job does not say on how many, and not at all for 0 steps", async () => {
    const [worker] = await coordinator.joinMany(1);
    const heldOut = { every: 10, data: { random: { length: 11 } } };
    const { jobId } = await coordinator.submit(smallJob(1, 1, { steps: 1, eval: heldOut }));
    const job = await coordinator.finished(jobId);
    expect(job.evaluations.map(({ step, batches }) => [step, batches])).to.deep.equal([[1, 2]]);
    expect(worker?.batches.map((b) => b.evaluation)).to.deep.equal([undefined, 0, 1]);
    const none = await coordinator.submit(smallJob(1, 1, { steps: 0, eval: heldOut }));
    expect((await coordinator.finished(none.jobId)).state).to.equal("JOB_STATE_SUCCEEDED");
  });

  it("refuses held-out data with fewer rows than a batch", async () => {
    const faults = await faultsOf(
      smallJob(1, 1, { eval: { every: 1, data: { random: { length: 3 } } } }),
    );
    expect(faults).to.deep.equal([
      "eval.data.random: has 3 rows; an evaluation takes whole batches of data.batchSize 4",
    ]);
  });

  it("streams the windows of a text to all ranks, and of tokens to be evaluated on", async () => {
    const workers = await coordinator.joinMany(2);
    await write("text.txt", "In the beginning was the word.");
    const held = Uint16Array.from({ length: 20 }, (_, i) => 100 + i);
    await write("held.bin", new Uint8Array(held.buffer));
    const { jobId } = await coordinator.submit(
      languageJob(2, {
        data: { batchSize: 2, text: { path: "text.txt", seqLen: 4 } },
        eval: { every: 2, data: { tokens: { path: "held.bin", seqLen: 4 } } },
      }),
    );
    const job = await coordinator.finished(jobId);
    expect(job.state, job.error?.message).to.equal("JOB_STATE_SUCCEEDED");
    const read = (bytes: Buffer | undefined): string =>
      String.fromCharCode(...integers(bytes ?? Buffer.alloc(0)));
    for (const worker of workers) {
      expect(worker.batches.map((batch) => batch.inputs.map(read))).to.deep.equal([
        ["In the b", "n the be"],
        ["eginning", "ginning "],
        ["defghijk", "efghijkl"],
        ["lmnopqrs", "mnopqrst"],
      ]);
    }
  });

  it("tokenizes a text when the job starts", async () => {
    const [worker] = await coordinator.joinMany(1);
    await write("text.txt", "the cat the mat the end");
    await write(
      "tok.json",
      tokenizerJson({
        merges: [
          ["t", "h"],
          ["th", "e"],
          [" ", "the"],
        ],
      }),
    );
    const text = { path: "text.txt", tokenizer: "tok.json", seqLen: 4 };
    const { jobId } = await coordinator.submit(
      languageJob(1, {
        model: { llama: { ...LLAMA.llama, vocab: 259 } },
        data: { batchSize: 1, text },
        steps: 1,
      }),
    );
    const job = await coordinator.finished(jobId);
    expect(job.state, job.error?.message).to.equal("JOB_STATE_SUCCEEDED");
    const [tokens, targets] = worker?.batches[0]?.inputs.map(integers) ?? [];
    expect(tokens).to.deep.equal([257, 32, 99, 97]);
    expect(targets).to.deep.equal([32, 99, 97, 116]);
  });

  it("refuses what is wrong with every file in one answer", async () => {
    await write("text.txt", Buffer.from([0x61, 0x62, 0xff, 0x63, 0x64]));
    await write("held.bin", new Uint8Array(Uint16Array.of(1, 2, 3, 4, 128, 6).buffer));
    const faults = await faultsOf(
      languageJob(1, {
        data: { batchSize: 2, text: { path: "text.txt", seqLen: 4 } },
        eval: { every: 1, data: { tokens: { path: "held.bin", seqLen: 4 } } },
        output: { safetensors: "text.txt" },
      }),
    );
    expect(faults).to.deep.equal([
      'output.safetensors: "text.txt" is the file that the data comes from; write to another one',
      "data.text.path: text.txt: byte 2: no UTF-8; convert the text, or tokenize it yourself for data.tokens",
      "eval.data.tokens.path: held.bin: token 4 (byte 8): id 128 is outside the model's vocabulary of 128",
    ]);
  });

  it("takes the length of sequences from the file that holds them", async () => {
    const [worker] = await coordinator.joinMany(1);
    const values = Int32Array.from({ length: 12 }, (_, i) => i);
    const rows = { shape: [2, 6], values };
    await writeTensors(join(coordinator.dir, "d.safetensors"), { tokens: rows, targets: rows });
    const data = { batchSize: 2, safetensors: { path: "d.safetensors" } };
    const { jobId } = await coordinator.submit(languageJob(1, { data }));
    const job = await coordinator.finished(jobId);
    expect(job.state, job.error?.message).to.equal("JOB_STATE_SUCCEEDED");
    expect(worker?.batches[1]?.inputs.map(integers)).to.deep.equal([[...values], [...values]]);
  });

  it("checks plan and shapes although a file tells no length, and says of the file what is wrong", async () => {
    const faults = await faultsOf(
      languageJob(2, {
        model: { llama: { ...LLAMA.llama, heads: 1, kvHeads: 1 } },
        data: { batchSize: 2, safetensors: { path: "none.safetensors" } },
      }),
    );
    expect(faults.filter((fault) => fault.startsWith("data."))).to.deep.equal([
      'data.safetensors.path: "none.safetensors": no such file',
    ]);
    expect(faults.length).to.be.greaterThan(1);
    expect(faults.join("\n")).to.match(/heads/);
  });
});
