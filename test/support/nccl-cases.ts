// Collectives over NCCL: programs of nothing else, and what must come of them.
import { groupOf, type Mesh, worldSize } from "../../shared/mesh/mesh.ts";
import {
  type Collective,
  type CollectiveOp,
  type DType,
  dtypeBytes,
  type Program,
  type Slot,
} from "../../shared/program/program.ts";

/** Where the input lies: apart from the output, in this rank's chunk of it (or it in the input's), or at its first byte. */
export type Place = "apart" | "own chunk" | "first byte";

export interface NcclCase {
  readonly op: CollectiveOp;
  readonly axes: readonly number[];
  readonly dtype: DType;
  readonly outer: number;
  readonly chunk: number;
  readonly place: Place;
}

export function titleOf({ op, axes, dtype, outer, chunk, place }: NcclCase): string {
  return `${op} over axes ${axes.join(", ")} of [${outer}, ranks, ${chunk}] ${dtype}, input ${place}`;
}

/** Every op at every place it may have, in rows and without, on each set of axes; each type once. */
export function ncclCases(mesh: Mesh): NcclCase[] {
  const all = mesh.axes.map((_, axis) => axis);
  const sets = all.length === 1 ? [all] : [...all.map((axis) => [axis]), all];
  const float = { dtype: "float32", outer: 1, chunk: 5 } as const;
  return sets.flatMap((axes): NcclCase[] => [
    { op: "allReduce", axes, ...float, place: "apart" },
    { op: "allReduce", axes, ...float, chunk: 1027, place: "first byte" },
    { op: "allReduce", axes, ...float, chunk: 0, place: "apart" },
    { op: "allReduce", axes, ...float, dtype: "float64", place: "apart" },
    { op: "allReduce", axes, ...float, dtype: "bfloat16", place: "apart" },
    ...(["apart", "own chunk"] as const).map((place) => ({
      op: "allGather" as const,
      axes,
      ...float,
      place,
    })),
    { op: "allGather", axes, ...float, dtype: "int32", outer: 3, place: "apart" },
    { op: "allGather", axes, ...float, outer: 3, place: "first byte" },
    ...(["apart", "own chunk", "first byte"] as const).map((place) => ({
      op: "reduceScatter" as const,
      axes,
      ...float,
      place,
    })),
    { op: "reduceScatter", axes, ...float, outer: 3, place: "apart" },
    { op: "reduceScatter", axes, ...float, outer: 3, place: "first byte" },
    { op: "allToAll", axes, ...float, place: "apart" },
  ]);
}

/** A program of `rank` with these collectives; slots are those of its own. */
export function ncclProgram(mesh: Mesh, cases: readonly NcclCase[], rank: number): Program {
  const slots: Slot[] = [];
  let end = 0;
  const slot = (dtype: DType, elements: number, at: number): number => {
    const sizeBytes = elements * dtypeBytes(dtype);
    slots.push({
      name: `s${slots.length}`,
      dtype,
      shape: [elements],
      offsetBytes: at,
      sizeBytes,
    });
    end = Math.max(end, Math.ceil((at + sizeBytes) / 256) * 256);
    return slots.length - 1;
  };
  const collectives = cases.map((one): Collective => {
    const { op, axes, dtype, outer, chunk, place } = one;
    const group = groupOf(mesh, axes, rank);
    const [input, output] = elementsOf(one, group.length);
    const own = group.indexOf(rank) * chunk * dtypeBytes(dtype);
    const base = end;
    const shift = place === "own chunk" ? own : 0;
    const inputSlot = slot(dtype, input, base + (op === "allGather" ? shift : 0));
    const apart = place === "apart" ? end : base;
    const outputSlot = slot(dtype, output, apart + (op === "reduceScatter" ? shift : 0));
    return {
      op,
      axes,
      inputSlot,
      outputSlot,
      dtype,
      outer,
      chunkElements: chunk,
      algorithm: "direct",
      segmentBytes: 1 << 20,
      payloadBytes: Math.max(input, output) * dtypeBytes(dtype),
      wireBytes: 8,
      sameInputs: false,
      label: titleOf(one),
      from: "P",
      to: "R",
      phase: "forward",
    };
  });
  const loss = slot("float32", 1, end);
  return {
    formatVersion: 1,
    name: "collectives",
    mesh,
    arenaBytes: end,
    memoryByKind: { activations: end },
    slots,
    stored: [],
    inputs: [],
    microbatches: 1,
    body: [],
    epilogue: [],
    collectives,
    lossSlot: loss,
    gradNormSlot: -1,
    optimizer: { kind: "sgd", lr: 1, momentum: 0 },
    schedule: { kind: "constant" },
  };
}

/** Elements of input and output. */
export function elementsOf(
  { op, outer, chunk }: NcclCase,
  groupSize: number,
): readonly [number, number] {
  const part = outer * chunk;
  const whole = part * groupSize;
  if (op === "allReduce") return [part, part];
  if (op === "allToAll") return [whole, whole];
  return op === "allGather" ? [part, whole] : [whole, part];
}

/** Small whole numbers, so that sums are exact in every type: what `rank` gives. */
export function given(rank: number, elements: number): number[] {
  return Array.from({ length: elements }, (_, i) => (i % 7) + 3 * rank + 1);
}

/** What `rank` must get. */
export function wanted(mesh: Mesh, one: NcclCase, rank: number): number[] {
  const { op, axes, outer, chunk } = one;
  const group = groupOf(mesh, axes, rank);
  const n = group.length;
  const place = group.indexOf(rank);
  const [input, output] = elementsOf(one, n);
  const gives = group.map((other) => given(other, input));
  const at = (other: number, i: number): number => gives[other]?.[i] ?? Number.NaN;
  const sum = (i: number): number => gives.reduce((total, values) => total + (values[i] ?? 0), 0);
  return Array.from({ length: output }, (_, i) => {
    if (op === "allReduce") return sum(i);
    if (op === "allToAll") return at(Math.floor(i / chunk), place * chunk + (i % chunk));
    if (op === "reduceScatter") {
      const row = Math.floor(i / chunk);
      return sum((row * n + place) * chunk + (i % chunk));
    }
    const row = Math.floor(i / (n * chunk));
    const other = Math.floor((i % (n * chunk)) / chunk);
    return outer * chunk === 0 ? 0 : at(other, row * chunk + (i % chunk));
  });
}

export const MESHES: readonly Mesh[] = [
  { axes: [{ name: "t", size: 2 }] },
  { axes: [{ name: "t", size: 3 }] },
  { axes: [{ name: "t", size: 4 }] },
  {
    axes: [
      { name: "d", size: 2 },
      { name: "t", size: 2 },
    ],
  },
];

export function meshTitle(mesh: Mesh): string {
  return `${worldSize(mesh)} ranks, ${mesh.axes.map(({ size }) => size).join(" x ")}`;
}
