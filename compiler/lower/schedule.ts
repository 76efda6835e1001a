import { InternalError } from "../../shared/errors.ts";
import { opDefinition } from "../ops/registry.ts";
import { reachable } from "./fuse.ts";
import type { RankValue } from "./rank-graph.ts";

/** One entry of the final order. A collective has a start and a wait; everything else runs at once. */
export interface ScheduledStep {
  readonly kind: "compute" | "start" | "wait";
  readonly value: number;
}

export interface Schedule {
  readonly body: readonly ScheduledStep[];
  readonly epilogue: readonly ScheduledStep[];
}

/**
 * Orders a rank's values. Updates run as soon as their gradient is known and every reader of the old weight is done:
 * factors are freed early and fill the wait for a reduction. A collective starts right after its input is made and is
 * waited for right before its first reader. Gathers of stored parameters start one gather ahead, so that no more than two
 * gathered parameters lie in memory beyond their use. The order is a function of the program alone, the same on all ranks.
 *
 * With `separateEpilogue` (several microbatches), values of the optimizer phase form the epilogue.
 */
export function schedule(
  values: readonly RankValue[],
  live: ReadonlySet<number>,
  storageOf: (id: number) => number,
  isParameter: (id: number) => boolean,
  separateEpilogue: boolean,
): Schedule {
  const order = topologicalOrder(values, live, storageOf, isParameter);
  const inEpilogue = (value: RankValue): boolean => separateEpilogue && value.phase === "optimizer";
  const sections = separateEpilogue
    ? [order.filter((v) => !inEpilogue(v)), order.filter(inEpilogue)]
    : [order, []];
  const [body = [], epilogue = []] = sections.map((section) =>
    placeCollectives(section, values, storageOf, isParameter),
  );
  return { body, epilogue };
}

/** Stable topological order in which optimizer values come as early as their inputs and the old weight's readers allow. */
function topologicalOrder(
  values: readonly RankValue[],
  live: ReadonlySet<number>,
  storageOf: (id: number) => number,
  isParameter: (id: number) => boolean,
): RankValue[] {
  const listed = values.filter((v) => live.has(v.id) && v.kind !== "leaf" && v.kind !== "scratch");
  const waitsFor = new Map<number, Set<number>>();
  const readersOf = new Map<number, number[]>();
  for (const value of listed) {
    const needs = new Set(
      value.inputs.filter((i) => values[i]?.kind !== "leaf" && values[i]?.kind !== "scratch"),
    );
    waitsFor.set(value.id, needs);
    for (const input of value.inputs) {
      const storage = storageOf(input);
      const readers = readersOf.get(storage);
      if (readers === undefined) readersOf.set(storage, [value.id]);
      else readers.push(value.id);
    }
  }
  for (const value of listed) {
    const written = writtenStorage(value, storageOf);
    for (const storage of written) {
      for (const reader of readersOf.get(storage) ?? []) {
        // Later stages of the same update read what it wrote; everyone else reads the old value first.
        if (reader !== value.id && !dependsOn(values, reader, value.id))
          waitsFor.get(value.id)?.add(reader);
      }
    }
  }

  const result: RankValue[] = [];
  const deferred = deferredValues(listed, waitsFor);
  if (deferred.size > 0) {
    for (const waits of waitsFor.values()) {
      for (const id of waits) if (deferred.has(id)) waits.delete(id);
    }
  }
  const updates = listed.filter((v) => v.phase === "optimizer" && !deferred.has(v.id));
  const others = resultsLast(values, listed, isParameter);
  const readers = new Map<number, RankValue[]>();
  for (const value of listed) {
    for (const id of waitsFor.get(value.id) ?? []) {
      const list = readers.get(id);
      if (list === undefined) readers.set(id, [value]);
      else list.push(value);
    }
  }
  const isUpdate = new Set(updates.map((v) => v.id));
  const isReady = (value: RankValue): boolean => waitsFor.get(value.id)?.size === 0;
  let readyUpdates = updates.filter(isReady);
  let numPending = updates.length;
  const emit = (value: RankValue): void => {
    for (const input of value.inputs) {
      const late = deferred.get(input);
      if (late === undefined) continue;
      deferred.delete(input);
      emit(late);
    }
    result.push(value);
    for (const reader of readers.get(value.id) ?? []) {
      const waits = waitsFor.get(reader.id);
      waits?.delete(value.id);
      if (waits?.size === 0 && isUpdate.has(reader.id)) readyUpdates.push(reader);
    }
  };
  const emitUpdates = (): void => {
    while (readyUpdates.length > 0) {
      const batch = readyUpdates.sort((x, y) => x.id - y.id);
      readyUpdates = [];
      numPending -= batch.length;
      for (const value of batch) emit(value);
    }
  };
  emitUpdates();
  others.forEach((value, index) => {
    if (!isReady(value))
      throw new InternalError(`schedule: value ${value.id} comes before its inputs`);
    emit(value);
    // A collective of the value just made starts first; updates then fill the wait.
    if (others[index + 1]?.kind !== "collective") emitUpdates();
  });
  if (numPending > 0)
    throw new InternalError(`schedule: ${numPending} updates wait for each other`);
  return result;
}

