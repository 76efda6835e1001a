import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import { type PushedTensor, StreamSource } from "../../../coordinator/data/stream-source.ts";
import {
  CancelledError,
  InvalidArgumentError,
  ResourceExhaustedError,
  UnavailableError,
} from "../../../shared/errors.ts";
import { caught } from "../../support/caught.ts";

const INPUTS = [
  { name: "x", dtype: "float32", dims: [2] },
  { name: "tokens", dtype: "int32", dims: [] },
] as const;
const OPTIONS = { batchSize: 3, steps: 4, maxQueuedBatches: 2, timeoutMs: 5000 };
const GO = new AbortController().signal;

/** The batch that carries `mark` in its first byte. */
function batch(mark: number): PushedTensor[] {
  const x = new Uint8Array(24);
  x[0] = mark;
  return [
    { name: "tokens", dtype: "int32", dims: [3], data: new Uint8Array(12) },
    { name: "x", dtype: "float32", dims: [3, 2], data: x },
  ];
}

/** As a decoded message has it: at any address of a larger block. */
function tensor(name: string, dims: number[], values: Int32Array): PushedTensor {
  const bytes = new Uint8Array(values.buffer);
  const block = Buffer.concat([Buffer.of(0), bytes]);
  return { name, dtype: "int32", dims, data: block.subarray(1) };
}

async function markOf(source: StreamSource, step: number): Promise<number | undefined> {
  const [x] = await source.takeBatch(step, GO);
  return x?.[0];
}

