import { type Fault, InvalidArgumentError } from "../errors.ts";
import { FaultList } from "./faults.ts";
import type { JobSpec } from "./job-spec.ts";
import { MAX_ELEMENTS, MAX_RANKS } from "./limits.ts";
import { DEFAULT_FEATURES, jobSchema } from "./schema.ts";
import { isMap, ownValue } from "./schema-types.ts";

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
  const partial = spec !== undefined && faults.count === 0 ? spec : checkRepaired(value);
  if (partial !== undefined) checkAcrossKeys(partial, faults, options);
  if (spec !== undefined && faults.count === 0) return { ok: true, spec };
  const harmless = partial && withoutConflicts(partial, faults.broken);
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

const SOURCES = ["safetensors", "random", "stream"];

/** The spec once more, with a stand-in for the data's source where it can't be used; its faults are known already. */
function checkRepaired(value: unknown): JobSpec | undefined {
  if (!isMap(value)) return undefined;
  const repaired: Record<string, unknown> = {};
  for (const key of Object.keys(value)) if (key !== "__proto__") repaired[key] = value[key];
  const data = ownValue(value, "data");
  const settings: Record<string, unknown> = {};
  for (const key of ["batchSize", "shuffle", ...SOURCES]) {
    if (isMap(data) && ownValue(data, key) !== undefined) settings[key] = data[key];
  }
  const attempt = jobSchema.check({ ...repaired, data: settings }, [], new FaultList());
  if (attempt !== undefined) return attempt;
  for (const source of SOURCES) delete settings[source];
  settings["stream"] = {};
  repaired["data"] = settings;
  return jobSchema.check(repaired, [], new FaultList());
}

/** Faults that span keys. Keys that are faulty themselves are left out of it: they hold stand-ins. */
function checkAcrossKeys(spec: JobSpec, faults: FaultList, options: ResolveOptions): void {
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
  checkModel(spec, faults, options);
}

function checkModel(spec: JobSpec, faults: FaultList, options: ResolveOptions): void {
  const { model } = spec;
  if ("module" in model && options.modules === "refuse") {
    const message =
      "a server runs no code of its clients; submit with the rankmesh command, which traces the file, or send model.graph";
    faults.add(["model", "module"], message);
  }
  if ("feedForward" in model)
    checkWeight(model.feedForward.dim, model.feedForward.hidden, ["model", "feedForward"], faults);
  if ("mlp" in model) {
    const { dims } = model.mlp;
    for (let i = 1; i < dims.length; i++) {
      checkWeight(dims[i - 1] ?? 1, dims[i] ?? 1, ["model", "mlp", "dims", i], faults);
    }
  }
  if ("graph" in model && spec.loss === "mse") {
    const target = model.graph.inputs.findIndex((input) => input.name === "y");
    if (target >= 0) {
      const message = `"y" is the name of the target that loss mse adds; give the input another name`;
      faults.add(["model", "graph", "inputs", target, "name"], message);
    }
  }
}

function checkWeight(
  inFeatures: number,
  outFeatures: number,
  path: readonly (string | number)[],
  faults: FaultList,
): void {
  if (inFeatures * outFeatures <= MAX_ELEMENTS) return;
  faults.add(
    path,
    `${inFeatures} x ${outFeatures} weights are more than the ${MAX_ELEMENTS} that one parameter may have`,
  );
}

/** `partial` with sizes that can't contradict each other, for whichever of them the user has to change. */
function withoutConflicts(partial: JobSpec, broken: ReadonlySet<string>): JobSpec {
  const isMeshBroken = broken.has("mesh");
  const mesh = isMeshBroken ? standInMesh(partial) : partial.mesh;
  const gradientAccumulation = broken.has("gradientAccumulation")
    ? 1
    : partial.gradientAccumulation;
  const dataParallel = mesh.dataParallel === "auto" ? 1 : mesh.dataParallel;
  const batchSize = broken.has("data.batchSize")
    ? dataParallel * gradientAccumulation
    : partial.data.batchSize;
  const model = broken.has("model.feedForward") ? standInModel(partial, mesh) : partial.model;
  return { ...partial, model, mesh, gradientAccumulation, data: { ...partial.data, batchSize } };
}

/** Sizes that a fault put at their default become ones that divide. */
function standInModel(partial: JobSpec, mesh: JobSpec["mesh"]): JobSpec["model"] {
  const { model } = partial;
  if (!("feedForward" in model)) return model;
  const divisible = 8 * (mesh.tensorParallel === "auto" ? 1 : mesh.tensorParallel);
  const { dim, hidden } = model.feedForward;
  return {
    feedForward: {
      dim: dim === DEFAULT_FEATURES ? divisible : dim,
      hidden: hidden === DEFAULT_FEATURES ? divisible : hidden,
    },
  };
}

function standInMesh(partial: JobSpec): JobSpec["mesh"] {
  const { dataParallel, tensorParallel } = partial.mesh;
  const ranks =
    (dataParallel === "auto" ? 1 : dataParallel) * (tensorParallel === "auto" ? 1 : tensorParallel);
  return ranks > MAX_RANKS ? { dataParallel: 1, tensorParallel: 1 } : partial.mesh;
}
