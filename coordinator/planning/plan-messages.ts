import type { Fault } from "../../shared/errors.ts";
import type { PlannedJob, PlanRequest, ReportedJob } from "../planner.ts";

/** What the coordinator asks its planner's thread, one at a time. */
export interface PlanQuestion {
  readonly request: PlanRequest;
  readonly isReported: boolean;
}

/** A buffer that crosses threads arrives as plain bytes. */
type Sent<T extends PlannedJob> = Omit<T, "encodedProgram"> & {
  readonly encodedProgram: Uint8Array<ArrayBuffer>;
};

/** What the thread answers, once. */
export type PlanAnswer =
  | { readonly kind: "plan"; readonly plan: Sent<PlannedJob> | Sent<ReportedJob> }
  | { readonly kind: "faults"; readonly faults: readonly Fault[] }
  /** A mistake of the compiler's. */
  | { readonly kind: "bug"; readonly message: string };
