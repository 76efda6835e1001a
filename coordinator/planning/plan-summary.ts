import { shardIntervals } from "../../shared/mesh/placement.ts";
import type { Program } from "../../shared/program/program.ts";
import { type PlannedCollective, plannedCollectives } from "./report.ts";

/** What is worth keeping of a plan once its job has ended: small, whatever the model's depth. */
export interface PlanSummary {
  readonly mesh: Readonly<Record<string, number>>;
  readonly parameters: number;
  readonly arenaBytes: number;
  readonly memoryByKind: Readonly<Record<string, number>>;
  /** Payload bytes that a rank sends in a step. */
  readonly collectiveBytesPerStep: number;
  readonly collectives: readonly CollectiveGroup[];
  readonly shards: readonly ShardGroup[];
}

/** Collectives alike but for a number in their label. */
export interface CollectiveGroup extends PlannedCollective {
  /** Over all of them. */
  readonly timesPerStep: number;
}

/** Parameters alike but for a number in their name. */
export interface ShardGroup {
  /** `layers.#.attention.wq.weight` where there are several. */
  readonly name: string;
  readonly count: number;
  readonly globalShape: readonly number[];
  /** Of rank 0. */
  readonly localShape: readonly number[];
  readonly layout: readonly string[];
}

/** Cheap beside a compile: it walks the program once. */
export function summarizePlan(program: Program): PlanSummary {
  const planned = plannedCollectives(program).filter((c) => c.timesPerStep > 0);
  const parameters = program.stored.filter(({ role }) => role === "parameter");
  return {
    mesh: Object.fromEntries(program.mesh.axes.map(({ name, size }) => [name, size])),
    parameters: parameters.reduce((sum, { globalShape }) => sum + elements(globalShape), 0),
    arenaBytes: program.arenaBytes,
    memoryByKind: program.memoryByKind,
    collectiveBytesPerStep: planned.reduce((sum, c) => sum + c.wireBytes * c.timesPerStep, 0),
    collectives: grouped(
      planned,
      ({ label, timesPerStep: _, ...rest }) => [label, JSON.stringify(rest)],
      (first, label, alike) => ({
        ...first,
        label,
        timesPerStep: alike.reduce((sum, c) => sum + c.timesPerStep, 0),
      }),
    ),
    shards: grouped(
      parameters.map(({ name, globalShape, layout }) => ({
        name,
        globalShape,
        localShape: shardIntervals(globalShape, layout, program.mesh, 0).map(
          ({ start, end }) => end - start,
        ),
        layout,
      })),
      ({ name, ...rest }) => [name, JSON.stringify(rest)],
      (first, name, alike) => ({ ...first, name, count: alike.length }),
    ),
  };
}

/** Joins what is alike but for the numbers in its name; a group of one keeps its name. */
function grouped<T, G>(
  items: readonly T[],
  keyOf: (item: T) => readonly [name: string, rest: string],
  join: (first: T, name: string, alike: readonly T[]) => G,
): G[] {
  const groups = new Map<string, { readonly name: string; readonly general: string; items: T[] }>();
  for (const item of items) {
    const [name, rest] = keyOf(item);
    const general = name.replace(/(?<=^|[.\s])\d+(?=\.|\s|$)/g, "#");
    const key = `${general} ${rest}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { name, general, items: [item] });
    else group.items.push(item);
  }
  return [...groups.values()].flatMap(({ name, general, items: alike }) => {
    const [first] = alike;
    return first === undefined ? [] : [join(first, alike.length === 1 ? name : general, alike)];
  });
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}
