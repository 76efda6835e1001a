import { expect } from "chai";
import { Progress } from "../../../cli/progress.ts";

class FakeStream {
  readonly isTTY: boolean;
  readonly columns = 40;
  text = "";

  constructor(isTTY: boolean) {
    this.isTTY = isTTY;
  }

  write(text: string): void {
    this.text += text;
  }
}

function step(index: number, seconds = 2) {
  return {
    step: index,
    loss: 1.5 - index,
    seconds,
    samplesPerSecond: 3,
    peakMemoryBytes: 2_415_919_104,
  };
}

describe("progress", () => {
  it("says step, loss, rate, memory and the time left", () => {
    const progress = new Progress({ stream: new FakeStream(false), title: "job", steps: 40 });
    progress.step(step(0));
    expect(progress.line()).to.equal(
      "job  step 1/40  loss 1.50000  3.00 samples/s  peak 2.42 GB  ETA 1:18",
    );
  });

  it("says the last held-out loss beside it, and after how many steps it was", () => {
    const progress = new Progress({ stream: new FakeStream(false), title: "job", steps: 40 });
    progress.step(step(0));
    progress.evaluation({ step: 1, loss: 2.25 });
    progress.step(step(1));
    expect(progress.line()).to.equal(
      "job  step 2/40  loss 0.500000  held-out loss 2.25000 (1 step)  3.00 samples/s  peak 2.42 GB  ETA 1:16",
    );
  });

  it("estimates the time left from recent steps, unmoved by one slow step", () => {
    const progress = new Progress({ stream: new FakeStream(false), title: "job", steps: 20 });
    for (let i = 0; i < 10; i++) progress.step(step(i, i === 8 ? 100 : 1));
    expect(progress.line()).to.match(/ETA 0:10$/);
  });

  it("writes a plain line every 5 s and at the end when the stream is no terminal", () => {
    const stream = new FakeStream(false);
    let nowMs = 0;
    const progress = new Progress({ stream, title: "job", steps: 8, now: () => nowMs }).start();
    for (let i = 0; i < 8; i++) {
      nowMs += 2000;
      progress.step(step(i));
    }
    progress.end();
    progress.end();
    const lines = stream.text.trimEnd().split("\n");
    expect(lines.map((line) => line.match(/step (\d+)/)?.[1])).to.deep.equal(["3", "6", "8"]);
    expect(stream.text).to.not.include("\r");
  });

  it("writes plain lines on a terminal that cannot go back in a line", () => {
    const stream = new FakeStream(true);
    const progress = new Progress({ stream, title: "job", steps: 1, terminal: "dumb" }).start();
    progress.step(step(0));
    progress.end();
    expect(stream.text).to.match(/^job {2}step 1\/1 .*\n$/);
    expect(stream.text).to.not.include("\r");
    expect(stream.text).to.not.include("\x1b");
  });

  it("says why a job waits while it has no steps", () => {
    const stream = new FakeStream(false);
    let nowMs = 0;
    const progress = new Progress({ stream, title: "job", steps: 8, now: () => nowMs }).start();
    nowMs = 6000;
    progress.status("queued: needs 2 workers, 1 is free");
    progress.end();
    expect(stream.text).to.equal("job  queued: needs 2 workers, 1 is free\n");
  });

  it("redraws one line in place on a terminal, cut to its width", () => {
    const stream = new FakeStream(true);
    let nowMs = 0;
    const progress = new Progress({
      stream,
      title: "job",
      steps: 8,
      terminal: "xterm",
      now: () => nowMs,
    }).start();
    for (let i = 0; i < 8; i++) {
      nowMs += 1000;
      progress.step(step(i));
    }
    progress.end();
    const draws = stream.text.split("\r").filter((draw) => draw !== "");
    expect(draws).to.have.length(9);
    for (const draw of draws) expect(draw.replace("\x1b[K", "").trimEnd().length).to.be.at.most(39);
    expect(stream.text.endsWith("\n")).to.equal(true);
    expect(stream.text.slice(0, -1)).to.not.include("\n");
  });

  it("puts notes on lines of their own, above the redrawn one", () => {
    const stream = new FakeStream(true);
    const progress = new Progress({
      stream,
      title: "job",
      steps: 8,
      terminal: "xterm",
      now: () => 0,
    });
    progress.step(step(0));
    progress.note("warn: rank 1: slow");
    progress.end();
    expect(stream.text).to.include("\r\x1b[Kwarn: rank 1: slow\n");
  });
});
