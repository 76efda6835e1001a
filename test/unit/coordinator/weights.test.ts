import { expect } from "chai";
import fc from "fast-check";
import { memoryBill } from "../../../coordinator/gang/memory-bill.ts";
import { planJob } from "../../../coordinator/planning/plan-job.ts";
import { shardsToRead } from "../../../coordinator/weights/write-output.ts";
import { requireJobSpec } from "../../../shared/job/resolve.ts";
import { smallJob } from "../../support/coordinator-harness.ts";

describe("output", () => {
  it("reads each element of each parameter exactly once, from the lowest rank that has it", () => {
    const mesh = fc.constantFrom([1, 1], [1, 2], [2, 1], [2, 2], [4, 1], [2, 4], [1, 8], [3, 2]);
    const sharding = fc.constantFrom("none", "optimizer", "full");
    const plan = fc.constantFrom(
      {},
      { "*": "replicate" },
      { w1: "rowwise", w3: "rowwise", w2: "colwise" },
    );
    fc.assert(
      fc.property(
        mesh,
        sharding,
        plan,
        ([dataParallel = 1, tensorParallel = 1], dataParallelSharding, styles) => {
          const spec = requireJobSpec({
            ...smallJob(dataParallel, tensorParallel),
            model: { feedForward: { dim: 8, hidden: 16 } },
            data: { batchSize: 12, random: {} },
            dataParallelSharding,
            plan: styles,
          });
          const { program } = planJob(spec, { dataParallel, tensorParallel });
          const shards = shardsToRead(program);
          for (const [stored, tensor] of program.stored.entries()) {
            const mine = shards.filter((shard) => shard.stored === stored);
            if (tensor.role !== "parameter") {
              expect(mine).to.deep.equal([]);
              continue;
            }
            const [rows = 0, columns = 0] = tensor.globalShape;
            const times = new Array<number>(rows * columns).fill(0);
            for (const { intervals } of mine) {
              const [r, c] = intervals;
              for (let i = r?.start ?? 0; i < (r?.end ?? 0); i++) {
                for (let j = c?.start ?? 0; j < (c?.end ?? 0); j++)
                  times[i * columns + j] = (times[i * columns + j] ?? 0) + 1;
              }
            }
            expect(
              times.every((t) => t === 1),
              `${tensor.name} ${tensor.layout.join()}`,
            ).to.equal(true);
            // Whatever is whole somewhere comes from rank 0.
            if (tensor.layout.every((placement) => placement === "R"))
              expect(mine.map((s) => s.rank)).to.deep.equal([0]);
          }
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe("memory bill", () => {
  it("names what a rank needs by kind, largest first, and the largest worker", () => {
    const spec = requireJobSpec(smallJob(1, 1));
    const { program } = planJob(spec, { dataParallel: 1, tensorParallel: 1 });
    const precisions = ["float32"] as const;
    const worker = { backend: "cpu", fingerprint: "f", workspaceBytes: 0, precisions };
    const bill = memoryBill(program, [
      { ...worker, name: "small", memoryLimitBytes: 10 },
      { ...worker, name: "large", memoryLimitBytes: 1500 },
    ]);
    const [largest] = Object.entries(program.memoryByKind).sort(([, x], [, y]) => y - x);
    expect(bill).to.contain(`(${program.arenaBytes} bytes: ${largest?.[0]} `);
    expect(bill).to.contain("the largest registered worker, large, has 1.50 kB (1500 bytes)");
  });

  it("counts the backend's workspace, and finds the worker that has most beside its own", () => {
    const { program } = planJob(requireJobSpec(smallJob(1, 1)), {
      dataParallel: 1,
      tensorParallel: 1,
    });
    const precisions = ["float32"] as const;
    const bill = memoryBill(program, [
      {
        ...{ backend: "cuda", fingerprint: "f", workspaceBytes: 1400, precisions },
        ...{ name: "gpu", memoryLimitBytes: 1500 },
      },
      {
        ...{ backend: "cuda", fingerprint: "f", workspaceBytes: 1000, precisions },
        ...{ name: "old", memoryLimitBytes: 1200 },
      },
    ]);
    expect(bill).to.contain(`(${program.arenaBytes + 1000} bytes: `);
    expect(bill).to.contain(
      ", workspace of backend cuda 1.00 kB) at dataParallel 1 x tensorParallel 1, but the largest registered worker, old, has 1.20 kB",
    );
  });
});
