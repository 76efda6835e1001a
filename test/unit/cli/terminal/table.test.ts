import { expect } from "chai";
import fc from "fast-check";
import { jobTable } from "../../../../cli/commands/job-list.ts";
import { workerTable } from "../../../../cli/commands/workers.ts";
import { PLAIN_STYLE } from "../../../../cli/terminal/style.ts";
import { type Column, renderTable } from "../../../../cli/terminal/table.ts";
import { textWidth } from "../../../../cli/terminal/text-width.ts";
import type { Job, Worker } from "../../../../client/job-types.ts";
import { expectGolden } from "../../../support/golden.ts";

const COLUMNS: readonly Column<readonly [string, string, number]>[] = [
  { title: "id", cell: ([id]) => id },
  { title: "name", cell: ([, name]) => name, min: 6, optional: 1 },
  { title: "size", cell: ([, , size]) => String(size), align: "right" },
];
const ROWS = [
  ["a", "\u65e5\u672c\u8a9e\u306e\u540d\u524d", 1],
  ["bb", "plain", 12345],
] as const;

function render(columns: number | undefined): string[] {
  return renderTable(COLUMNS, ROWS, { columns, style: PLAIN_STYLE });
}

const NOW = Date.UTC(2026, 0, 2, 3, 4, 5);

function job(change: Partial<Job>): Job {
  return {
    jobId: "job-mb1k2x3y-0123456789",
    name: "tiny-llama",
    state: "RUNNING",
    reason: "all ranks are ready",
    error: undefined,
    mesh: { dataParallel: 2, tensorParallel: 4 },
    steps: 5000,
    stepsDone: 1234,
    batchSize: 8,
    loss: [],
    gradNorm: [],
    stepSeconds: [],
    evaluations: [],
    lastLoss: 2.3142,
    ranks: [],
    notes: [],
    generation: 1,
    createdAt: new Date(NOW - 90_000),
    endedAt: undefined,
    ...change,
  };
}

const JOBS = [
  job({}),
  job({
    jobId: "waits",
    name: "\u9577\u3044\u540d\u524d\u306e\u4ed5\u4e8b",
    state: "QUEUED",
    reason: "needs 8 workers, 2 are free (4 registered)",
    mesh: undefined,
    stepsDone: 0,
    lastLoss: undefined,
    createdAt: new Date(NOW - 3 * 3_600_000),
  }),
  job({
    jobId: "bad",
    name: "evil\x1b[2Jname\nline",
    state: "FAILED",
    reason: "loss is NaN at step 2; lower the learning rate, clip the gradient, or check the data",
    lastLoss: Number.NaN,
    createdAt: new Date(NOW + 60_000),
  }),
];

function worker(change: Partial<Worker>): Worker {
  return {
    name: "rankmesh-worker-0",
    state: "busy",
    address: "10.1.2.3:50052",
    httpAddress: "10.1.2.3:8081",
    backend: "cuda",
    device: "0 NVIDIA H100 80GB HBM3",
    memoryLimitBytes: 84.9e9,
    jobId: "job-mb1k2x3y-0123456789",
    rank: 3,
    heartbeatAgeSeconds: 0.4,
    precisions: [],
    workspaceBytes: 0,
    backendReason: "",
    lostReason: undefined,
    ...change,
  };
}

const WORKERS = [
  worker({}),
  worker({
    name: "w1",
    state: "idle",
    backend: "cpu",
    device: "OpenBLAS 0.3.21 Cooperlake, 8 threads, x64",
    memoryLimitBytes: 16e9,
    jobId: undefined,
    rank: undefined,
  }),
  worker({
    name: "w2",
    state: "lost",
    jobId: undefined,
    rank: undefined,
    heartbeatAgeSeconds: 31,
    lostReason: "silent for 5.0 s",
  }),
];

describe("tables on a terminal", () => {
  it("align columns that hold wide characters", () => {
    expect(render(undefined)).to.deep.equal([
      "id  name           size",
      "a   \u65e5\u672c\u8a9e\u306e\u540d\u524d      1",
      "bb  plain         12345",
    ]);
  });

  it("cut what may be cut, and leave out what is optional when that is not enough", () => {
    expect(render(20)).to.deep.equal([
      "id  name        size",
      "a   \u65e5\u672c\u8a9e\u306e~      1",
      "bb  plain      12345",
    ]);
    expect(render(14)).to.deep.equal(["id   size", "a       1", "bb  12345"]);
  });

  for (const columns of [60, 80, 120, 200]) {
    it(`list jobs and workers in ${columns} columns`, () => {
      const options = { columns, style: { color: false, unicode: true } };
      const lines = [...jobTable(JOBS, NOW, options), "", ...workerTable(WORKERS, options)];
      for (const line of lines) expect(textWidth(line)).to.be.at.most(columns);
      expectGolden(`watch/tables-${columns}.txt`, `${lines.join("\n")}\n`);
    });
  }

  it("are never wider than the terminal", () => {
    fc.assert(
      fc.property(fc.integer({ min: 10, max: 250 }), (columns) => {
        const options = { columns, style: { color: true, unicode: true } };
        for (const line of jobTable(JOBS, NOW, options)) {
          expect(textWidth(line)).to.be.at.most(columns);
        }
      }),
    );
  });

  it("say state and steps beside an id and a name that are as long as they may be", () => {
    const long = job({ jobId: "i".repeat(128), name: "n".repeat(256), stepsDone: 7, steps: 20 });
    const options = { columns: 80, style: PLAIN_STYLE };
    const [, line] = jobTable([long], NOW, options);
    expect(line).to.match(/^i{23,}~ {2}.*RUNNING .* 7\/20/);
  });

  it("are whole where there is no terminal, and show no control character of others' text", () => {
    const text = jobTable(JOBS, NOW, { columns: undefined, style: PLAIN_STYLE }).join("\n");
    expect(text).to.include(
      "loss is NaN at step 2; lower the learning rate, clip the gradient, or check the data",
    );
    expect(text).to.include("evil\\u001b[2Jname\\nline");
    expect(text).to.not.include("\x1b");
  });
});
