import { type CompileRequest, type CompileResult, compile } from "../../compiler/compile.ts";
import { feedForwardGraph, mlpGraph } from "../../models/built-in.ts";
import { gpt2Graph } from "../../models/gpt2.ts";
import { llamaGraph } from "../../models/llama.ts";
import { InvalidArgumentError } from "../../shared/errors.ts";
import { formatBytes } from "../../shared/format-bytes.ts";
import type { ForwardGraph } from "../../shared/graph/graph.ts";
import type { JobSpec, OptimizerChoice, ScheduleChoice } from "../../shared/job/job-spec.ts";
import { ACTIVATIONS } from "../../shared/job/precision.ts";
import { sequenceLength, sourceKey } from "../../shared/job/sequences.ts";
import type { OptimizerSpec, Program, ScheduleSpec } from "../../shared/program/program.ts";
import type { MeshSizes } from "../job/job-state.ts";
import type { JobPlan, ModelFacts } from "../planner.ts";
import { idLimits } from "./id-limits.ts";
import { jobPlan } from "./job-plan.ts";
import { buildReport } from "./report.ts";

export type { ModelFacts } from "../planner.ts";

/**
 * Compiles a job for a mesh: what the coordinator runs and what `plan` shows. Pure.
 *
 * @param memoryBytes that a rank may take, where that is known: `recompute: auto` recomputes what would not fit else
 * @throws InvalidArgumentError with every fault of model, plan and sizes, each with its field path
 */
export function planJob(
  spec: JobSpec,
  sizes: MeshSizes,
  facts: ModelFacts = {},
  memoryBytes = Number.POSITIVE_INFINITY,
): JobPlan {
  const graph = modelGraph(spec, facts);
  const { program, notes } = compileWithin(compileRequest(spec, graph, sizes), spec, memoryBytes);
  const compileAt = (at: MeshSizes): Program =>
    compileWithin(compileRequest(spec, graph, at), spec, memoryBytes).program;
  return jobPlan({
    program,
    notes,
    idLimits: idLimits(graph, spec.loss),
    makeReport: () => buildReport(program, notes, compileAt),
  });
}

/** Compiles without recompute, or with it where the job says so or leaves it to what fits. */
function compileWithin(
  request: CompileRequest,
  { recompute }: JobSpec,
  memoryBytes: number,
): CompileResult {
  if (recompute !== "auto") return compile({ ...request, recompute });
  const kept = compile(request);
  const needed = kept.program.arenaBytes;
  if (needed <= memoryBytes) return kept;
  const { program, notes } = compile({ ...request, recompute: "block" });
  const note = `activations are recomputed block by block: kept, a rank would need ${formatBytes(needed)} of its ${formatBytes(memoryBytes)}`;
  return { program, notes: [...notes, note] };
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
        outputs: {
          path: "sequenceParallel",
          advice: "use auto, or a seqLen of the data that is a multiple of that",
        },
      },
    ],
    loss: spec.loss,
    batchSize: spec.data.batchSize,
    microbatches: spec.gradientAccumulation,
    optimizer: optimizerSpec(spec.optimizer),
    schedule: scheduleSpec(spec.schedule, spec.steps),
    clipGradNorm: spec.clipGradNorm,
    reportGradNorm: spec.reportGradNorm,
    seed: spec.init.seed,
    evaluation: spec.eval.every > 0,
    precision: ACTIVATIONS[spec.precision],
    mixedBackends: spec.allowMixedBackends,
  };
}

/**
 * The model on one device.
 * @throws InvalidArgumentError for a model file, which only the command line can trace, and for what the facts do not tell
 */
export function modelGraph(spec: JobSpec, facts: ModelFacts): ForwardGraph {
  const { model, sequenceParallel } = spec;
  if ("feedForward" in model) return feedForwardGraph(model.feedForward);
  if ("mlp" in model) return mlpGraph(model.mlp);
  if ("graph" in model) return model.graph;
  if ("module" in model) {
    const message =
      "a server runs no model files; submit with `rankmesh job submit`, which traces the file and sends its graph";
    throw new InvalidArgumentError([{ path: "model.module", message }]);
  }
  if ("gpt2" in model) {
    const seqLen = seqLenOf(spec, facts, model.gpt2.contextLength);
    return gpt2Graph(model.gpt2, seqLen, sequenceParallel);
  }
  const llama = "llama" in model ? model.llama : facts.huggingFace?.model;
  if (llama === undefined) {
    const message = "its config.json, which says what model it is, has not been read";
    throw new InvalidArgumentError([{ path: "model.huggingFace.path", message }]);
  }
  return llamaGraph(llama, seqLenOf(spec, facts), sequenceParallel);
}

/** Tokens of a row: what the spec says, or what its data file holds. */
function seqLenOf(
  { data, eval: { data: heldOut } }: JobSpec,
  facts: ModelFacts,
  limit = Number.POSITIVE_INFINITY,
): number {
  const given = sequenceLength(data);
  const seqLen = given ?? facts.seqLen;
  const isFile = given === undefined && "safetensors" in data;
  const path = isFile ? "data.safetensors.path" : `data.${sourceKey(data)}.seqLen`;
  if (seqLen === undefined) {
    const message = isFile
      ? "the model takes sequences of tokens, and the file tells no length: it needs a tensor tokens [rows, length] int32"
      : "is missing; the model takes sequences of tokens, and it says how many a row has";
    throw new InvalidArgumentError([{ path, message }]);
  }
  if (seqLen > limit) {
    const message = `has sequences of ${seqLen} tokens; model.gpt2 has positions for contextLength ${limit}`;
    throw new InvalidArgumentError([{ path, message }]);
  }
  const evaluated = heldOut && sequenceLength(heldOut);
  if (heldOut !== undefined && evaluated !== undefined && evaluated !== seqLen) {
    const message = `is ${evaluated}; it must be that of the training data, ${seqLen}`;
    throw new InvalidArgumentError([{ path: `eval.data.${sourceKey(heldOut)}.seqLen`, message }]);
  }
  return seqLen;
}

function optimizerSpec(choice: OptimizerChoice): OptimizerSpec {
  return "adamw" in choice ? { kind: "adamw", ...choice.adamw } : { kind: "sgd", ...choice.sgd };
}

function scheduleSpec(choice: ScheduleChoice, steps: number): ScheduleSpec {
  if ("linearWarmup" in choice) return { kind: "linearWarmup", ...choice.linearWarmup };
  if ("cosine" in choice) return { kind: "cosine", ...choice.cosine, totalSteps: steps };
  return { kind: "constant" };
}
