/** What a planner's thread can do but compile: the name of the job says which. */
import { parentPort } from "node:worker_threads";
import type { PlanAnswer, PlanQuestion } from "../../coordinator/planning/plan-messages.ts";

let numAsked = 0;

parentPort?.on("message", ({ request: { spec, facts } }: PlanQuestion) => {
  numAsked += 1;
  const [behaviour = ""] = spec.name.split(" ");
  switch (behaviour) {
    case "hang":
      for (;;);
    case "die":
      process.exit(1);
      break;
    case "throw":
      throw new Error("no such luck");
    case "die-once": {
      // The first thread that is asked ends, the next one answers: they share the memory that the job names.
      const seen = new Int32Array((facts as unknown as { readonly seen: SharedArrayBuffer }).seen);
      if (Atomics.add(seen, 0, 1) === 0) process.exit(1);
      answer(spec.name);
      break;
    }
    case "devour": {
      const kept: unknown[] = [];
      for (;;) kept.push(Array.from({ length: 1 << 16 }, (_, i) => ({ i })));
    }
    default:
      answer(spec.name);
  }
});

/** A plan whose only note is what was planned, and as which of this thread's. */
function answer(name: string): void {
  const plan = { notes: [name, `${numAsked}`], encodedProgram: new Uint8Array(1) };
  parentPort?.postMessage({ kind: "plan", plan } as unknown as PlanAnswer);
}
