import { JOB_PRECISION } from "../../shared/job/precision.ts";
import type { Precision } from "../../shared/program/program.ts";

interface Computer {
  readonly name: string;
  readonly backend: string;
  readonly precisions: readonly Precision[];
}

/** Workers named in a text before the rest is counted. */
const NAMED = 4;

/** `cpu (w0, w1) computes in fp32 only, gpujs (w2) in fp32 only`: by backend, why workers cannot serve a job. */
export function cannotCompute(workers: readonly Computer[]): string {
  const groups = new Map<string, Computer[]>();
  for (const worker of workers) {
    const key = `${worker.backend} ${worker.precisions.join()}`;
    groups.set(key, [...(groups.get(key) ?? []), worker]);
  }
  const parts = [...groups.values()].map((group, i) => {
    const names = group.slice(0, NAMED).map(({ name }) => name);
    const rest = group.length > NAMED ? ` and ${group.length - NAMED} more` : "";
    const precisions = (group[0]?.precisions ?? []).map((precision) => JOB_PRECISION[precision]);
    const verb = i === 0 ? " computes" : "";
    return `${group[0]?.backend ?? ""} (${names.join(", ")}${rest})${verb} in ${precisions.join(", ")} only`;
  });
  return parts.join(", ");
}
