import { formatBytes } from "../../shared/format-bytes.ts";
import type { ProgramOutline } from "../planner.ts";
import { arenaLimit, peakOn, type SchedulableWorker } from "./scheduler.ts";

/** Why no worker can hold a rank of this program: what it needs by kind, against what the largest one has. */
export function memoryBill(program: ProgramOutline, workers: readonly SchedulableWorker[]): string {
  const largest = workers.reduce((a, b) => (arenaLimit(b) > arenaLimit(a) ? b : a));
  const needed = peakOn(program.arenaBytes, largest);
  const kinds = Object.entries(program.memoryByKind)
    .filter(([, bytes]) => bytes > 0)
    .sort(([, a], [, b]) => b - a)
    .map(([kind, bytes]) => `${kind} ${formatBytes(bytes)}`);
  if (largest.workspaceBytes > 0) {
    kinds.push(`workspace of backend ${largest.backend} ${formatBytes(largest.workspaceBytes)}`);
  }
  const mesh = program.mesh.axes.map((axis) => `${axis.name} ${axis.size}`).join(" x ");
  return (
    `a rank needs ${formatBytes(needed)} (${needed} bytes: ${kinds.join(", ")}) at ${mesh}, ` +
    `but the largest registered worker, ${largest.name}, has ${formatBytes(largest.memoryLimitBytes)} ` +
    `(${largest.memoryLimitBytes} bytes); use more ranks or workers with more memory`
  );
}
