import { expect } from "chai";
import fc from "fast-check";
import { EventLog } from "../../../coordinator/job/event-log.ts";
import type { JobEvent } from "../../../coordinator/job/job-state.ts";

describe("event log", () => {
  it("gives back every event under the id that it was given, steps or not", () => {
    const other = fc.constantFrom<JobEvent>(
      { kind: "state", phase: "QUEUED", reason: "r" },
      { kind: "log", level: "info", message: "m" },
    );
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.array(fc.oneof(other, fc.constant("step" as const)), { maxLength: 80 }),
        (norms, kinds) => {
          const log = new EventLog();
          let step = 0;
          const written = kinds.map((kind, index): JobEvent => {
            if (kind !== "step") return kind;
            const norm = norms ? { gradNorm: index + 0.5 } : {};
            return {
              kind: "step",
              step: step++,
              loss: 1 / (index + 3),
              ...norm,
              seconds: index,
              peakBytes: 2 ** 40 + index,
            };
          });
          const ids = written.map((event, index) => log.append(event, 10 + index));
          expect(ids).to.deep.equal(written.map((_, index) => index + 1));
          written.forEach((event, index) => {
            expect(log.at(index + 1)).to.deep.equal({ id: index + 1, wallMs: 10 + index, event });
          });
          expect(log.numSteps).to.equal(step);
          expect(log.gradNorms().length).to.equal(norms ? step : 0);
        },
      ),
    );
  });

  it("keeps losses that are not finite", () => {
    const log = new EventLog();
    for (const [step, loss] of [1, Number.NaN, Number.NEGATIVE_INFINITY].entries()) {
      log.append({ kind: "step", step, loss, seconds: 1, peakBytes: 1 }, 0);
    }
    expect(log.losses()).to.deep.equal([1, Number.NaN, Number.NEGATIVE_INFINITY]);
    expect(log.at(2).event).to.not.have.property("gradNorm");
  });

  it("refuses ids that it never gave", () => {
    const log = new EventLog();
    expect(() => log.at(1)).to.throw("event 1 of a log of 0");
    expect(() => log.at(0)).to.throw("event 0");
  });
});
