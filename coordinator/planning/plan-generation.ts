import type { AxisRole, CompileResult } from "../../compiler/compile.ts";
import { compileDecoder } from "../../compiler/decode.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import type { MeshSizes } from "../job/job-state.ts";
import type { JobPlan, ModelFacts, Planner } from "../planner.ts";
import { idLimits } from "./id-limits.ts";
import { jobPlan } from "./job-plan.ts";
import { compileRequest, modelGraph } from "./plan-job.ts";
import { buildReport } from "./report.ts";

/** How a text goes on. */
export interface GenerationSettings {
  /** Tokens that the model looks back on at most. */
  readonly context: number;
  /** 0: always the likeliest token. */
  readonly temperature: number;
  /** How many of the likeliest tokens may be drawn; 0: all. */
  readonly topK: number;
  /** Of the draws. */
  readonly seed: number;
}

/**
 * Compiles a job's model to continue a text in place of being trained: a step takes one token as its batch and gives, as
 * its loss, the id of the token drawn after it. The same text comes of it on every mesh.
 */
export function generationPlanner(settings: GenerationSettings): Planner {
  return (spec, sizes, facts) => planGeneration(settings, spec, sizes, facts);
}

function planGeneration(
  settings: GenerationSettings,
  spec: JobSpec,
  sizes: MeshSizes,
  facts: ModelFacts,
): JobPlan {
  const graph = modelGraph(spec, facts);
  const compileAt = (at: MeshSizes): CompileResult => {
    const { name, mesh, axes } = compileRequest(spec, graph, at);
    return compileDecoder({ name, graph, mesh, axes: axes.map(ofOneToken), ...settings });
  };
  const { program, notes } = compileAt(sizes);
  return jobPlan({
    program,
    notes,
    idLimits: idLimits(graph, "sum"),
    makeReport: () => buildReport(program, notes, (smaller) => compileAt(smaller).program),
  });
}

/** An axis for one token of one sequence: what a user's own plan splits along the sequence stays whole. */
function ofOneToken(role: AxisRole): AxisRole {
  const styles = Object.entries(role.styles).map(([layer, style]) => [layer, optional(style)]);
  return {
    ...role,
    styles: Object.fromEntries(styles) as Record<string, string>,
    splitsBatch: false,
  };
}

/** The style with what does not divide left off. A text that is no style stays as it is, for its own error. */
function optional(style: string): string {
  const [, name = "", options] = /^\s*([A-Za-z]+)\s*(?:\((.*)\))?\s*$/s.exec(style) ?? [];
  if (name === "") return style;
  const parts = (options ?? "").split(",").filter((part) => part.trim() !== "");
  return `${name}(${[...parts.filter((part) => part.trim() !== "optional"), "optional"].join(",")})`;
}
