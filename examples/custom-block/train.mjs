// The same model from a program of your own: traced here, sent as a graph, fed with batches as the job takes them.
// Needs a coordinator and two workers:
//   npx rankmesh coordinator &
//   npx rankmesh worker --coordinator 127.0.0.1:50051 &
//   npx rankmesh worker --coordinator 127.0.0.1:50051 &
//   node examples/custom-block/train.mjs [TEXT FILE]
import { readFile } from "node:fs/promises";
import { InvalidArgumentError, RankmeshClient, trace } from "rankmesh";
import Net, { SIZES } from "./model.mjs";

const BATCH = 8;
const STEPS = Number(process.env.STEPS ?? 100);

// Ctrl+C aborts what waits for the coordinator; so do batches that fail, and the end of ten minutes.
const interrupt = new AbortController();
process.once("SIGINT", () => interrupt.abort(new Error("interrupted")));
const signal = AbortSignal.any([interrupt.signal, AbortSignal.timeout(600_000)]);

const client = new RankmeshClient({ address: process.env.RANKMESH_ADDRESS ?? "127.0.0.1:50051" });
let job;
try {
  const text = await readFile(process.argv[2] ?? new URL("../../ARCHITECTURE.md", import.meta.url));
  job = await client.submit(
    {
      name: "custom-block",
      model: { graph: trace(new Net(), Net.inputs, Net.plan) },
      mesh: { tensorParallel: 2 },
      loss: "cross_entropy",
      optimizer: { adamw: { lr: 3e-3 } },
      data: { batchSize: BATCH, stream: { seqLen: SIZES.length } },
      steps: STEPS,
    },
    // An answer within five seconds, or an error that names the coordinator.
    { signal, deadlineMs: 5_000 },
  );
  const pushed = job.pushBatches(batches(text), { signal });
  pushed.catch((error) => interrupt.abort(error)); // a job without batches would wait for them
  for await (const event of job.events({ signal })) {
    switch (event.kind) {
      case "step":
        console.log(`step ${event.step} loss ${event.loss.toFixed(4)}`);
        break;
      case "state":
        console.log(event.state, event.error?.message ?? event.reason);
        break;
      case "log":
        console.error(event.message);
        break;
    }
  }
  await job.result({ signal }); // throws what made the job fail
  console.log(`${await pushed} batches taken`);
} catch (error) {
  // Every fault of a spec comes at once, each with its field.
  if (error instanceof InvalidArgumentError) {
    for (const { path, message } of error.faults) console.error(`${path}: ${message}`);
  } else {
    console.error(error.message);
  }
  if (signal.aborted) await job?.cancel().catch(() => {});
  process.exitCode = 1;
} finally {
  client.close();
}

/** Windows of the text at random places, and the same windows one byte later. */
function* batches(text) {
  const { length } = SIZES;
  const dims = [BATCH, length];
  for (let step = 0; step < STEPS; step++) {
    const tokens = new Int32Array(BATCH * length);
    const targets = new Int32Array(BATCH * length);
    for (let row = 0; row < BATCH; row++) {
      const start = Math.floor(Math.random() * (text.length - length));
      tokens.set(text.subarray(start, start + length), row * length);
      targets.set(text.subarray(start + 1, start + length + 1), row * length);
    }
    yield { tokens: { data: tokens, dims }, targets: { data: targets, dims } };
  }
}
