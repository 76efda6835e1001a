import { type Fault, InvalidArgumentError } from "../errors.ts";
import { checkData } from "./check-data.ts";
import { checkModel } from "./check-model.ts";
import { FaultList } from "./faults.ts";
import type { JobSpec } from "./job-spec.ts";
import { MAX_RANKS } from "./limits.ts";
import { jobSchema } from "./schema.ts";
import { isMap, ownValue } from "./schema-types.ts";
import { takesTokens } from "./sequences.ts";
import { withoutConflicts } from "./stand-ins.ts";

export interface ResolveOptions {
  /** Whether `model.module` may stand in the spec: only the command line, which traces the file itself, allows it. */
  readonly modules: "allow" | "refuse";
}

export type ResolveResult =
  | { readonly ok: true; readonly spec: JobSpec }
  | {
      readonly ok: false;
      readonly faults: readonly Fault[];
      /**
       * The spec with something harmless in place of each fault, so that plan, shapes and divisibility can be checked
       * still: faulty keys at their defaults, a faulty batch size at one that divides, an unusable data source as `stream`.
       * undefined when there is no usable model.
       */
      readonly partial: JobSpec | undefined;
      /**
       * Paths with a fault at or below them, to a depth of four: `data`, `data.safetensors`. What a check says of one
       * of these speaks of a stand-in and is no fault of the user's.
       */
      readonly broken: ReadonlySet<string>;
    };

/** Checks a raw job spec, whatever it is, fills in the defaults and finds all faults. Never throws. */
export function resolveJobSpec(
  value: unknown,
  options: ResolveOptions = { modules: "refuse" },
): ResolveResult {
  const faults = new FaultList();
  const spec = jobSchema.check(value, [], faults);
  const repaired =
    spec !== undefined && faults.count === 0
      ? { spec, isSourceStandIn: false }
      : checkRepaired(value);
  if (repaired !== undefined) checkAcrossKeys(repaired, faults, options);
  if (spec !== undefined && faults.count === 0) return { ok: true, spec };
  const harmless =
    repaired && withoutConflicts(repaired.spec, repaired.isSourceStandIn, faults.broken);
  return { ok: false, faults: faults.toArray(), partial: harmless, broken: faults.broken };
}

/** @throws InvalidArgumentError with every fault of the spec. */
export function requireJobSpec(
  value: unknown,
  options: ResolveOptions = { modules: "refuse" },
): JobSpec {
  const result = resolveJobSpec(value, options);
  if (!result.ok) throw new InvalidArgumentError(result.faults);
  return result.spec;
}

const SOURCES = ["safetensors", "random", "text", "tokens", "stream"];

interface Repaired {
  readonly spec: JobSpec;
  /** Whether its data source is none of the user's. */
  readonly isSourceStandIn: boolean;
}

/** The spec once more, with a stand-in for the data's source where it can't be used; its faults are known already. */
function checkRepaired(value: unknown): Repaired | undefined {
  if (!isMap(value)) return undefined;
  const repaired: Record<string, unknown> = {};
  for (const key of Object.keys(value)) if (key !== "__proto__") repaired[key] = value[key];
  const data = ownValue(value, "data");
  const settings: Record<string, unknown> = {};
  for (const key of ["batchSize", "shuffle", ...SOURCES]) {
    if (isMap(data) && ownValue(data, key) !== undefined) settings[key] = data[key];
  }
  const attempt = jobSchema.check({ ...repaired, data: settings }, [], new FaultList());
  if (attempt !== undefined) return { spec: attempt, isSourceStandIn: false };
  for (const source of SOURCES) delete settings[source];
  settings["stream"] = {};
  repaired["data"] = settings;
  const standIn = jobSchema.check(repaired, [], new FaultList());
  return standIn && { spec: standIn, isSourceStandIn: true };
}

/** Faults that span keys. Keys that are faulty themselves are left out of it: they hold stand-ins. */
function checkAcrossKeys(
  { spec, isSourceStandIn }: Repaired,
  faults: FaultList,
  options: ResolveOptions,
): void {
  const broken = new Set(faults.broken);
  const { batchSize } = spec.data;
  const microbatches = spec.gradientAccumulation;
  if (
    !broken.has("data.batchSize") &&
    !broken.has("gradientAccumulation") &&
    batchSize % microbatches !== 0
  ) {
    const message = `${microbatches} microbatches do not divide data.batchSize ${batchSize}; use a divisor of ${batchSize}`;
    faults.add(["gradientAccumulation"], message);
  }
  const { dataParallel, tensorParallel } = spec.mesh;
  if (
    dataParallel !== "auto" &&
    tensorParallel !== "auto" &&
    dataParallel * tensorParallel > MAX_RANKS
  ) {
    const ranks = `${dataParallel} x ${tensorParallel} is ${dataParallel * tensorParallel} ranks`;
    faults.add(["mesh"], `${ranks}; at most ${MAX_RANKS}`);
  }
  if ("module" in spec.model && options.modules === "refuse") {
    const message =
      "a server runs no code of its clients; submit with the rankmesh command, which traces the file, or send model.graph";
    faults.add(["model", "module"], message);
  }
  checkModel(spec, broken, faults);
  checkSequenceParallel(spec, broken, faults);
  checkData(spec, isSourceStandIn, broken, faults);
  checkHuggingFace(spec, faults);
}

/** What is asked for must happen, and only default plans of models over sequences have it. */
function checkSequenceParallel(
  spec: JobSpec,
  broken: ReadonlySet<string>,
  faults: FaultList,
): void {
  if (spec.sequenceParallel !== true || broken.has("sequenceParallel")) return;
  if (!takesTokens(spec.model)) {
    const message =
      "true is for the default plans of llama, gpt2 and huggingFace; this model has none with it, leave it out";
    faults.add(["sequenceParallel"], message);
  } else if (Object.keys(spec.plan).length > 0) {
    const message =
      "true is for the default plan, but the job has a plan of its own: give its norm layers the style sequence, and leave this out";
    faults.add(["sequenceParallel"], message);
  }
}

function checkHuggingFace({ model, init, output }: JobSpec, faults: FaultList): void {
  if ("huggingFace" in model && init.safetensors !== undefined) {
    const message = "model.huggingFace brings its own weights; leave it out";
    faults.add(["init", "safetensors"], message);
  }
  const isLlama = "llama" in model || "huggingFace" in model;
  if (output.huggingFace !== undefined && !isLlama) {
    const message = "only llama and huggingFace models can be exported; use output.safetensors";
    faults.add(["output", "huggingFace"], message);
  }
}
