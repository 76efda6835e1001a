import { describeBackend } from "../../support/backend-suite.ts";
import { type OpCase, precisionOf } from "../../support/conformance.ts";
import { makeBackend } from "../cuda.ts";

/** Of each op and precision. Every access is checked, which slows kernels down tenfold and more. */
const CASES_KEPT = 4;

/** Cases spread evenly over the table's, which go from plain to odd. */
function few(cases: readonly OpCase[]): OpCase[] {
  const groups = new Map<string, OpCase[]>();
  for (const c of cases) {
    const key = `${c.op} ${precisionOf(c)}`;
    groups.set(key, [...(groups.get(key) ?? []), c]);
  }
  return [...groups.values()].flatMap((group) => {
    const apart = Math.max(1, group.length / CASES_KEPT);
    return group.filter((_, i) => Math.floor(i / apart) !== Math.floor((i - 1) / apart));
  });
}

describeBackend("cuda, checked", makeBackend, few);
