import type { JobSpec__Output, JobSpec as JobSpecMessage } from "../rpc/gen/rankmesh/v1/JobSpec.ts";
import type { JobSpec, JobSpecInput } from "./job-spec.ts";
import { jobSchema } from "./schema.ts";

/**
 * A received message as the raw value a job file would hold, for `resolveJobSpec`: what was left out is absent, an
 * explicit zero is a zero.
 */
export function jobSpecFromProto(message: JobSpec__Output | null | undefined): unknown {
  return jobSchema.fromProto(message) ?? {};
}

/** The message of a spec, raw or resolved, whose types are as declared; resolve what came from outside first. */
export function jobSpecToProto(spec: JobSpec | JobSpecInput): JobSpecMessage {
  // The table has the message's field names; a test sends every field through the real encoder and back.
  return jobSchema.toProto(spec) as JobSpecMessage;
}
