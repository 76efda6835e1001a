import { expect } from "chai";
import fc from "fast-check";
import { textWidth } from "../../../../cli/terminal/text-width.ts";
import { JobPicture } from "../../../../cli/watch/job-picture.ts";
import type {
  Job,
  RankReport,
  StateEvent,
  StepEvent,
  Worker,
} from "../../../../client/job-types.ts";
import { expectGolden } from "../../../support/golden.ts";

const UNICODE = { color: false, unicode: true };
const START = Date.UTC(2026, 0, 2, 3, 4, 5);

function rank(index: number, change: Partial<RankReport> = {}): RankReport {
  return {
    rank: index,
    worker: `worker-${index}`,
    backend: "cuda",
    device: `${index} NVIDIA H100 80GB HBM3`,
    peakMemoryBytes: 2.4e9 + index * 1e7,
    predictedPeakMemoryBytes: 2.4e9,
    rssBytes: 0,
    collectiveBytes: 0,
    workspaceBytes: 0,
    ...change,
  };
}

function worker(index: number, state = "busy"): Worker {
  return {
    name: `worker-${index}`,
    state,
    address: "",
    httpAddress: "",
    backend: "cuda",
    device: "",
    memoryLimitBytes: 8e9,
    jobId: "job-1",
    rank: index,
    heartbeatAgeSeconds: 0,
    precisions: [],
    workspaceBytes: 0,
    backendReason: "",
    lostReason: undefined,
  };
}

function job(change: Partial<Job> = {}): Job {
  return {
    jobId: "job-1",
    name: "tiny-llama",
    state: "QUEUED",
    reason: "needs 2 workers, 1 is free",
    error: undefined,
    mesh: { dataParallel: 1, tensorParallel: 2 },
    steps: 400,
    stepsDone: 0,
    batchSize: 8,
    loss: [],
    gradNorm: [],
    stepSeconds: [],
    evaluations: [],
    lastLoss: undefined,
    ranks: [],
    notes: [],
    generation: 1,
    createdAt: undefined,
    endedAt: undefined,
    ...change,
  };
}

function state(
  name: StateEvent["state"],
  atSeconds: number,
  change: Partial<StateEvent> = {},
): StateEvent {
  return {
    kind: "state",
    eventId: 1,
    time: new Date(START + atSeconds * 1000),
    state: name,
    reason: "",
    error: undefined,
    ranks: [],
    ...change,
  };
}

function step(index: number, loss: number, seconds: number): StepEvent {
  return {
    kind: "step",
    eventId: index + 2,
    time: new Date(START + 1000 + index * 250),
    step: index,
    loss,
    gradNorm: undefined,
    seconds,
    samplesPerSecond: 8 / seconds,
    peakMemoryBytes: 2.41e9,
  };
}

/** 240 of 400 steps on two ranks, with an evaluation every 60, a slow step and a warning. */
function running(): JobPicture {
  const picture = new JobPicture(job());
  picture.state(state("STARTING", 0));
  picture.takeJob({ mesh: undefined, ranks: [rank(0), rank(1, { peakMemoryBytes: 7e9 })] });
  picture.takeWorkers([worker(0), worker(1)]);
  picture.state(state("RUNNING", 1, { reason: "all ranks are ready" }));
  for (let i = 0; i < 240; i++) {
    const wave = Math.sin(i * 1.7);
    picture.step(
      step(
        i,
        1.5 + 3 * Math.exp(-i / 60) + 0.05 * wave,
        i === 0 ? 3 : i === 150 ? 2 : 0.25 + 0.02 * wave,
      ),
    );
    if (i % 60 === 59)
      picture.evaluation({ step: i + 1, loss: 1.8 + 3 * Math.exp(-i / 60), batches: 2 });
  }
  picture.log({
    kind: "log",
    eventId: 9,
    time: new Date(START + 9000),
    level: "warn",
    rank: 1,
    message: "slow\x1b[2J\ndisk",
  });
  return picture;
}

