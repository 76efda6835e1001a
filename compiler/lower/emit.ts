import { chooseAlgorithm, wireBytes } from "../../shared/collective/algorithm.ts";
import { InternalError } from "../../shared/errors.ts";
import { axisSize } from "../../shared/mesh/mesh.ts";
import {
  type Collective,
  dtypeBytes,
  type EvaluationSection,
  type InitSpec,
  type Instruction,
  type MemoryKind,
  type Program,
  type ProgramInput,
  type Slot,
  type StoredTensor,
} from "../../shared/program/program.ts";
import type { CompileRequest } from "../compile.ts";
import type { TrainingGraph } from "../ir/training-graph.ts";
import { opDefinition } from "../ops/registry.ts";
import { elements } from "../ops/shapes.ts";
import { planArena, spread } from "./arena.ts";
import { coalesceReductions } from "./coalesce.ts";
import { fuseUpdates, reachable } from "./fuse.ts";
import { fuseSiblings } from "./fuse-siblings.ts";
import type { Lowered } from "./lower.ts";
import type { RankValue } from "./rank-graph.ts";
import { reuseDeadBytes } from "./reuse.ts";
import { type Schedule, type ScheduledStep, schedule } from "./schedule.ts";

const MEMORY_KINDS: Readonly<Record<StoredTensor["role"], MemoryKind>> = {
  parameter: "weights",
  moment1: "optimizer",
  moment2: "optimizer",
  cache: "cache",
};

/** One scheduled run over the values that some results need, with their places in the arena's transient part. */
interface Section {
  readonly live: ReadonlySet<number>;
  readonly order: Schedule;
  /** Value whose bytes a value takes over, or itself. */
  readonly storageOf: (id: number) => number;
  /** Offsets of storages behind the persistent ones. */
  readonly offsets: ReadonlyMap<number, number>;
  readonly bytes: number;
}

