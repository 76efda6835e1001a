// A training loop of your own over the SDK: push a batch, read its step. Needs a coordinator and a worker:
//   npx rankmesh coordinator &
//   npx rankmesh worker --coordinator 127.0.0.1:50051 &
//   node examples/train-loop.mjs
import { RankmeshClient } from "rankmesh";

const STEPS = 10;
const BATCH = 8;
const DIM = 16;

const client = new RankmeshClient({ address: process.env.RANKMESH_ADDRESS ?? "127.0.0.1:50051" });
try {
  const job = await client.submit({
    name: "train-loop",
    model: { mlp: { dims: [DIM, 64, DIM] } },
    loss: "mse",
    data: { batchSize: BATCH, stream: {} },
    steps: STEPS,
  });
  const pushed = job.pushBatches(batches());
  for await (const event of job.events()) {
    if (event.kind === "step") console.log(`step ${event.step} loss ${event.loss}`);
    if (event.kind === "state") console.log(event.state, event.reason);
  }
  console.log(`${await pushed} batches taken`);
} finally {
  client.close();
}

/** Learns to negate: y = -x. The next batch is made when the coordinator has room for it. */
function* batches() {
  for (let step = 0; step < STEPS; step++) {
    const x = Float32Array.from({ length: BATCH * DIM }, () => Math.random() - 0.5);
    const dims = [BATCH, DIM];
    yield { x: { data: x, dims }, y: { data: x.map((value) => -value), dims } };
  }
}
