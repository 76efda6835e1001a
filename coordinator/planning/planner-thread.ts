import { parentPort } from "node:worker_threads";
import { InternalError, InvalidArgumentError } from "../../shared/errors.ts";
import type { PlannedJob, ReportedJob } from "../planner.ts";
import { reported } from "./in-process.ts";
import { outlineOf } from "./job-plan.ts";
import { planJob } from "./plan-job.ts";
import type { PlanAnswer, PlanQuestion } from "./plan-messages.ts";

const port = parentPort;
if (port === null) throw new InternalError("planner-thread.ts runs only as a worker thread");
port.on("message", (question: PlanQuestion) => {
  const answer = answerTo(question);
  port.postMessage(answer, answer.kind === "plan" ? [answer.plan.encodedProgram.buffer] : []);
});

function answerTo({ request, isReported }: PlanQuestion): PlanAnswer {
  const { spec, sizes, facts, memoryBytes } = request;
  try {
    const plan = planJob(spec, sizes, facts, memoryBytes);
    return { kind: "plan", plan: sendable(isReported ? reported(plan) : plan) };
  } catch (error) {
    if (error instanceof InvalidArgumentError) return { kind: "faults", faults: error.faults };
    const message = error instanceof Error ? error.message : String(error);
    return { kind: "bug", message };
  }
}

/** Only what the coordinator keeps: instructions of thousands of values stay here. */
function sendable(
  plan: PlannedJob | ReportedJob,
): Extract<PlanAnswer, { readonly kind: "plan" }>["plan"] {
  const { summary, notes, idLimits } = plan;
  const program = outlineOf(plan.program);
  // A copy, as bytes of their own: small buffers lie in a pool that can't be handed over.
  const encodedProgram = new Uint8Array(plan.encodedProgram);
  const base = { program, encodedProgram, summary, notes, idLimits };
  return "reportJson" in plan
    ? { ...base, reportJson: plan.reportJson, reportText: plan.reportText }
    : base;
}
