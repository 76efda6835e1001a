import { formatBytes } from "../../shared/format-bytes.ts";
import { coordinates, worldSize } from "../../shared/mesh/mesh.ts";
import { shardIntervals } from "../../shared/mesh/placement.ts";
import type { Collective, Instruction, MemoryKind, Program } from "../../shared/program/program.ts";
import type { MeshSizes } from "../job/job-state.ts";
import { assumedRates, estimateStep, type TimeEstimate } from "./estimate.ts";

/** What a job will need and do, before anything starts. Bytes are exact, times are estimates. */
export interface PlanReport {
  readonly name: string;
  readonly mesh: Readonly<Record<string, number>>;
  readonly parameters: number;
  /** Of every rank: programs differ in intervals only. */
  readonly peakMemoryBytes: number;
  readonly memoryByKind: Readonly<Partial<Record<MemoryKind, number>>>;
  /** Payload bytes that a rank sends in a step. */
  readonly collectiveBytesPerStep: number;
  readonly collectives: readonly PlannedCollective[];
  readonly ranks: readonly PlannedRank[];
  readonly estimate: TimeEstimate & { readonly assumed: typeof assumedRates };
  readonly notes: readonly string[];
}

export interface PlannedCollective {
  readonly op: Collective["op"];
  readonly label: string;
  readonly phase: Collective["phase"];
  readonly axes: readonly string[];
  readonly algorithm: Collective["algorithm"];
  readonly payloadBytes: number;
  readonly wireBytes: number;
  readonly timesPerStep: number;
}

export interface PlannedRank {
  readonly rank: number;
  readonly coordinates: Readonly<Record<string, number>>;
  readonly peakMemoryBytes: number;
  readonly memoryByKind: Readonly<Partial<Record<MemoryKind, number>>>;
  readonly collectiveBytesPerStep: number;
  readonly shards: readonly {
    readonly name: string;
    readonly role: string;
    readonly layout: string;
    readonly intervals: readonly (readonly [number, number])[];
  }[];
}

export function buildReport(
  program: Program,
  notes: readonly string[],
  compileAt: (sizes: MeshSizes) => Program,
): PlanReport {
  const collectives = plannedCollectives(program);
  const collectiveBytesPerStep = collectives.reduce(
    (sum, c) => sum + c.wireBytes * c.timesPerStep,
    0,
  );
  const estimate = estimateStep(program);
  const named = (numbers: readonly number[]): Record<string, number> =>
    Object.fromEntries(program.mesh.axes.map((axis, a) => [axis.name, numbers[a] ?? 0]));
  return {
    name: program.name,
    mesh: named(program.mesh.axes.map((axis) => axis.size)),
    parameters: program.stored
      .filter((t) => t.role === "parameter")
      .reduce((sum, t) => sum + t.globalShape.reduce((a, b) => a * b, 1), 0),
    peakMemoryBytes: program.arenaBytes,
    memoryByKind: program.memoryByKind,
    collectiveBytesPerStep,
    collectives,
    ranks: Array.from(
      { length: worldSize(program.mesh) },
      (_, rank): PlannedRank => ({
        rank,
        coordinates: named(coordinates(program.mesh, rank)),
        peakMemoryBytes: program.arenaBytes,
        memoryByKind: program.memoryByKind,
        collectiveBytesPerStep,
        shards: program.stored.map((tensor) => ({
          name: tensor.name,
          role: tensor.role,
          layout: `(${tensor.layout.join(", ")})`,
          intervals: shardIntervals(tensor.globalShape, tensor.layout, program.mesh, rank).map(
            ({ start, end }) => [start, end] as const,
          ),
        })),
      }),
    ),
    estimate: { ...estimate, assumed: assumedRates },
    notes: [...notes, ...fasterWithFewer(program, estimate, compileAt)],
  };
}

export function plannedCollectives(program: Program): PlannedCollective[] {
  const times = new Map<number, number>();
  const count = (instructions: readonly Instruction[], repeats: number): void => {
    for (const i of instructions) if (i.kind === "start") times.set(i.collective, repeats);
  };
  count(program.body, program.microbatches);
  count(program.epilogue, 1);
  return program.collectives.map((c, index) => ({
    op: c.op,
    label: c.label,
    phase: c.phase,
    axes: c.axes.map((axis) => program.mesh.axes[axis]?.name ?? `${axis}`),
    algorithm: c.algorithm,
    payloadBytes: c.payloadBytes,
    wireBytes: c.wireBytes,
    timesPerStep: times.get(index) ?? 0,
  }));
}

