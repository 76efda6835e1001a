import { type CompileRequest, compile } from "../../compiler/compile.ts";
import { feedForwardGraph, mlpGraph } from "../../models/built-in.ts";
import { InvalidArgumentError } from "../../shared/errors.ts";
import type { ForwardGraph } from "../../shared/graph/graph.ts";
import type {
  JobSpec,
  ModelSpec,
  OptimizerChoice,
  ScheduleChoice,
} from "../../shared/job/job-spec.ts";
import type { OptimizerSpec, ScheduleSpec } from "../../shared/program/program.ts";
import type { MeshSizes } from "../job/job-state.ts";
import type { JobPlan } from "../planner.ts";
import { buildReport } from "./report.ts";

/**
 * Compiles a job for a mesh: what the coordinator runs and what `plan` shows. Pure.
 * @throws InvalidArgumentError with every fault of model, plan and sizes, each with its field path
 */
export function planJob(spec: JobSpec, sizes: MeshSizes): JobPlan {
  const graph = modelGraph(spec.model);
  const { program, notes } = compile(compileRequest(spec, graph, sizes));
  return {
    program,
    notes,
    get report() {
      return buildReport(
        program,
        notes,
        (smaller) => compile(compileRequest(spec, graph, smaller)).program,
      );
    },
  };
}

/** The job in the compiler's words: one axis splits the batch and shards state, the other carries the plan. */
export function compileRequest(
  spec: JobSpec,
  graph: ForwardGraph,
  sizes: MeshSizes,
): CompileRequest {
  const ownPlan = Object.keys(spec.plan).length > 0;
  return {
    name: spec.name,
    graph,
    mesh: {
      axes: [
        { name: "dataParallel", size: sizes.dataParallel },
        { name: "tensorParallel", size: sizes.tensorParallel },
      ],
    },
    axes: [
      {
        styles: {},
        stylesPath: "plan",
        stylesAreOwn: false,
        splitsBatch: true,
        stateSharding: spec.dataParallelSharding,
        sizePath: "mesh.dataParallel",
      },
      {
        styles: ownPlan ? spec.plan : graph.defaultPlan,
        stylesPath: ownPlan ? "plan" : "model",
        stylesAreOwn: ownPlan,
        splitsBatch: false,
        stateSharding: "none",
        sizePath: "mesh.tensorParallel",
      },
    ],
    loss: spec.loss,
    batchSize: spec.data.batchSize,
    microbatches: spec.gradientAccumulation,
    optimizer: optimizerSpec(spec.optimizer),
    schedule: scheduleSpec(spec.schedule, spec.steps),
    clipGradNorm: spec.clipGradNorm,
    reportGradNorm: spec.reportGradNorm,
  };
}

/** @throws InvalidArgumentError for a model file: only the command line can trace one. */
export function modelGraph(model: ModelSpec): ForwardGraph {
  if ("feedForward" in model) return feedForwardGraph(model.feedForward);
  if ("mlp" in model) return mlpGraph(model.mlp);
  if ("graph" in model) return model.graph;
  throw new InvalidArgumentError([
    {
      path: "model.module",
      message:
        "a server runs no model files; submit with `rankmesh job submit`, which traces the file and sends its graph",
    },
  ]);
}

function optimizerSpec(choice: OptimizerChoice): OptimizerSpec {
  return "adamw" in choice ? { kind: "adamw", ...choice.adamw } : { kind: "sgd", ...choice.sgd };
}

function scheduleSpec(choice: ScheduleChoice, steps: number): ScheduleSpec {
  if ("linearWarmup" in choice) return { kind: "linearWarmup", ...choice.linearWarmup };
  if ("cosine" in choice) return { kind: "cosine", ...choice.cosine, totalSteps: steps };
  return { kind: "constant" };
}
