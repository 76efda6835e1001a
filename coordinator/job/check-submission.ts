import { createHash } from "node:crypto";
import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import type { JobSpec } from "../../shared/job/job-spec.ts";
import { jobSpecFromProto } from "../../shared/job/proto.ts";
import { resolveJobSpec } from "../../shared/job/resolve.ts";
import type { JobSpec__Output } from "../../shared/rpc/gen/rankmesh/v1/JobSpec.ts";
import { MAX_PROGRAM_BYTES } from "../gang/gang.ts";
import { leastSizes } from "../gang/scheduler.ts";
import type { JobPlan, Planner } from "../planner.ts";
import type { JobFiles } from "./job-files.ts";
import type { MeshSizes } from "./job-state.ts";

export interface CheckedJob {
  readonly spec: JobSpec;
  /** Sizes at which it was compiled. */
  readonly sizes: MeshSizes;
  readonly plan: JobPlan;
}

/** `checkJob` for a spec that came over the wire. */
export async function checkSubmission(
  message: JobSpec__Output | null,
  planner: Planner,
  files: JobFiles,
  sizes?: (spec: JobSpec) => MeshSizes,
): Promise<CheckedJob> {
  return checkJob(jobSpecFromProto(message), planner, files, sizes);
}

/**
 * Checks a raw spec whole: its schema, then plan, shapes and divisibility, then its files, each as far as it can be
 * checked in spite of the faults before. An `auto` axis is taken as `chooseSizes` says, by default 1.
 * @throws InvalidArgumentError with every fault found, each with its field path
 */
export async function checkJob(
  raw: unknown,
  planner: Planner,
  files: JobFiles,
  chooseSizes: (spec: JobSpec) => MeshSizes = (spec) => leastSizes(spec.mesh),
): Promise<CheckedJob> {
  const resolved = resolveJobSpec(raw);
  const spec = resolved.ok ? resolved.spec : resolved.partial;
  const faults: Fault[] = resolved.ok ? [] : [...resolved.faults];
  // What is said of a key that holds a stand-in is no fault of the user's.
  const add = (found: readonly Fault[]): void => {
    faults.push(...found.filter(({ path }) => resolved.ok || !resolved.broken.has(path)));
  };
  const sizes = spec === undefined ? { dataParallel: 1, tensorParallel: 1 } : chooseSizes(spec);
  let plan: JobPlan | undefined;
  if (spec !== undefined) {
    try {
      plan = planner(spec, sizes);
      add(programFaults(plan));
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      add(error.faults);
    }
    // A stand-in for a faulty model has sizes that the user never gave: no file can be held against them.
    const isStandIn = !resolved.ok && [...resolved.broken].some((path) => path.startsWith("model"));
    const whole = isStandIn ? undefined : (plan ?? unsharded(spec, planner));
    add(await files.check(spec, whole?.program));
  }
  if (faults.length > 0 || spec === undefined || plan === undefined)
    throw new InvalidArgumentError(faults);
  return { spec, sizes, plan };
}

/** A program that no worker takes is better refused now than when its job starts. */
function programFaults({ program }: JobPlan): Fault[] {
  const bytes = Buffer.byteLength(JSON.stringify(program));
  if (bytes <= MAX_PROGRAM_BYTES) return [];
  const message = `its program takes ${bytes} bytes, more than the ${MAX_PROGRAM_BYTES} that a worker takes; use fewer layers`;
  return [{ path: "model", message }];
}

/**
 * The job on one rank: what its files must hold does not depend on mesh and plan, so faults of those hide none of theirs.
 * Undefined when the model itself is at fault.
 */
function unsharded(spec: JobSpec, planner: Planner): JobPlan | undefined {
  const alone: JobSpec = { ...spec, plan: {}, gradientAccumulation: 1 };
  try {
    return planner(alone, { dataParallel: 1, tensorParallel: 1 });
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
