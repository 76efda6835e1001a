import { chooseAlgorithm, wireBytes } from "../../shared/collective/algorithm.ts";
import { InternalError } from "../../shared/errors.ts";
import { axisSize } from "../../shared/mesh/mesh.ts";
import {
  type Collective,
  dtypeBytes,
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
import { fuseUpdates, reachable } from "./fuse.ts";
import type { Lowered } from "./lower.ts";
import type { RankValue } from "./rank-graph.ts";
import { type ScheduledStep, schedule } from "./schedule.ts";

/** Fuses, schedules and lays out one rank's values: the program that every rank runs. */
export function emitProgram(
  request: CompileRequest,
  training: TrainingGraph,
  lowered: Lowered,
): Program {
  const { values } = lowered;
  fuseUpdates(values);
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

  const lossValue = canonical(training.loss);
  const normValue = training.gradNorm === undefined ? undefined : canonical(training.gradNorm);
  const stored = storedValues();
  const inputLeaves = training.inputs.map((input) => canonical(input.leaf));
  const persistent = new Set([...stored.map((s) => s.value), ...inputLeaves]);
  const roots = [lossValue, ...persistent];
  if (normValue !== undefined) roots.push(normValue);
  for (const parameter of training.parameters) {
    if (parameter.updated !== undefined) roots.push(canonical(parameter.updated));
  }
  const live = reachable(values, roots);

  const storage = baseStorage();
  const storageOf = (id: number): number => storage.get(id) ?? id;
  const order = schedule(
    values,
    live,
    storageOf,
    (id) => training.parameterOf.has(at(id).origin),
    request.microbatches > 1,
  );
  const steps = [...order.body, ...order.epilogue];
  reduceInPlace();
  const layout = layOut();

  const slots: Slot[] = [];
  const slotOf = new Map<number, number>();
  for (const id of [...live].sort((a, b) => a - b)) {
    const value = at(id);
    slotOf.set(id, slots.length);
    slots.push({
      name: nameOf(value),
      dtype: value.dtype,
      shape: value.shape,
      offsetBytes: layout.offsetOf(storageOf(id)),
      sizeBytes: bytesOf(value),
    });
  }
  const slot = (id: number): number => {
    const index = slotOf.get(id);
    if (index === undefined) throw new InternalError(`value ${id} has no slot`);
    return index;
  };

  const collectives: Collective[] = [];
  const collectiveOf = new Map<number, number>();
  const instructions = (list: readonly ScheduledStep[]): Instruction[] =>
    list.map((step): Instruction => {
      const value = at(step.value);
      if (step.kind !== "compute") {
        let collective = collectiveOf.get(value.id);
        if (collective === undefined) {
          collective = collectives.length;
          collectiveOf.set(value.id, collective);
          collectives.push(describeCollective(value));
        }
        return { kind: step.kind, collective };
      }
      const states = opDefinition(value.op).alsoWrites?.(value.attrs) ?? [];
      const own = value.inputs.map(slot);
      const isKept = value.op === "accumulate";
      return {
        kind: "compute",
        op: value.op,
        inputs: isKept ? [slot(value.id), ...own] : own,
        outputs: [slot(value.id), ...states.map((index) => own[index] ?? -1)],
        attrs: value.attrs,
      };
    });
  const body = instructions(order.body);
  const epilogue = instructions(order.epilogue);

  return {
    formatVersion: 1,
    name: request.name,
    mesh: request.mesh,
    arenaBytes: layout.bytes,
    memoryByKind: layout.byKind,
    slots,
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
    collectives,
    lossSlot: slot(lossValue),
    gradNormSlot: normValue === undefined ? -1 : slot(normValue),
    optimizer: request.optimizer,
    schedule: request.schedule,
  };

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
    return list;
  }

  /** Values that take over another's bytes: in-place updates, and what replaces a parameter. */
  function baseStorage(): Map<number, number> {
    const map = new Map<number, number>();
    const rootOf = (id: number): number => map.get(id) ?? id;
    for (const value of values) {
      if (!live.has(value.id)) continue;
      if (value.replaces !== undefined) map.set(value.id, rootOf(value.replaces));
      else if (value.kind === "compute") {
        const { inPlace } = opDefinition(value.op);
        const input = inPlace === undefined ? undefined : value.inputs[inPlace];
        if (input !== undefined) map.set(value.id, rootOf(input));
      }
    }
    return map;
  }

  /** Lets an all-reduce write its input's bytes where nobody reads them afterwards. */
  function reduceInPlace(): void {
    const reads = new Map<number, { index: number; reader: number }[]>();
    steps.forEach((step, index) => {
      for (const input of at(step.value).inputs) {
        const root = storageOf(input);
        reads.set(root, [...(reads.get(root) ?? []), { index, reader: step.value }]);
      }
    });
    steps.forEach((step, index) => {
      const value = at(step.value);
      const [input] = value.inputs;
      if (
        step.kind !== "start" ||
        value.collective?.op !== "allReduce" ||
        value.replaces !== undefined ||
        input === undefined
      )
        return;
      const root = storageOf(input);
      if (persistent.has(root)) return;
      if (reads.get(root)?.some((read) => read.index > index && read.reader !== value.id)) return;
      storage.set(value.id, root);
      // Values that took over this value's bytes follow it.
      for (const [id, of] of storage) if (of === value.id) storage.set(id, root);
    });
  }

  /** Persistent buffers first, then the transient ones by their live ranges over the whole step. */
  function layOut(): {
    bytes: number;
    byKind: Partial<Record<MemoryKind, number>>;
    offsetOf: (storage: number) => number;
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
    for (const s of stored) keep(s.value, s.role === "parameter" ? "weights" : "optimizer");
    for (const id of inputLeaves) keep(id, "inputs");
    for (const id of live) if (at(id).op === "accumulate") keep(id, "gradients");

    const ranges = new Map<number, { start: number; end: number; bytes: number }>();
    const touch = (id: number, index: number): void => {
      const root = storageOf(id);
      if (offsets.has(root)) return;
      const range = ranges.get(root);
      const size = bytesOf(at(id));
      if (range === undefined) ranges.set(root, { start: index, end: index, bytes: size });
      else {
        range.end = index;
        range.bytes = Math.max(range.bytes, size);
      }
    };
    steps.forEach((step, index) => {
      const value = at(step.value);
      for (const input of value.inputs) touch(input, index);
      touch(value.id, index);
    });
    // Read by the host after the last instruction.
    touch(lossValue, steps.length);
    if (normValue !== undefined) touch(normValue, steps.length);
    const roots_ = [...ranges.keys()];
    const plan = planArena([...ranges.values()]);
    roots_.forEach((root, i) => {
      offsets.set(root, bytes + (plan.offsets[i] ?? 0));
    });
    byKind.activations = plan.bytes;
    return {
      bytes: bytes + plan.bytes,
      byKind,
      offsetOf(root) {
        const offset = offsets.get(root);
        // A leaf that no instruction touches (an input that the model does not read) is persistent; nothing else is left.
        if (offset === undefined)
          throw new InternalError(`storage ${root} has no place in the arena`);
        return offset;
      },
    };
  }

  function describeCollective(value: RankValue): Collective {
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
      inputSlot: slot(input),
      outputSlot: slot(value.id),
      dtype: value.dtype,
      outer: move.outer,
      chunkElements: move.chunkElements,
      algorithm,
      segmentBytes,
      payloadBytes,
      wireBytes: wireBytes(move.op, algorithm, payloadBytes, groupSize, dtypeBytes(value.dtype)),
      sameInputs: !move.axes.some((axis) => request.axes[axis]?.splitsBatch === true),
      label: labelOf(value.origin),
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
    const parameter = training.parameters.find(
      (p) => p.forwardUse === origin || p.backwardUse === origin || p.updated === origin,
    );
    if (parameter !== undefined) return parameter.name;
    const ofGradient = training.parameters.find((p) => p.gradient === origin);
    if (ofGradient !== undefined) return `grad ${ofGradient.name}`;
    const layer = node.layer === "" ? node.op : node.layer;
    return node.phase === "backward" ? `${layer}.${node.op}` : layer;
  }
}

function bytesOf(value: RankValue): number {
  return elements(value.shape) * dtypeBytes(value.dtype);
}