/**
 * Optimizer values that could run at once and that nothing but updates read (a rank's slice of a weight): they are put
 * right before their first reader, where a copy made at the beginning would lie in memory through the whole step.
 */
function deferredValues(
  listed: readonly RankValue[],
  waitsFor: ReadonlyMap<number, ReadonlySet<number>>,
): Map<number, RankValue> {
  const isRead = new Set(listed.flatMap((value) => value.inputs));
  const found = listed.filter(
    (value) =>
      value.phase === "optimizer" &&
      value.kind === "compute" &&
      waitsFor.get(value.id)?.size === 0 &&
      opDefinition(value.op).inPlace === undefined &&
      isRead.has(value.id),
  );
  return new Map(found.map((value) => [value.id, value]));
}

/**
 * Forward and backward values in order, but those that only the reported results need (the loss and what leads to it
 * alone) at the end: a reduction that no gradient waits for then runs behind the whole backward pass. Readers of
 * parameters and collectives stay in place, so that updates and exchanges begin early.
 */
function resultsLast(
  values: readonly RankValue[],
  listed: readonly RankValue[],
  isParameter: (id: number) => boolean,
): RankValue[] {
  const needed = reachable(
    values,
    listed.filter((v) => v.phase === "optimizer").map((v) => v.id),
  );
  const late = new Set<number>();
  const others = listed.filter((v) => v.phase !== "optimizer");
  for (const value of others) {
    if (needed.has(value.id)) continue;
    const stays = value.kind === "collective" || value.inputs.some(isParameter);
    if (!stays || value.inputs.some((input) => late.has(input))) late.add(value.id);
  }
  return [...others.filter((v) => !late.has(v.id)), ...others.filter((v) => late.has(v.id))];
}

/** Storages that a value overwrites: in-place operands, and the leaf it replaces. */
function writtenStorage(value: RankValue, storageOf: (id: number) => number): number[] {
  const written: number[] = [];
  if (value.replaces !== undefined) written.push(storageOf(value.replaces));
  if (value.kind === "compute") {
    const { inPlace, alsoWrites } = opDefinition(value.op);
    for (const index of inPlace === undefined
      ? []
      : [inPlace, ...(alsoWrites?.(value.attrs) ?? [])]) {
      const input = value.inputs[index];
      if (input !== undefined) written.push(storageOf(input));
    }
  }
  return [...new Set(written)];
}

function dependsOn(values: readonly RankValue[], id: number, on: number): boolean {
  if (id <= on) return false;
  const value = values[id];
  return value?.inputs.some((i) => i === on || dependsOn(values, i, on)) ?? false;
}

