import { expect } from "chai";
import { CommanderError } from "commander";
import { errorLines } from "../../../cli/error-text.ts";
import { ExitRequest, exitCodeOf, UsageError } from "../../../cli/exit-codes.ts";
import { Interrupted } from "../../../cli/interrupt.ts";
import {
  FailedPreconditionError,
  InternalError,
  InvalidArgumentError,
  NotFoundError,
  ResourceExhaustedError,
  UnavailableError,
} from "../../../shared/errors.ts";

describe("exit codes", () => {
  for (const [error, code] of [
    [new InvalidArgumentError("bad"), 2],
    [new UsageError("bad flag"), 2],
    [new NotFoundError("no job"), 2],
    [new ResourceExhaustedError("10 MB name"), 2],
    [new CommanderError(1, "commander.unknownOption", "unknown option"), 2],
    [new CommanderError(0, "commander.helpDisplayed", "help"), 0],
    [new UnavailableError("nobody"), 3],
    [new FailedPreconditionError("no workers"), 1],
    [new InternalError("oops"), 1],
    [new Error("oops"), 1],
    [Object.assign(new Error("no"), { code: "PERMISSION_DENIED" }), 4],
    [new FailedPreconditionError("token", { cause: Object.assign(new Error(), { code: 16 }) }), 4],
    [new FailedPreconditionError("role", { cause: Object.assign(new Error(), { code: 7 }) }), 4],
    [new Interrupted(), 130],
    [new ExitRequest(1), 1],
  ] as const) {
    it(`is ${code} for ${error.name}: ${error.message}`, () => {
      expect(exitCodeOf(error)).to.equal(code);
    });
  }
});

describe("what a failed command says", () => {
  it("lists faults one per line, with their field paths", () => {
    const error = new InvalidArgumentError([
      { path: "data.batchSize", message: "must be at least 1, got 0" },
      { path: 'plan["w9"]', message: "matches no layer" },
    ]);
    expect(errorLines(error)).to.deep.equal([
      "rankmesh: the job is not valid (2 faults):",
      "  data.batchSize: must be at least 1, got 0",
      '  plan["w9"]: matches no layer',
    ]);
  });

  it("shows a stack only for faults of our own", () => {
    expect(errorLines(new UnavailableError("nobody answers"))).to.deep.equal([
      "rankmesh: nobody answers",
    ]);
    expect(errorLines(new InternalError("oops"))[0]).to.match(/internal: oops\n\s+at /);
  });

  it("adds nothing where all is said", () => {
    expect(errorLines(new ExitRequest(1))).to.deep.equal([]);
  });
});
