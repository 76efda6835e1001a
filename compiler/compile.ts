import { type Fault, InvalidArgumentError } from "../shared/errors.ts";
import type { ForwardGraph, LossKind } from "../shared/graph/graph.ts";
import { axisSize, type Mesh } from "../shared/mesh/mesh.ts";
import type { OptimizerSpec, Precision, Program, ScheduleSpec } from "../shared/program/program.ts";
import { buildTrainingGraph, type TrainingGraph } from "./ir/training-graph.ts";
import { emitProgram } from "./lower/emit.ts";
import { lower } from "./lower/lower.ts";
import { verifyProgram } from "./lower/verify-program.ts";
import type { Choice } from "./spmd/choose.ts";
import { chooseOnAllAxes } from "./spmd/choose-axes.ts";
import { layersWithInputLayout, pinAxes } from "./spmd/pins.ts";
import { FLOPS_PER_BYTE } from "./spmd/price.ts";

/** What one mesh axis does to the model. Any axis may do any of it. */
export interface AxisRole {
  /** Layer pattern to style; applies along this axis. */
  readonly styles: Readonly<Record<string, string>>;
  /** Spec field that `styles` came from, for fault paths: `plan`, or `model` for the model's default plan. */
  readonly stylesPath: string;
  /** Whether the user wrote `styles`: sizes that do not divide are then the plan's fault, else the axis size's. */
  readonly stylesAreOwn: boolean;
  /** Whether the batch's rows are split over this axis. */
  readonly splitsBatch: boolean;
  /** How parameters and optimizer state are stored along this axis. */
  readonly stateSharding: "none" | "optimizer" | "full";
  /** Spec field that holds the axis's size, for fault paths. */
  readonly sizePath: string;
  /** Where the model's own plan asks for split outputs because the spec does: the field, and what to do when they do not divide. */
  readonly outputs?: { readonly path: string; readonly advice: string };
}

export interface CompileRequest {
  readonly name: string;
  readonly graph: ForwardGraph;
  readonly mesh: Mesh;
  /** One per mesh axis. */
  readonly axes: readonly AxisRole[];
  readonly loss: LossKind;
  /** Rows of one optimizer step over the whole mesh. */
  readonly batchSize: number;
  readonly microbatches: number;
  readonly optimizer: OptimizerSpec;
  readonly schedule: ScheduleSpec;
  /** 0: off. */
  readonly clipGradNorm: number;
  readonly reportGradNorm: boolean;
  /** Seed of what the model draws at random (dropout). @default 0 */
  readonly seed?: number;
  /**
   * `block`: activations inside a block (a member of a module list) are computed again for the backward pass in place
   * of being kept.
   * @default "none"
   */
  readonly recompute?: "none" | "block";
  /** Whether the program can evaluate its loss on a batch without an update. @default false */
  readonly evaluation?: boolean;
  /**
   * Whether weight gradients may be formed from gathered factors where that moves fewer bytes than reducing them.
   * @default true
   */
  readonly exchangeFactors?: boolean;
  /** What activations, and the weights of products, are held in. Stored weights and their state stay float32. @default "float32" */
  readonly precision?: Precision;
  /** Ranks may round differently: copies of updated weights are then made equal after each update. @default false */
  readonly mixedBackends?: boolean;
  /**
   * Floating-point operations that a rank does in the time of one byte on the wire: what weighs arithmetic done by
   * several ranks against bytes between them.
   * @default 80: a CPU of 100 GFLOP/s beside 10 GbE
   */
  readonly flopsPerByte?: number;
}

export interface CompileResult {
  readonly program: Program;
  /** What a person should know: what was left off and why. */
  readonly notes: readonly string[];
}

/** Graph of the step, before placement: what the reference interpreter runs as one device. */
export function trace(request: CompileRequest, faults: Fault[]): TrainingGraph | undefined {
  const separateUses = request.axes.some(
    (role, a) => role.stateSharding === "full" && axisSize(request.mesh, a) > 1,
  );
  return buildTrainingGraph(request, separateUses, layersWithInputLayout(request), faults);
}

/**
 * Compiles model, plan and mesh into the program that every rank runs.
 * @throws InvalidArgumentError with all faults of model, plan and sizes, each with its field path.
 */
export function compile(request: CompileRequest): CompileResult {
  const faults: Fault[] = [];
  checkBatch(request, faults);
  const training =
    faults.length > 0 ? trace(withDividingBatch(request), faults) : trace(request, faults);
  if (training === undefined) throw new InvalidArgumentError(faults);
  return place(request, training, faults);
}

/**
 * The way from a graph of the step to the program that all ranks run.
 * @param settle changes what was chosen before it is lowered
 * @throws InvalidArgumentError with `faults` and those of plan and sizes
 */
export function place(
  request: CompileRequest,
  training: TrainingGraph,
  faults: Fault[],
  settle: (chosen: readonly Choice[][]) => void = () => undefined,
): CompileResult {
  const notes: string[] = [];
  const pins = pinAxes(request, training, faults, notes);
  if (faults.length > 0) throw new InvalidArgumentError(faults);
  const chosen = chooseOnAllAxes(training, request.mesh, pins, {
    exchangeFactors: request.exchangeFactors ?? true,
    flopsPerByte: request.flopsPerByte ?? FLOPS_PER_BYTE,
  });
  settle(chosen);
  const program = emitProgram(
    request,
    training,
    lower(training, request.mesh, chosen, request.mixedBackends),
  );
  verifyProgram(program);
  if (request.mixedBackends === true) notes.push(copiesNote(training, program));
  return { program, notes };
}

/** How ranks that round differently come by equal copies of a weight. */
function copiesNote({ parameters }: TrainingGraph, { collectives }: Program): string {
  const names = new Set(parameters.map(({ name }) => name));
  const broadcasts = collectives.filter(
    ({ phase, from, to, label }) =>
      phase === "optimizer" && from === "P" && to === "R" && names.has(label),
  );
  const bytes = broadcasts.reduce((sum, { wireBytes }) => sum + wireBytes, 0);
  return broadcasts.length === 0
    ? "mixed backends: no rank updates a copy of another rank's weight, so copies are equal without a broadcast"
    : `mixed backends: copies of ${broadcasts.length === 1 ? "1 weight" : `${broadcasts.length} weights`} are kept equal by a broadcast after each update, ${bytes} bytes sent a step and rank`;
}

function batchParts(request: CompileRequest): number {
  return request.axes.reduce(
    (n, role, a) => (role.splitsBatch ? n * axisSize(request.mesh, a) : n),
    request.microbatches,
  );
}

function checkBatch(request: CompileRequest, faults: Fault[]): void {
  const parts = batchParts(request);
  if (request.batchSize % parts === 0) return;
  const split = request.axes
    .map((role, a) => ({ role, axis: request.mesh.axes[a] }))
    .filter(({ role }) => role.splitsBatch)
    .map(({ axis }) => `${axis?.name}=${axis?.size}`)
    .join(", ");
  const below = Math.floor(request.batchSize / parts) * parts;
  faults.push({
    path: "data.batchSize",
    message: `${request.batchSize} rows are not divisible by ${split === "" ? "" : `${split} x `}gradientAccumulation=${request.microbatches}; use ${below > 0 ? `${below} or ` : ""}${below + parts}`,
  });
}

/** The same job with a batch that divides, so that faults of plan and shapes are found as well. */
function withDividingBatch(request: CompileRequest): CompileRequest {
  return { ...request, batchSize: batchParts(request) };
}