function placeCollectives(
  order: readonly RankValue[],
  values: readonly RankValue[],
  storageOf: (id: number) => number,
  isParameter: (id: number) => boolean,
): ScheduledStep[] {
  const steps: ScheduledStep[] = [];
  const position = new Map(order.map((v, index) => [v.id, index]));
  const firstReader = new Map<number, number>();
  const lastReader = new Map<number, number>();
  order.forEach((value, index) => {
    for (const input of value.inputs) {
      if (!firstReader.has(input)) firstReader.set(input, index);
      lastReader.set(input, index);
    }
  });
  /** Storage to the places of the collectives that read it. */
  const collectivesReading = new Map<number, number[]>();
  order.forEach((value, index) => {
    if (value.kind !== "collective") return;
    for (const storage of new Set(value.inputs.map(storageOf))) {
      const places = collectivesReading.get(storage);
      if (places === undefined) collectivesReading.set(storage, [index]);
      else places.push(index);
    }
  });
  const started = new Set<number>();
  const inFlight = new Set<number>();
  /** Gather to what it gathers, where that is a parameter made ready (cast): it is made as the gather starts. */
  const preparedFor = new Map<number, number>();
  const numReaders = new Map<number, number>();
  for (const { inputs } of order) {
    for (const input of inputs) numReaders.set(input, (numReaders.get(input) ?? 0) + 1);
  }
  const preparedParameter = ({ inputs: [id = -1] }: RankValue): RankValue | undefined => {
    const made = position.has(id) ? values[id] : undefined;
    const ready = made?.kind === "compute" && made.inputs.every(isParameter);
    return ready && numReaders.get(id) === 1 ? made : undefined;
  };
  let unread: number | undefined;

  const start = (id: number): void => {
    if (started.has(id)) return;
    const value = values[id];
    if (value === undefined) throw new InternalError(`no value ${id}`);
    started.add(id);
    const prepared = preparedFor.get(id);
    if (prepared !== undefined) steps.push({ kind: "compute", value: prepared });
    for (const input of value.inputs) wait(input);
    waitForReadersOf(writtenStorage(value, storageOf), id);
    // What nobody reads (updated weights on their way) is waited for one such collective later: its input is freed.
    if (!firstReader.has(id)) {
      if (unread !== undefined) wait(unread);
      unread = id;
    }
    inFlight.add(id);
    steps.push({ kind: "start", value: id });
  };
  const wait = (id: number): void => {
    if (values[id]?.kind !== "collective" || !position.has(id)) return;
    start(id);
    if (inFlight.delete(id)) steps.push({ kind: "wait", value: id });
  };
  /** A collective may read its input until its wait: nobody overwrites it before, also where its start was put off. */
  const waitForReadersOf = (storages: readonly number[], writer: number): void => {
    if (storages.length === 0) return;
    const before = position.get(writer) ?? 0;
    const readers = storages.flatMap((storage) => collectivesReading.get(storage) ?? []);
    // In the order that they come in, also where they read several of the storages.
    if (storages.length > 1) readers.sort((a, b) => a - b);
    for (const place of readers) {
      if (place >= before) continue;
      const reader = order[place]?.id ?? -1;
      if (!started.has(reader) || inFlight.has(reader)) wait(reader);
    }
  };

  const startsBefore = new Map<number, number[]>();
  const lastGatherOf = new Map<number, number>();
  let previousGather: number | undefined;
  for (const value of order) {
    if (value.kind !== "collective") continue;
    const prepared = preparedParameter(value);
    if (prepared !== undefined) preparedFor.set(value.id, prepared.id);
    else if (value.inputs[0] !== undefined && position.has(value.inputs[0])) continue;
    // The input is there from the beginning. Gathers of parameters wait until the reader of the gather before begins.
    let index = 0;
    const [source = -1] = (prepared ?? value).inputs;
    if (isParameter(source)) {
      index = firstReader.get(previousGather ?? value.id) ?? 0;
      // A second copy of one parameter waits until the first has been read for the last time.
      const earlier = lastGatherOf.get(source);
      if (earlier !== undefined) index = Math.max(index, (lastReader.get(earlier) ?? -1) + 1);
      lastGatherOf.set(source, value.id);
      previousGather = value.id;
    }
    startsBefore.set(index, [...(startsBefore.get(index) ?? []), value.id]);
  }
  const isPrepared = new Set(preparedFor.values());
  order.forEach((value, index) => {
    for (const id of startsBefore.get(index) ?? []) start(id);
    if (isPrepared.has(value.id)) return;
    if (value.kind === "collective") {
      if (preparedFor.has(value.id)) start(value.id);
      else if (value.inputs.every((input) => position.has(input))) start(value.id);
      return;
    }
    if (value.kind === "part") return;
    for (const input of value.inputs) wait(input);
    waitForReadersOf(writtenStorage(value, storageOf), value.id);
    steps.push({ kind: "compute", value: value.id });
  });
  for (const value of order) if (value.kind === "collective") wait(value.id);
  return steps;
}
