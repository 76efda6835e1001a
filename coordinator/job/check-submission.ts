import { createHash } from "node:crypto";
import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import { jobSpecFromProto } from "../../shared/job/proto.ts";
import { resolveJobSpec } from "../../shared/job/resolve.ts";
import { takesTokens } from "../../shared/job/sequences.ts";
import type { JobSpec__Output } from "../../shared/rpc/gen/rankmesh/v1/JobSpec.ts";
import { MAX_PROGRAM_BYTES } from "../gang/gang.ts";
import { leastSizes } from "../gang/scheduler.ts";
import type { ModelFacts, PlannedJob } from "../planner.ts";
import type { FileCheck, JobFiles } from "./job-files.ts";
import type { MeshSizes } from "./job-state.ts";

/** Compiles a job for a mesh, now or later. @throws InvalidArgumentError with every fault of the job at these sizes */
export type CheckPlanner<Plan extends PlannedJob> = (
  spec: JobSpec,
  sizes: MeshSizes,
  facts: ModelFacts,
) => Plan | Promise<Plan>;

export interface CheckedJob<Plan extends PlannedJob = PlannedJob> {
  readonly spec: JobSpec;
  /** Sizes at which it was compiled. */
  readonly sizes: MeshSizes;
  readonly plan: Plan;
  /** What its files say of its model: every later plan needs it too. */
  readonly facts: ModelFacts;
}

export interface CheckOptions {
  /** Sizes of the mesh where the job says `auto`. @default 1 */
  readonly sizes?: (spec: JobSpec) => MeshSizes;
  /** How far files are read. @default "contents" */
  readonly depth?: FileCheck;
}

/** `checkJob` for a spec that came over the wire. */
export async function checkSubmission<Plan extends PlannedJob>(
  message: JobSpec__Output | null,
  planner: CheckPlanner<Plan>,
  files: JobFiles,
  options: CheckOptions = {},
): Promise<CheckedJob<Plan>> {
  return checkJob(jobSpecFromProto(message), planner, files, options);
}

/**
 * Checks a raw spec whole: its schema, then plan, shapes and divisibility, then its files, each as far as it can be
 * checked in spite of the faults before.
 * @throws InvalidArgumentError with every fault found, each with its field path
 */
export async function checkJob<Plan extends PlannedJob>(
  raw: unknown,
  planner: CheckPlanner<Plan>,
  files: JobFiles,
  options: CheckOptions = {},
): Promise<CheckedJob<Plan>> {
  const { sizes: chooseSizes = ({ mesh }) => leastSizes(mesh), depth = "contents" } = options;
  const resolved = resolveJobSpec(raw);
  const spec = resolved.ok ? resolved.spec : resolved.partial;
  const faults: Fault[] = resolved.ok ? [] : [...resolved.faults];
  // What is said of a key that holds a stand-in is no fault of the user's.
  const add = (found: readonly Fault[]): void => {
    faults.push(...found.filter(({ path }) => resolved.ok || !resolved.broken.has(path)));
  };
  if (spec === undefined) throw new InvalidArgumentError(faults);
  const sizes = chooseSizes(spec);
  const { facts, faults: unread } = await files.facts(spec);
  let plan: Plan | undefined;
  const planFacts = unread.length === 0 ? facts : standInFacts(spec, sizes, facts);
  if (planFacts !== undefined) {
    try {
      plan = await planner(spec, sizes, planFacts);
      add(programFaults(plan));
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      add(error.faults);
    }
  }
  // No file can be held against sizes that the user never gave: those of a faulty model, or of files that tell none.
  const isStandIn =
    unread.length > 0 ||
    (!resolved.ok && [...resolved.broken].some((path) => path.startsWith("model")));
  const whole = isStandIn ? undefined : (plan ?? (await unsharded(spec, planner, facts)));
  const found = [...unread, ...(await files.check(spec, whole, depth))];
  add(withoutRepeats(found));
  if (faults.length > 0 || plan === undefined) throw new InvalidArgumentError(faults);
  return { spec, sizes, plan, facts };
}

/** Facts that let plan and shapes be checked although the files tell none; undefined where nothing stands in. */
function standInFacts(spec: JobSpec, sizes: MeshSizes, facts: ModelFacts): ModelFacts | undefined {
  if ("huggingFace" in spec.model && facts.huggingFace === undefined) return undefined;
  if (!takesTokens(spec.model) || facts.seqLen !== undefined) return facts;
  return { ...facts, seqLen: sizes.tensorParallel };
}

function withoutRepeats(faults: readonly Fault[]): Fault[] {
  const seen = new Set<string>();
  return faults.filter(({ path, message }) => {
    const key = `${path}\n${message}`;
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  });
}

/** A program that no worker takes is better refused now than when its job starts. */
function programFaults({ encodedProgram }: PlannedJob): Fault[] {
  const bytes = encodedProgram.length;
  if (bytes <= MAX_PROGRAM_BYTES) return [];
  const message = `its program takes ${bytes} bytes, more than the ${MAX_PROGRAM_BYTES} that a worker takes; use fewer layers`;
  return [{ path: "model", message }];
}

/**
 * The job on one rank: what its files must hold does not depend on mesh and plan, so faults of those hide none of theirs.
 * Undefined when the model itself is at fault.
 */
async function unsharded<Plan extends PlannedJob>(
  spec: JobSpec,
  planner: CheckPlanner<Plan>,
  facts: ModelFacts,
): Promise<Plan | undefined> {
  const alone: JobSpec = { ...spec, plan: {}, gradientAccumulation: 1 };
  try {
    return await planner(alone, { dataParallel: 1, tensorParallel: 1 }, facts);
  } catch (error) {
    if (error instanceof InvalidArgumentError) return undefined;
    throw error;
  }
}

/** Equal for specs that mean the same: a hash of the spec with defaults filled in and keys in one order. */
export function specKey(spec: JobSpec): string {
  const text = JSON.stringify(spec, (_, value: unknown) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
  return createHash("sha256").update(text).digest("hex");
}
