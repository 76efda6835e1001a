import { expect } from "chai";
import { pino } from "pino";
import type { PlannedJob, PlanRequest } from "../../../coordinator/planner.ts";
import { inProcess } from "../../../coordinator/planning/in-process.ts";
import { outlineOf } from "../../../coordinator/planning/job-plan.ts";
import { planJob } from "../../../coordinator/planning/plan-job.ts";
import {
  ThreadedPlanning,
  type ThreadedPlanningOptions,
} from "../../../coordinator/planning/threaded-planning.ts";
import {
  CancelledError,
  DeadlineExceededError,
  InternalError,
  InvalidArgumentError,
  ResourceExhaustedError,
  UnavailableError,
} from "../../../shared/errors.ts";
import type { JobSpecInput } from "../../../shared/job/job-spec.ts";
import { requireJobSpec } from "../../../shared/job/resolve.ts";
import { caught } from "../../support/caught.ts";

const STAND_IN = new URL("../../support/planner-stand-in.js", import.meta.url);

function llama(layers: number, more: Partial<JobSpecInput> = {}): PlanRequest {
  const spec = requireJobSpec({
    name: "llama",
    model: { llama: { dim: 16, hidden: 32, layers, heads: 4, kvHeads: 2, vocab: 32 } },
    loss: "cross_entropy",
    data: { batchSize: 4, random: { seqLen: 8 } },
    steps: 1,
    ...more,
  });
  return { spec, sizes: { dataParallel: 2, tensorParallel: 2 }, facts: {} };
}