describe("picture of a job", () => {
  for (const [columns, rows] of [
    [60, 24],
    [80, 30],
    [100, 30],
    [160, 45],
    [200, 20],
  ] as const) {
    for (const unicode of [true, false]) {
      it(`in ${columns} columns and ${rows} rows, ${unicode ? "braille" : "ASCII"}`, () => {
        const lines = running().lines({ columns, rows }, { color: false, unicode });
        const text = `${lines.join("\n")}\n`;
        if (!unicode) expect(text).to.match(/^[\x20-\x7e\n]*$/);
        expectGolden(`watch/picture-${columns}x${rows}${unicode ? "" : "-ascii"}.txt`, text);
      });
    }
  }

  it("says why a job waits while there are no steps", () => {
    const lines = new JobPicture(job()).lines({ columns: 60, rows: 10 }, UNICODE);
    expect(lines[0]).to.equal("tiny-llama  QUEUED  data 1 x tensor 2  job-1");
    expect(lines[2]).to.equal("needs 2 workers, 1 is free");
  });

  it("says which step was the first without a finite loss, and why the job failed", () => {
    const picture = new JobPicture(job());
    picture.state(state("RUNNING", 1));
    picture.step(step(0, 2, 1));
    picture.step(step(1, Number.NaN, 1));
    const error = {
      code: "OUT_OF_RANGE",
      message: "loss is NaN at step 1",
      rank: undefined,
      worker: undefined,
      step: 1,
    };
    picture.state(state("FAILED", 3, { error }));
    const text = picture.lines({ columns: 80, rows: 30 }, UNICODE).join("\n");
    expect(text).to.match(/^tiny-llama {2}FAILED/);
    expect(text).to.match(/loss +not finite at step 2$/m);
    expect(text).to.match(/^loss NaN /m);
    expect(text).to.match(/^03:04:08Z FAILED: loss is NaN at step 1$/m);
    expect(text).to.not.include("ETA");
  });

  it("counts the ranks that do not fit, and shows several beside each other on a wide terminal", () => {
    const ranks = Array.from({ length: 64 }, (_, index) => rank(index));
    const picture = new JobPicture(job({ ranks }));
    const narrow = picture.lines({ columns: 80, rows: 24 }, UNICODE).join("\n");
    expect(narrow).to.match(/^\d+ more ranks: 2\.\d+ GB to 3\.03 GB$/m);
    const wide = picture.lines({ columns: 200, rows: 50 }, UNICODE).join("\n");
    expect(wide).to.not.include("more rank");
    for (const index of ranks.keys()) expect(wide).to.match(new RegExp(`\\bworker-${index}\\b`));
  });

  it("names a rank whose worker is lost, and keeps the limit it had", () => {
    const picture = new JobPicture(job({ ranks: [rank(0)] }));
    picture.takeWorkers([worker(0, "lost")]);
    picture.takeWorkers([]);
    const text = picture.lines({ columns: 120, rows: 30 }, UNICODE).join("\n");
    expect(text).to.include("2.40 GB of 8.00 GB, as predicted, worker lost");
  });

  it("fits every terminal, however long its texts and however many its ranks", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 20, max: 200 }),
        fc.integer({ min: 3, max: 80 }),
        fc.nat(70),
        fc.string({ unit: "grapheme", maxLength: 60 }),
        fc.array(fc.double(), { maxLength: 20 }),
        (columns, rows, numRanks, name, losses) => {
          const ranks = Array.from({ length: numRanks }, (_, index) =>
            rank(index, { worker: name }),
          );
          const picture = new JobPicture(job({ name, ranks }));
          for (const [index, loss] of losses.entries()) picture.step(step(index, loss, 0.1));
          picture.note(name);
          const lines = picture.lines({ columns, rows }, { color: true, unicode: true });
          expect(lines.length).to.be.at.most(rows);
          for (const line of lines) expect(textWidth(line)).to.be.at.most(columns);
        },
      ),
      { numRuns: 60 },
    );
  });
});
