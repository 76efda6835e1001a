import type { JobSpec } from "../../shared/job/job-spec.ts";
import type { ModelFacts, PlanRequest } from "../planner.ts";

/** A model of so many parameters compiles in some 20 ms: asking a thread, the first time starting it, takes as long. */
const QUICK_PARAMETERS = 40;
/** A report lists every parameter's slice on every rank. */
const QUICK_SLICES = 2048;
/** Nodes to a parameter, where a model has most. */
const NODES_PER_PARAMETER = 4;

/** Whether a job compiles so quickly that the event loop may wait for it. */
export function isQuicklyPlanned({ spec, facts }: PlanRequest): boolean {
  return aboutParameters(spec, facts) <= QUICK_PARAMETERS;
}

/** Whether its report is quickly made, too. */
export function isQuicklyReported(request: PlanRequest): boolean {
  const { dataParallel, tensorParallel } = request.sizes;
  const slices = dataParallel * tensorParallel * aboutParameters(request.spec, request.facts);
  return isQuicklyPlanned(request) && slices <= QUICK_SLICES;
}

/** Parameters of the model or a little more, or as many as a graph of its nodes would have. 0 for a model that has yet to be read. */
function aboutParameters({ model }: JobSpec, { huggingFace }: ModelFacts): number {
  if ("feedForward" in model) return 3;
  if ("mlp" in model) return 2 * model.mlp.dims.length;
  if ("gpt2" in model) return 4 + 16 * model.gpt2.layers;
  if ("llama" in model) return 3 + 9 * model.llama.layers;
  if ("graph" in model) {
    const { parameters, nodes } = model.graph;
    return Math.max(parameters.length, nodes.length / NODES_PER_PARAMETER);
  }
  return huggingFace === undefined ? 0 : 3 + 9 * huggingFace.model.layers;
}