describe("planning in a thread", function () {
  this.timeout(60_000);
  let planning: ThreadedPlanning;

  function start(options: Partial<ThreadedPlanningOptions["limits"]> = {}, heapMb = 256): void {
    planning = new ThreadedPlanning({
      limits: { planMs: 30_000, maxWaitingPlans: 3, waitForPlanMs: 30_000, ...options },
      logger: pino({ level: "silent" }),
      heapMb,
      script: STAND_IN,
    });
  }

  /** Asks the stand-in, whose plans hold notes only. */
  async function notes(
    name: string,
    options: Parameters<ThreadedPlanning["plan"]>[1] = {},
    facts = {},
  ): Promise<readonly string[]> {
    const { spec, sizes } = llama(9, { name });
    return (await planning.plan({ spec, sizes, facts }, options)).notes;
  }

  afterEach(async () => {
    await planning.close();
  });

  it("gives what planJob gives, but for the instructions", async () => {
    planning = new ThreadedPlanning({
      limits: { planMs: 60_000, maxWaitingPlans: 1, waitForPlanMs: 60_000 },
      logger: pino({ level: "silent" }),
    });
    const request = llama(5, {
      mesh: { dataParallel: 2, tensorParallel: 2 },
      optimizer: { sgd: {} },
    });
    const asked = planning.report(request);
    expect(asked).to.be.instanceOf(Promise);
    const wanted = planJob(request.spec, request.sizes, request.facts);
    const { reportJson, reportText } = await inProcess(planJob).report(request);
    const { encodedProgram, ...got } = await asked;
    expect(got).to.deep.equal({
      program: outlineOf(wanted.program),
      summary: wanted.summary,
      notes: wanted.notes,
      idLimits: wanted.idLimits,
      reportJson,
      reportText,
    });
    expect(encodedProgram.equals(wanted.encodedProgram)).to.equal(true);

    const uneven = { ...request, sizes: { dataParallel: 1, tensorParallel: 3 } };
    const error = await caught(Promise.resolve(planning.plan(uneven)));
    expect(error).to.be.instanceOf(InvalidArgumentError);
    const faults = await caught(
      Promise.resolve().then(() => planJob(uneven.spec, uneven.sizes, {})),
    );
    expect((error as InvalidArgumentError).faults).to.deep.equal(
      (faults as InvalidArgumentError).faults,
    );
  });

  it("compiles small models at once, without a thread", () => {
    start();
    const plan = planning.plan(llama(2)) as PlannedJob;
    expect(plan.summary).to.deep.include({ mesh: { dataParallel: 2, tensorParallel: 2 } });
    expect(() =>
      planning.plan({ ...llama(2), sizes: { dataParallel: 1, tensorParallel: 3 } }),
    ).to.throw(InvalidArgumentError);
  });

  it("takes urgent requests first, each kind in the order that they came in", async () => {
    start({ maxWaitingPlans: 9 });
    const order: string[] = [];
    const ask = async (name: string, urgent: boolean): Promise<void> => {
      order.push(...(await notes(name, { urgent })).slice(0, 1));
    };
    await Promise.all([
      ask("a", false),
      ask("b", false),
      ask("c", false),
      ask("d", true),
      ask("e", true),
    ]);
    expect(order).to.deep.equal(["a", "d", "e", "b", "c"]);
  });

  it("refuses what is more than may wait, unless it is urgent", async () => {
    start({ maxWaitingPlans: 2 });
    const accepted = ["a", "b", "c"].map((name) => notes(name));
    const error = await caught(notes("d"));
    expect(error).to.be.instanceOf(ResourceExhaustedError);
    expect(error.message).to.equal(
      "2 large models wait to be planned already; submit again in a minute",
    );
    expect((await notes("e", { urgent: true }))[0]).to.equal("e");
    expect((await Promise.all(accepted)).map(([name]) => name)).to.deep.equal(["a", "b", "c"]);
  });

  it("refuses what has waited too long, unless it is urgent, and nothing that has begun", async () => {
    start({ planMs: 3_000, waitForPlanMs: 500 });
    const begun = caught(notes("hang"));
    const waiting = caught(notes("waiting"));
    const urgent = notes("urgent", { urgent: true });
    const error = await waiting;
    expect(error).to.be.instanceOf(ResourceExhaustedError);
    expect(error.message).to.equal(
      "other large models were planned for 0.5 s, and the turn has not come; submit again in a minute",
    );
    expect(await begun).to.be.instanceOf(DeadlineExceededError);
    expect(await urgent).to.deep.equal(["urgent", "1"]);
  });

  it("takes back what waits when its caller is gone, and nothing else", async () => {
    start();
    const gone = new AbortController();
    const first = notes("first");
    const waiting = notes("waiting", { signal: gone.signal });
    const last = notes("last");
    gone.abort(new CancelledError("nobody waits"));
    expect(await caught(waiting)).to.be.instanceOf(CancelledError);
    expect(await first).to.deep.equal(["first", "1"]);
    expect(await last).to.deep.equal(["last", "2"]);
    expect(await caught(notes("late", { signal: gone.signal }))).to.be.instanceOf(CancelledError);
  });

  it("ends a thread that takes too long, says so, and goes on with another", async () => {
    start({ planMs: 1_500 });
    const late = caught(notes("hang"));
    const next = notes("next");
    const error = await late;
    expect(error).to.be.instanceOf(DeadlineExceededError);
    expect(error.message).to.match(/^planning took more than 1.5 s; submit again when .* or use/);
    expect(await next).to.deep.equal(["next", "1"]);
  });

  it("refuses a job that needs more memory than the thread may have, and goes on with another", async () => {
    start({}, 32);
    const error = caught(notes("devour"));
    const next = notes("next");
    expect(await error).to.be.instanceOf(ResourceExhaustedError);
    expect((await error).message).to.match(/^planning needs more than 32 MB of memory; use fewer/);
    expect(await next).to.deep.equal(["next", "1"]);
  });

  it("gives a plan whose thread ended to another thread, in its old place", async () => {
    start();
    const seen = new SharedArrayBuffer(4);
    const order: string[] = [];
    await Promise.all(
      ["die-once a", "b"].map(async (name) => {
        order.push(...(await notes(name, {}, { seen })));
      }),
    );
    expect(order).to.deep.equal(["die-once a", "1", "b", "2"]);
  });

  for (const [behaviour, why] of [
    ["die", ""],
    ["throw", ": no such luck"],
  ]) {
    it(`gives up a job over which threads end (${behaviour})`, async () => {
      start();
      const error = caught(notes(`${behaviour}`));
      const next = notes("next");
      expect(await error).to.be.instanceOf(InternalError);
      expect((await error).message).to.equal(
        `internal: the planner's thread ended 2 times over this job${why}; submit it again`,
      );
      expect(await next).to.deep.equal(["next", "1"]);
    });
  }

  it("refuses all that is open when it is closed, and what comes after", async () => {
    start();
    const open = ["hang", "b"].map((name) => caught(notes(name)));
    await planning.close();
    for (const error of [...(await Promise.all(open)), await caught(notes("c"))]) {
      expect(error).to.be.instanceOf(UnavailableError);
      expect(error.message).to.match(/^the coordinator is shutting down/);
    }
  });
});
