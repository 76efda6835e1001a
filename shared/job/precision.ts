import type { Precision } from "../program/program.ts";
import type { JobPrecision } from "./job-spec.ts";

/** What a job's `precision` holds activations in. */
export const ACTIVATIONS: Readonly<Record<JobPrecision, Precision>> = {
  fp32: "float32",
  bf16: "bfloat16",
};

/** A precision in the words of the job spec. */
export const JOB_PRECISION: Readonly<Record<Precision, JobPrecision>> = {
  float32: "fp32",
  bfloat16: "bf16",
};
