import { expect } from "chai";
import type { Instruction, Program } from "../../../shared/program/program.ts";
import type { LoadedProgram } from "../../../worker/backend/backend.ts";
import { BatchRing } from "../../../worker/compute/batch-ring.ts";
import { ComputeAborted, ControlBlock } from "../../../worker/compute/control-block.ts";
import { runRounds, StepError } from "../../../worker/compute/step-loop.ts";
import { descriptor } from "../../support/collectives.ts";
import { programOf } from "../../support/conformance.ts";
import { ADD } from "../../support/loaded-program-suite.ts";

/** Input pieces of the collectives; undefined: whole. */
const PIECES = [3, 2, undefined];

/**
 * One step loop in this thread, its device and the main thread scripted: nothing ever makes it sleep, for the main thread
 * answers within the calls that tell it something.
 */
class Script {
  readonly log: string[] = [];
  readonly control = new ControlBlock({ numCollectives: PIECES.length });
  /** What the main thread does when it hears `what`. */
  on: (what: string) => void = () => undefined;
  /** Pieces that are there without anybody's waiting: `collective.place`. */
  readonly there = new Set<string>();

  constructor() {
    this.say = this.say.bind(this);
  }

  say(what: string): void {
    this.log.push(what);
    this.on(what);
  }

  run(body: readonly Instruction[], steps = 1): void {
    const program: Program = {
      ...programOf(ADD).program,
      body,
      collectives: PIECES.map(() => descriptor(2, { op: "allReduce" })),
    };
    const batches = new BatchRing({ capacityBytes: 4096 });
    for (let step = 0; step < steps; step++) batches.writeEnd({ step, evaluation: undefined }, 0);
    const { say, there, control } = this;
    const loaded: Partial<LoadedProgram> = {
      startCollective: (index) => say(`copy ${index}`),
      collectiveReady: (index, wait, place = 0) => {
        if (wait) say(`await ${index}.${place}`);
        return wait || there.has(`${index}.${place}`);
      },
      returnPieces: (index, pieces) => say(`return ${index}: ${pieces.toString(2)}`),
      finishCollective: (index) => say(`finish ${index}`),
      synchronize: () => undefined,
      read: () => undefined,
    };
    runRounds(
      {
        program,
        loaded: loaded as LoadedProgram,
        control,
        batches,
        silenceMs: 1000,
        peakMemoryBytes: () => 0,
        inputPieces: PIECES,
        startCollective: (index) => say(`begin ${index}`),
        morePieces: (index) => say(`more ${index}: ${control.arrivedPieces(index)}`),
        roomForBatches: () => undefined,
        onCollectives: () => undefined,
        onStep: () => undefined,
        onEvaluation: () => undefined,
      },
      { steps, evaluateEvery: 0, evaluationBatches: 0 },
    );
  }
}

const start = (collective: number): Instruction => ({ kind: "start", collective });
const wait = (collective: number): Instruction => ({ kind: "wait", collective });

describe("the step loop and collectives in pieces", () => {
  it("begins a collective with its first piece, and returns its output while later pieces come and while it waits, in every step", () => {
    const script = new Script();
    script.on = (what) => {
      if (what === "more 0: 2") script.control.finishPiece(0, 0);
      if (what === "more 0: 3") script.control.finishPiece(0, 2);
      if (what === "return 0: 101") script.control.finishPiece(0, 1);
      if (what === "return 0: 111") script.control.completeCollective(0);
    };
    script.run([start(0), wait(0)], 2);
    const step = [
      "copy 0",
      "await 0.0",
      "begin 0",
      "await 0.1",
      "more 0: 2",
      "return 0: 1",
      "await 0.2",
      "more 0: 3",
      "return 0: 101",
      "return 0: 111",
      "finish 0",
    ];
    expect(script.log).to.deep.equal([...step, ...step]);
  });

  it("tells of pieces that have come between instructions, and waits for none there", () => {
    const script = new Script();
    script.there.add("0.0").add("0.1");
    script.on = (what) => {
      if (what === "copy 2") script.there.add("0.2");
      if (what === "begin 2") for (const index of [0, 2]) script.control.completeCollective(index);
    };
    script.run([start(0), start(2), wait(2), wait(0)]);
    expect(script.log).to.deep.equal([
      "copy 0",
      "begin 0",
      "more 0: 2",
      "copy 2",
      "more 0: 3",
      "await 2.0",
      "begin 2",
      "finish 2",
      "finish 0",
    ]);
  });

  it("does not sleep while a later collective has begun and lacks pieces", () => {
    const script = new Script();
    script.there.add("0.0").add("0.1").add("0.2").add("1.0");
    script.on = (what) => {
      if (what === "more 1: 2")
        for (const index of [0, 1]) script.control.completeCollective(index);
    };
    script.run([start(0), start(1), wait(0), wait(1)]);
    expect(script.log.slice(-6)).to.deep.equal([
      "copy 1",
      "begin 1",
      "await 1.1",
      "more 1: 2",
      "finish 0",
      "finish 1",
    ]);
  });

  it("does not wait for pieces of a later collective when the one waited for has ended", () => {
    const script = new Script();
    script.there.add("0.0").add("0.1").add("0.2").add("1.0");
    script.on = (what) => {
      if (what === "begin 1") script.control.completeCollective(0);
      if (what === "more 1: 2") script.control.completeCollective(1);
    };
    script.run([start(0), start(1), wait(0), wait(1)]);
    const ends = ["finish 0", "await 1.1", "more 1: 2", "finish 1"];
    expect(script.log.slice(-4)).to.deep.equal(ends);
  });

  it("leaves between two pieces when aborted", () => {
    const script = new Script();
    script.on = (what) => {
      if (what === "more 0: 2") script.control.abort();
    };
    expect(() => script.run([start(0), wait(0)]))
      .to.throw(StepError)
      .with.property("cause")
      .that.is.instanceOf(ComputeAborted);
    expect(script.log.at(-1)).to.equal("more 0: 2");
  });
});