/** Fuses, schedules and lays out one rank's values: the program that every rank runs. */
export function emitProgram(
  request: CompileRequest,
  training: TrainingGraph,
  lowered: Lowered,
): Program {
  const { values } = lowered;
  fuseUpdates(values);
  fuseSiblings(values);
  const at = (id: number): RankValue => {
    const value = values[id];
    if (value === undefined) throw new InternalError(`no rank value ${id}`);
    return value;
  };
  const canonical = (id: number): number => {
    const value = lowered.canonical.get(id);
    if (value === undefined) throw new InternalError(`%${id} was not lowered`);
    return value;
  };

  const parameterNames = namesByValue(training);
  const lossValue = canonical(training.loss);
  const normValue = training.gradNorm === undefined ? undefined : canonical(training.gradNorm);
  const stored = storedValues();
  const inputLeaves = training.inputs.map((input) => canonical(input.leaf));
  const results = normValue === undefined ? [lossValue] : [lossValue, normValue];
  const updates = training.parameters
    .map((parameter) => parameter.updated)
    .filter((updated) => updated !== undefined)
    .map(canonical);
  const leaves = [...stored.map((s) => s.value), ...inputLeaves];
  const roots = [...results, ...updates, ...leaves];
  coalesceReductions(values, reachable(values, roots));
  const live = reachable(values, roots);
  const kept = [...live].filter((id) => at(id).op === "accumulate");
  const persistent = persistentPlaces();
  const step = placeSection(live, results);
  const evaluation =
    request.evaluation === true
      ? placeSection(reachable(values, [lossValue]), [lossValue])
      : undefined;

  const slots: Slot[] = [];
  const collectives: Collective[] = [];
  const persistentSlots = new Map<number, number>();
  const stepSlots = makeSlots(step);
  const slot = stepSlots.slotOf;
  const { body, epilogue } = instructionsOf(step, slot, false);
  const transientBytes = Math.max(step.bytes, evaluation?.bytes ?? 0);

  return {
    formatVersion: 1,
    name: request.name,
    mesh: request.mesh,
    arenaBytes: persistent.bytes + transientBytes,
    memoryByKind: { ...persistent.byKind, activations: transientBytes },
    stored: stored.map(
      (s): StoredTensor => ({
        name: s.name,
        role: s.role,
        globalShape: s.globalShape,
        layout: at(s.value).layout,
        slot: slot(s.value),
        init: s.init,
      }),
    ),
    inputs: training.inputs.map((input): ProgramInput => {
      const value = canonical(input.leaf);
      const { type } = training.graph.node(input.leaf);
      return {
        name: input.name,
        dtype: type.dtype,
        globalShape: type.shape,
        layout: at(value).layout,
        slot: slot(value),
      };
    }),
    microbatches: request.microbatches,
    body,
    epilogue,
    ...(evaluation === undefined ? {} : { evaluation: emitEvaluation(evaluation) }),
    slots,
    collectives,
    lossSlot: slot(lossValue),
    gradNormSlot: normValue === undefined ? -1 : slot(normValue),
    optimizer: request.optimizer,
    schedule: request.schedule,
  };

  function emitEvaluation(section: Section): EvaluationSection {
    const { slotOf } = makeSlots(section);
    return { ...instructionsOf(section, slotOf, true), lossSlot: slotOf(lossValue) };
  }

  /** Schedules the values, lets them take over dead bytes, and lays the transient ones out by their live ranges. */
  function placeSection(own: ReadonlySet<number>, hostReads: readonly number[]): Section {
    const storage = baseStorage(own);
    const storageOf = (id: number): number => storage.get(id) ?? id;
    const order = schedule(
      values,
      own,
      storageOf,
      (id) => training.parameterOf.has(at(id).origin),
      request.microbatches > 1,
    );
    const steps = [...order.body, ...order.epilogue];
    const isPersistent = (root: number): boolean => persistent.offsets.has(root);
    reuseDeadBytes({ steps, storage, at, isPersistent, hostReads });
    const transient = layOut(steps, storageOf, hostReads);
    return { live: own, order, storageOf, ...transient };
  }

  function makeSlots(section: Section): { slotOf: (id: number) => number } {
    const slotOf = new Map<number, number>();
    for (const id of [...section.live].sort((a, b) => a - b)) {
      const root = section.storageOf(id);
      const offset = persistent.offsets.get(root) ?? section.offsets.get(root);
      // A value of no use but to be there (a parameter's update of a section that makes none) has no place.
      if (offset === undefined) continue;
      const isPersistent = persistent.offsets.has(root);
      const known = isPersistent ? persistentSlots.get(id) : undefined;
      if (known !== undefined) {
        slotOf.set(id, known);
        continue;
      }
      const value = at(id);
      slotOf.set(id, slots.length);
      if (isPersistent) persistentSlots.set(id, slots.length);
      slots.push({
        name: nameOf(value),
        dtype: value.dtype,
        shape: value.shape,
        offsetBytes: offset,
        sizeBytes: bytesOf(value),
      });
    }
    return {
      slotOf(id) {
        const index = slotOf.get(id);
        if (index === undefined) throw new InternalError(`value ${id} has no slot`);
        return index;
      },
    };
  }

  function instructionsOf(
    section: Section,
    slotOf: (id: number) => number,
    evaluates: boolean,
  ): { body: Instruction[]; epilogue: Instruction[] } {
    const collectiveOf = new Map<number, number>();
    const emit = (scheduled: ScheduledStep): Instruction => {
      const value = at(scheduled.value);
      if (scheduled.kind !== "compute") {
        let collective = collectiveOf.get(value.id);
        if (collective === undefined) {
          collective = collectives.length;
          collectiveOf.set(value.id, collective);
          collectives.push(describeCollective(value, slotOf));
        }
        return { kind: scheduled.kind, collective };
      }
      const definition = opDefinition(value.op);
      const states = definition.alsoWrites?.(value.attrs) ?? [];
      const own = value.inputs.map(slotOf);
      const isKept = value.op === "accumulate";
      return {
        kind: "compute",
        op: value.op,
        inputs: isKept ? [slotOf(value.id), ...own] : own,
        outputs: [
          slotOf(value.id),
          ...(value.makes ?? []).map(slotOf),
          ...states.map((index) => own[index] ?? -1),
        ],
        attrs: evaluates ? { ...value.attrs, ...definition.evaluationAttrs } : value.attrs,
      };
    };
    return { body: section.order.body.map(emit), epilogue: section.order.epilogue.map(emit) };
  }

  function storedValues(): {
    name: string;
    role: StoredTensor["role"];
    globalShape: readonly number[];
    value: number;
    init: InitSpec;
  }[] {
    const list: ReturnType<typeof storedValues> = [];
    training.parameters.forEach((parameter, p) => {
      const spec = request.graph.parameters[p];
      const globalShape = training.graph.node(parameter.leaf).type.shape;
      if (spec === undefined) throw new InternalError(`no parameter ${p}`);
      list.push({
        name: parameter.name,
        role: "parameter",
        globalShape,
        value: canonical(parameter.leaf),
        init: spec.init,
      });
      for (const role of ["moment1", "moment2"] as const) {
        const leaf = parameter[role];
        if (leaf === undefined) continue;
        list.push({
          name: parameter.name,
          role,
          globalShape,
          value: canonical(leaf),
          init: { kind: "constant", value: 0 },
        });
      }
    });
    for (const { name, leaf } of training.caches ?? []) {
      list.push({
        name,
        role: "cache",
        globalShape: training.graph.node(leaf).type.shape,
        value: canonical(leaf),
        init: { kind: "constant", value: 0 },
      });
    }
    return list;
  }

  /** Values that take over another's bytes: in-place updates, views, and what replaces a parameter. */
  function baseStorage(own: ReadonlySet<number>): Map<number, number> {
    const map = new Map<number, number>();
    const rootOf = (id: number): number => map.get(id) ?? id;
    for (const value of values) {
      if (!own.has(value.id)) continue;
      if (value.replaces !== undefined) map.set(value.id, rootOf(value.replaces));
      else if (value.kind === "compute") {
        const { inPlace, isView } = opDefinition(value.op);
        const input = value.inputs[isView === true ? 0 : (inPlace ?? -1)];
        if (input !== undefined) map.set(value.id, rootOf(input));
      }
    }
    return map;
  }

  /** What lives from step to step, at the arena's beginning: weights and moments, inputs, kept gradients. */
  function persistentPlaces(): {
    bytes: number;
    byKind: Partial<Record<MemoryKind, number>>;
    offsets: ReadonlyMap<number, number>;
  } {
    const offsets = new Map<number, number>();
    const byKind: Partial<Record<MemoryKind, number>> = {};
    let bytes = 0;
    const keep = (id: number, kind: MemoryKind): void => {
      if (offsets.has(id)) return;
      offsets.set(id, bytes);
      const size = spread(bytesOf(at(id)));
      byKind[kind] = (byKind[kind] ?? 0) + size;
      bytes += size;
    };
    for (const s of stored) keep(s.value, MEMORY_KINDS[s.role]);
    for (const id of inputLeaves) keep(id, "inputs");
    for (const id of kept) keep(id, "gradients");
    return { bytes, byKind, offsets };
  }

  /** Places of transient storages by their live ranges over the whole section. */
  function layOut(
    steps: readonly ScheduledStep[],
    storageOf: (id: number) => number,
    hostReads: readonly number[],
  ): { bytes: number; offsets: ReadonlyMap<number, number> } {
    const ranges = new Map<number, { start: number; end: number; bytes: number }>();
    const touch = (id: number, index: number): void => {
      const root = storageOf(id);
      if (persistent.offsets.has(root)) return;
      const range = ranges.get(root);
      const size = bytesOf(at(id));
      if (range === undefined) ranges.set(root, { start: index, end: index, bytes: size });
      else {
        range.end = index;
        range.bytes = Math.max(range.bytes, size);
      }
    };
    steps.forEach((scheduled, index) => {
      const value = at(scheduled.value);
      for (const id of [...value.inputs, value.id, ...(value.makes ?? [])]) touch(id, index);
    });
    // Read by the host after the last instruction.
    for (const id of hostReads) touch(id, steps.length);
    const plan = planArena([...ranges.values()]);
    const offsets = new Map(
      [...ranges.keys()].map((root, i) => [root, persistent.bytes + (plan.offsets[i] ?? 0)]),
    );
    return { bytes: plan.bytes, offsets };
  }

  function describeCollective(value: RankValue, slotOf: (id: number) => number): Collective {
    const move = value.collective;
    const [input] = value.inputs;
    if (move === undefined || input === undefined)
      throw new InternalError(`value ${value.id} is no collective`);
    const groupSize = move.axes.reduce((n, axis) => n * axisSize(request.mesh, axis), 1);
    const full = move.op === "allGather" ? value : at(input);
    const payloadBytes = bytesOf(full);
    const { algorithm, segmentBytes } = chooseAlgorithm(move.op, payloadBytes, groupSize);
    return {
      op: move.op,
      axes: move.axes,
      inputSlot: slotOf(input),
      outputSlot: slotOf(value.id),
      dtype: value.dtype,
      outer: move.outer,
      chunkElements: move.chunkElements,
      algorithm,
      segmentBytes,
      payloadBytes,
      wireBytes: wireBytes(move.op, algorithm, payloadBytes, groupSize, dtypeBytes(value.dtype)),
      sameInputs: !move.axes.some((axis) => request.axes[axis]?.splitsBatch === true),
      label:
        value.together === undefined
          ? labelOf(value.origin)
          : `${labelOf(value.origin)} and ${value.together - 1} more`,
      from: move.from,
      to: move.to,
      phase: value.phase,
    };
  }

  function nameOf(value: RankValue): string {
    const node = training.graph.node(value.origin);
    if (value.kind === "scratch") return `scratch %${value.id}`;
    if (node.leaf !== undefined && value.kind === "leaf") {
      return node.leaf.kind.startsWith("moment") ? `${node.layer}.${node.leaf.kind}` : node.layer;
    }
    return `%${value.id}`;
  }

  /** `w2.output`, `grad of w1.input`, `w1.weight`: what is moved, in the model's words. */
  function labelOf(origin: number): string {
    const node = training.graph.node(origin);
    if (node.leaf !== undefined) return node.layer;
    const parameter = parameterNames.get(origin);
    if (parameter !== undefined) return parameter;
    const layer = node.layer === "" ? node.op : node.layer;
    // An accumulated gradient is named after the value whose it is.
    if (node.phase === "backward" && node.op === "addN") return `grad of ${layer}`;
    return node.phase === "backward" ? `${layer}.${node.op}` : layer;
  }
}

/** What the values of parameters are called in the labels of collectives: `w1.weight`, `grad w1.weight`. */
function namesByValue({ parameters }: TrainingGraph): Map<number, string> {
  const names = new Map<number, string>();
  const call = (value: number | undefined, name: string): void => {
    if (value !== undefined && !names.has(value)) names.set(value, name);
  };
  for (const { name, forwardUse, backwardUse, updated } of parameters) {
    for (const value of [forwardUse, backwardUse, updated]) call(value, name);
  }
  for (const { name, gradient } of parameters) call(gradient, `grad ${name}`);
  return names;
}

function bytesOf(value: RankValue): number {
  return elements(value.shape) * dtypeBytes(value.dtype);
}
