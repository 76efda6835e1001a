import { expect } from "chai";
import { compile } from "../../../compiler/compile.ts";
import { verifyProgram } from "../../../compiler/lower/verify-program.ts";
import { InternalError } from "../../../shared/errors.ts";
import type { Instruction, Program } from "../../../shared/program/program.ts";
import { feedForwardGraph, requestOf } from "../../support/compile-cases.ts";

const program = compile(
  requestOf({ graph: feedForwardGraph(12, 24, true), dp: 2, tp: 2, sharding: "full" }),
).program;

const isUpdate = (i: Instruction): boolean => i.kind === "compute" && i.op.startsWith("adamw");

describe("the verifier of programs", () => {
  it("accepts what the compiler makes", () => {
    verifyProgram(program);
  });

  it("finds a slot whose bytes another live slot takes", () => {
    // Every transient slot moved onto the first one's offset.
    const persistent = new Set([...program.stored, ...program.inputs].map((t) => t.slot));
    const first = program.slots.find((_, i) => !persistent.has(i))?.offsetBytes ?? 0;
    const slots = program.slots.map((s, i) =>
      persistent.has(i) ? s : { ...s, offsetBytes: first },
    );
    expect(() => verifyProgram({ ...program, slots })).to.throw(
      InternalError,
      /reads slot|overwrites slot/,
    );
  });

  it("finds an update before the last reader of the old weight", () => {
    const updates = program.body.filter(isUpdate);
    const rest = program.body.filter((i) => !isUpdate(i));
    expect(() => verifyProgram({ ...program, body: [...updates, ...rest] })).to.throw(
      InternalError,
      /reads slot/,
    );
  });

  it("finds a missing wait and a wait without a start", () => {
    const without = (kind: string): Program => ({
      ...program,
      body: program.body.filter((i) => i.kind !== kind),
    });
    expect(() => verifyProgram(without("wait"))).to.throw(InternalError, /is using|not waited for/);
    expect(() => verifyProgram(without("start"))).to.throw(InternalError, /reads slot|not started/);
  });

  it("finds a slot outside the arena", () => {
    expect(() => verifyProgram({ ...program, arenaBytes: program.arenaBytes - 256 })).to.throw(
      InternalError,
      /outside the arena/,
    );
  });
});
