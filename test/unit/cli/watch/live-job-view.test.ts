import { expect } from "chai";
import { InPlaceScreen } from "../../../../cli/terminal/in-place-screen.ts";
import { LiveJobView } from "../../../../cli/watch/live-job-view.ts";
import type { Job, StateEvent, StepEvent } from "../../../../client/job-types.ts";
import { poll } from "../../../support/cli.ts";
import { FakeTerminal } from "../../../support/terminal.ts";

const JOB: Job = {
  jobId: "job-1",
  name: "small",
  state: "RUNNING",
  reason: "",
  error: undefined,
  mesh: undefined,
  steps: 40,
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
};

const step = (index: number): StepEvent => ({
  kind: "step",
  eventId: index + 1,
  time: undefined,
  step: index,
  loss: 2,
  gradNorm: undefined,
  seconds: 0.1,
  samplesPerSecond: 80,
  peakMemoryBytes: 1000,
});

const succeeded: StateEvent = {
  kind: "state",
  eventId: 99,
  time: undefined,
  state: "SUCCEEDED",
  reason: "",
  error: undefined,
  ranks: [],
};

function count(text: string, part: string): number {
  return text.split(part).length - 1;
}

describe("lines redrawn in place", () => {
  it("replace the last ones and leave what was above", () => {
    const terminal = new FakeTerminal(40, 10);
    const screen = new InPlaceScreen(terminal);
    terminal.write("before\n");
    screen.draw(["one", "two", "three"]);
    screen.draw(["1", "2"]);
    terminal.write("after\n");
    expect(terminal.text).to.equal("before\n1\n2\nafter\n");
  });

  it("leave nothing behind when the terminal becomes narrower and wraps them", () => {
    const terminal = new FakeTerminal(80, 20);
    const screen = new InPlaceScreen(terminal);
    terminal.write("before\n");
    screen.draw(["x".repeat(79), "y".repeat(79)]);
    terminal.resize(30, 20);
    screen.draw(["x".repeat(29), "y".repeat(29)]);
    expect(terminal.text).to.equal(`before\n${"x".repeat(29)}\n${"y".repeat(29)}\n`);
    terminal.resize(80, 20);
    screen.draw(["z"]);
    expect(terminal.text).to.equal("before\nz\n");
  });

  it("take a size of 0 for one that is not known", () => {
    expect(new InPlaceScreen({ write: () => {}, columns: 0, rows: 0 }).size).to.deep.equal({
      columns: 79,
      rows: 23,
    });
  });
});

describe("live view of a job", () => {
  const views: LiveJobView[] = [];
  afterEach(() => {
    for (const view of views.splice(0)) view.end();
  });

  function live(terminal: FakeTerminal, ask: ConstructorParameters<typeof LiveJobView>[0]["ask"]) {
    const style = { color: false, unicode: false };
    const view = new LiveJobView({
      stream: terminal,
      style,
      job: JOB,
      workers: [],
      ask,
      frameMs: 5,
    });
    views.push(view);
    return view;
  }

  const silent = { job: async () => JOB, workers: async () => [] };

  it("leaves one picture, the last, whatever was drawn before", async () => {
    const terminal = new FakeTerminal(70, 24);
    const view = live(terminal, silent).start();
    for (let index = 0; index < 40; index++) {
      view.step(step(index));
      if (index === 20) {
        await poll(() => (terminal.text.includes("step 2") ? true : undefined), "a frame");
        terminal.resize(50, 30);
      }
    }
    view.state(succeeded);
    view.end();
    view.end();
    expect(count(terminal.text, "memory of each rank")).to.equal(0);
    expect(count(terminal.text, "step time")).to.equal(1);
    expect(terminal.text).to.match(/^small {2}SUCCEEDED/);
    expect(terminal.text).to.include("step 40/40  100%");
    expect(terminal.listenerCount("resize")).to.equal(0);
  });

  it("asks for the ranks, and goes on when it cannot have them", async () => {
    const terminal = new FakeTerminal(70, 24);
    let asked = 0;
    const view = live(terminal, {
      job: async () => {
        asked += 1;
        if (asked === 1) throw new Error("gone");
        const rank = { rank: 0, worker: "w0", backend: "cpu", device: "", peakMemoryBytes: 5e8 };
        const rest = { predictedPeakMemoryBytes: 5e8, rssBytes: 0, collectiveBytes: 0 };
        return { mesh: undefined, ranks: [{ ...rank, ...rest, workspaceBytes: 0 }] };
      },
      workers: async () => [],
    }).start();
    await poll(() => (asked === 1 ? true : undefined), "question");
    // What every step reports has changed: a reason to ask again at once.
    view.step(step(0));
    await poll(
      () => (terminal.text.includes("0 w0  cpu") ? true : undefined),
      "rank",
      15_000,
      () => terminal.text,
    );
    expect(terminal.text).to.include("500.0 MB, as predicted");
  });

  it("draws below after the process was stopped and goes on", async () => {
    const terminal = new FakeTerminal(70, 24);
    const view = live(terminal, silent).start();
    await poll(() => (terminal.text.includes("small") ? true : undefined), "a frame");
    terminal.write("[1]+  Stopped\n");
    process.emit("SIGCONT", "SIGCONT");
    view.end();
    expect(terminal.text).to.include("[1]+  Stopped\nsmall  RUNNING");
    expect(count(terminal.text, "small  RUNNING")).to.equal(2);
  });
});