describe("a stream of batches", () => {
  it("gives batches in the order they were pushed, in the order of the inputs", async () => {
    const source = new StreamSource(INPUTS, OPTIONS);
    await source.push(batch(1), GO);
    await source.push(batch(2), GO);
    const first = await source.takeBatch(0, GO);
    expect(first.map((bytes) => bytes.byteLength)).to.deep.equal([24, 12]);
    expect(first[0]?.[0]).to.equal(1);
    expect(await markOf(source, 1)).to.equal(2);
  });

  it("makes a push wait while the queue is full, and keeps the order of those that wait", async () => {
    const source = new StreamSource(INPUTS, OPTIONS);
    const pushes = [1, 2, 3, 4].map((mark) => source.push(batch(mark), GO));
    await Promise.all(pushes.slice(0, 2));
    await sleep(20);
    expect(source.numPushed).to.equal(2);
    expect(await markOf(source, 0)).to.equal(1);
    await pushes[2];
    expect(source.numPushed).to.equal(3);
    for (const step of [1, 2, 3]) expect(await markOf(source, step)).to.equal(step + 1);
    await pushes[3];
  });

  it("refuses ids that the model does not know, naming batch, row and position", async () => {
    const inputs = [
      { name: "tokens", dtype: "int32", dims: [4], ids: 9 },
      { name: "targets", dtype: "int32", dims: [], ids: 3 },
    ] as const;
    const source = new StreamSource(inputs, OPTIONS);
    const sequences = (tokens: Int32Array, targets: Int32Array): PushedTensor[] => [
      tensor("tokens", [3, 4], tokens),
      tensor("targets", [3], targets),
    ];
    const good = sequences(new Int32Array(12).fill(8), Int32Array.of(0, 1, 2));
    await source.push(good, GO);
    const wrong = new Int32Array(12);
    wrong[6] = 9;
    const error = await caught(source.push(sequences(wrong, Int32Array.of(0, -1, 3)), GO));
    expect((error as InvalidArgumentError).faults).to.deep.equal([
      {
        path: "tensors[0].data",
        message: `batch 1, row 1, position 2 of input "tokens": id 9 is outside the model's vocabulary of 9`,
      },
      {
        path: "tensors[1].data",
        message: `batch 1, row 1 of input "targets": id -1 is outside the model's 3 classes`,
      },
    ]);
    // Nothing of it was taken.
    await source.push(good, GO);
    expect(source.numPushed).to.equal(2);
  });

  it("leaves no gap where a waiting push is cancelled", async () => {
    const source = new StreamSource(INPUTS, { ...OPTIONS, maxQueuedBatches: 1 });
    await source.push(batch(1), GO);
    const abort = new AbortController();
    const cancelled = caught(source.push(batch(2), abort.signal));
    const next = source.push(batch(3), GO);
    abort.abort(new CancelledError("gone"));
    expect((await cancelled).message).to.equal("gone");
    expect(await markOf(source, 0)).to.equal(1);
    await next;
    expect(await markOf(source, 1)).to.equal(3);
  });

  it("makes a take wait for its batch", async () => {
    const source = new StreamSource(INPUTS, OPTIONS);
    const taken = markOf(source, 0);
    await sleep(5);
    await source.push(batch(7), GO);
    expect(await taken).to.equal(7);
  });

  it("says which step no batch came for in time, and for how long it waited", async () => {
    const source = new StreamSource(INPUTS, { ...OPTIONS, timeoutMs: 20 });
    await source.push(batch(1), GO);
    await source.takeBatch(0, GO);
    const error = await caught(source.takeBatch(1, GO));
    expect(error).to.be.instanceOf(UnavailableError);
    expect(error.message).to.equal(
      "step 1: its client pushed no batch within 20 ms; 1 of 4 batches were pushed",
    );
  });

  it("says that the job made no room in time", async () => {
    const source = new StreamSource(INPUTS, { ...OPTIONS, timeoutMs: 20, maxQueuedBatches: 1 });
    await source.push(batch(1), GO);
    const error = await caught(source.push(batch(2), GO));
    expect(error).to.be.instanceOf(ResourceExhaustedError);
    expect(error.message).to.equal(
      "batch 1: no room within 20 ms; the job has taken 0 of 1 batches",
    );
  });

  it("names the step whose batch is missing when the stream ends early", async () => {
    const source = new StreamSource(INPUTS, OPTIONS);
    await source.push(batch(1), GO);
    const later = caught(source.takeBatch(1, GO));
    expect(await markOf(source, 0)).to.equal(1);
    source.end();
    const error = await later;
    expect(error).to.be.instanceOf(InvalidArgumentError);
    expect(error.message).to.equal(
      "data.stream: the stream ended after 1 batches; step 1 of 4 has none",
    );
    expect((await caught(source.push(batch(2), GO))).message).to.match(/has ended already$/);
  });

  it("refuses more batches than the job has steps", async () => {
    const source = new StreamSource(INPUTS, { ...OPTIONS, steps: 1 });
    await source.push(batch(1), GO);
    expect((await caught(source.push(batch(2), GO))).message).to.equal(
      "the job takes 1 batches; this would be one more",
    );
  });

  it("ends every wait with CancelledError when it is closed", async () => {
    const source = new StreamSource(INPUTS, { ...OPTIONS, maxQueuedBatches: 1 });
    const take = caught(source.takeBatch(1, GO));
    await source.push(batch(1), GO);
    const push = caught(source.push(batch(2), GO));
    await source.close();
    for (const error of [await take, await push, await caught(source.push(batch(3), GO))]) {
      expect(error).to.be.instanceOf(CancelledError);
    }
  });

  it("lists every fault of a batch, and takes the next one", async () => {
    const source = new StreamSource(INPUTS, OPTIONS);
    const error = await caught(
      source.push(
        [
          { name: "x", dtype: "int32", dims: [2, 2], data: new Uint8Array(16) },
          { name: "token", dtype: "int32", dims: [3], data: new Uint8Array(12) },
          { name: "x", dtype: "float32", dims: [3, 2], data: new Uint8Array(24) },
        ],
        GO,
      ),
    );
    expect(error.message.split("\n")).to.deep.equal([
      'tensors[1].name: the job has no input "token"; did you mean "tokens"?',
      'tensors[2].name: input "x" is given twice',
      'tensors[0].dtype: input "x" is float32, not "int32"',
      'tensors[0].dims: input "x" is [3, 2], not [2, 2]',
      'tensors[0].data: input "x" takes 24 bytes for [3, 2], not 16',
      'tensors: input "tokens" is missing',
    ]);
    await source.push(batch(1), GO);
    expect(await markOf(source, 0)).to.equal(1);
  });
});
