import type { JobPlan, Planner, Planning, PlanRequest, ReportedJob } from "../planner.ts";
import { printReport } from "./report.ts";

/** A planner that answers in the caller's own turn of the event loop: for one's own process, and for small models. */
export function inProcess(planner: Planner): Planning {
  const plan = ({ spec, sizes, facts, memoryBytes }: PlanRequest): JobPlan =>
    planner(spec, sizes, facts, memoryBytes);
  return {
    plan,
    report: (request) => reported(plan(request)),
    close: () => Promise.resolve(),
  };
}

/** Makes the report: what costs most of it. */
export function reported(plan: JobPlan): ReportedJob {
  const { program, encodedProgram, summary, notes, idLimits, report } = plan;
  return {
    program,
    encodedProgram,
    summary,
    notes,
    idLimits,
    reportJson: JSON.stringify(report),
    reportText: printReport(report),
  };
}
