import { encodeProgram } from "../../shared/program/wire.ts";
import type { JobPlan, ProgramOutline } from "../planner.ts";
import { type PlanSummary, summarizePlan } from "./plan-summary.ts";
import type { PlanReport } from "./report.ts";

export interface PlanParts extends Pick<JobPlan, "program" | "notes" | "idLimits"> {
  /** May cost several compiles: for smaller meshes, too. */
  readonly makeReport: () => PlanReport;
}

/** A plan whose derived parts are made when they are asked for, and once. */
export function jobPlan({ program, notes, idLimits, makeReport }: PlanParts): JobPlan {
  let encoded: Buffer | undefined;
  let summary: PlanSummary | undefined;
  let report: PlanReport | undefined;
  return {
    program,
    notes,
    idLimits,
    get encodedProgram() {
      encoded ??= encodeProgram(program);
      return encoded;
    },
    get summary() {
      summary ??= summarizePlan(program);
      return summary;
    },
    get report() {
      report ??= makeReport();
      return report;
    },
  };
}

/** The outline alone, of what may be a whole program. */
export function outlineOf(program: ProgramOutline): ProgramOutline {
  const { name, mesh, arenaBytes, memoryByKind, stored, inputs } = program;
  return { name, mesh, arenaBytes, memoryByKind, stored, inputs };
}
