import { arch, cpus, loadavg, totalmem } from "node:os";
import { numCores } from "../cli/machine.ts";
import { commit } from "./repository.ts";

/** What a result was measured on. No names of hosts, users or folders: results are published. */
export interface Machine {
  readonly cpu: string;
  readonly arch: string;
  /** Cores that this process may use. */
  readonly cores: number;
  readonly memoryBytes: number;
  readonly node: string;
  readonly commit: string;
  /** Day of the run, as 2026-11-23. */
  readonly date: string;
  /** Processes that wanted a core in the minute before the run: past a fraction of the cores, times are others' too. */
  readonly loadBefore: number;
}

export function describeMachine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown CPU",
    arch: arch(),
    cores: numCores(),
    memoryBytes: totalmem(),
    node: process.versions.node,
    commit: commit(),
    date: new Date().toISOString().slice(0, 10),
    loadBefore: loadavg()[0] ?? 0,
  };
}

export function machineLine(machine: Machine): string {
  const { cpu, cores, memoryBytes, node, commit: hash, date, loadBefore } = machine;
  const gigabytes = (memoryBytes / 1e9).toFixed(0);
  return `${cpu}, ${cores} cores, ${gigabytes} GB; Node ${node}; commit ${hash}; ${date}; load before ${loadBefore.toFixed(1)}`;
}

/** For names of files: `amd-epyc-2-cores`. */
export function machineSlug({ cpu, cores }: Machine): string {
  return `${cpu} ${cores} cores`
    .toLowerCase()
    .replace(/\((r|tm)\)/g, "")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "");
}