/** Small layers lose to communication: says so when half the ranks of the plan's axis would be faster. */
function fasterWithFewer(
  program: Program,
  estimate: TimeEstimate,
  compileAt: (sizes: MeshSizes) => Program,
): string[] {
  const [data, tensor] = program.mesh.axes.map((axis) => axis.size);
  if (data === undefined || tensor === undefined || tensor < 2) return [];
  const seconds = (t: TimeEstimate): number => t.computeSeconds + t.communicationSeconds;
  let best = { size: tensor, seconds: seconds(estimate) };
  for (let size = Math.floor(tensor / 2); size >= 1; size = Math.floor(size / 2)) {
    if (tensor % size !== 0) continue;
    const smaller = seconds(estimateStep(compileAt({ dataParallel: data, tensorParallel: size })));
    if (smaller < best.seconds) best = { size, seconds: smaller };
  }
  if (best.size === tensor) return [];
  return [
    `tensorParallel=${best.size} would be faster where it fits: an estimated ${formatSeconds(best.seconds)} a step in place of ${formatSeconds(seconds(estimate))}, most of it communication`,
  ];
}

/** `256 KiB`, `1.5 MiB`, `17 B`: what tensors and messages are counted in. */
function formatPayload(bytes: number): string {
  const trim = (n: number): string => (Number.isInteger(n) ? `${n}` : n.toFixed(1));
  if (bytes >= 1 << 20) return `${trim(bytes / (1 << 20))} MiB`;
  return bytes >= 1 << 10 ? `${trim(bytes / (1 << 10))} KiB` : `${bytes} B`;
}

/** `12.3 ms`, `4.56 s`. */
function formatSeconds(seconds: number): string {
  return seconds < 1
    ? `${(seconds * 1000).toPrecision(3)} ms`
    : `${Number(seconds.toPrecision(3))} s`;
}

/** Parameters of the first rank, those of one name but for a number in it and of one slice together. */
function alikeShards(report: PlanReport): { names: string[]; layout: string }[] {
  const groups = new Map<string, { names: string[]; layout: string }>();
  for (const { name, role, layout, intervals } of report.ranks[0]?.shards ?? []) {
    if (role !== "parameter") continue;
    const key = `${name.replace(/(?<=^|\.)\d+(?=\.|$)/g, "#")} ${layout} ${JSON.stringify(intervals)}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { names: [name], layout });
    else group.names.push(name);
  }
  return [...groups.values()];
}

/** The report for people. */
export function printReport(report: PlanReport): string {
  const lines: string[] = [];
  const ranks = report.ranks.length;
  const axes = Object.entries(report.mesh).map(([name, size]) => `${name} ${size}`);
  lines.push(
    `${report.name}: ${report.parameters.toLocaleString("en-US")} parameters on ${ranks} rank${ranks === 1 ? "" : "s"} (${axes.join(" x ")})`,
  );
  lines.push(
    "",
    `Memory of every rank: ${formatBytes(report.peakMemoryBytes)} at its peak (${report.peakMemoryBytes} bytes)`,
  );
  for (const [kind, bytes] of Object.entries(report.memoryByKind))
    lines.push(`  ${kind.padEnd(12)} ${formatBytes(bytes).padStart(10)}`);
  lines.push("", "Shards of parameters (rank: intervals)");
  for (const { names, layout } of alikeShards(report)) {
    const [name = ""] = names;
    const parts = report.ranks.map((r) => {
      const own = r.shards.find((s) => s.name === name && s.role === "parameter");
      return `${r.rank}: ${own?.intervals.map(([a, b]) => `[${a}, ${b})`).join(" x ") ?? ""}`;
    });
    const shown = parts.length > 8 ? [...parts.slice(0, 7), `... ${parts.length - 7} more`] : parts;
    const alike = names.length === 1 ? "" : ` to ${names.at(-1)}, ${names.length} alike`;
    lines.push(`  ${name} ${layout}${alike}`, ...shown.map((part) => `    ${part}`));
  }
  lines.push("", "Collectives of a step");
  if (report.collectives.length === 0) lines.push("  none");
  for (const c of report.collectives.filter((planned) => planned.timesPerStep > 0)) {
    const times = c.timesPerStep === 1 ? "" : ` x ${c.timesPerStep}`;
    lines.push(
      `  ${c.phase.padEnd(9)} ${c.op.padEnd(13)} ${c.label}: ${formatPayload(c.payloadBytes)}${times} over ${c.axes.join(" x ")}, ${c.algorithm}; a rank sends ${formatPayload(c.wireBytes * c.timesPerStep)}`,
    );
  }
  lines.push(`  a rank sends ${report.collectiveBytesPerStep} bytes a step`);
  const { computeSeconds, communicationSeconds } = report.estimate;
  lines.push(
    "",
    `Estimated step: ${formatSeconds(computeSeconds)} compute, ${formatSeconds(communicationSeconds)} communication (two CPU cores, 10 GbE)`,
  );
  for (const note of report.notes) lines.push(`Note: ${note}`);
  return lines.join("\n");
}
