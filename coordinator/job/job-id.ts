import { randomBytes } from "node:crypto";
import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import { quote } from "../../shared/quote.ts";

const MAX_ID_BYTES = 256;

/** Short, and sorting like the time: `20260801-142301-5f3a`. */
export function newJobId(wallMs: number): string {
  const [date = "", time = ""] = new Date(wallMs).toISOString().split("T");
  return `${date.replaceAll("-", "")}-${time.slice(0, 8).replaceAll(":", "")}-${randomBytes(3).toString("hex")}`;
}

/** What is wrong with an id or a name that someone chose: it goes into logs, terminals and metric labels. */
export function nameFault(value: string, path: string): Fault | undefined {
  const bytes = Buffer.byteLength(value);
  if (bytes > MAX_ID_BYTES) return { path, message: `has ${bytes} bytes; at most ${MAX_ID_BYTES}` };
  // Control, format and line-separator characters, and halves of surrogate pairs.
  if (/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\ufffd]/u.test(value)) {
    return {
      path,
      message: `${quote(value)} has a control character or broken text; use printable characters`,
    };
  }
  if (value.trim() !== value) {
    return { path, message: `${quote(value)} begins or ends with a space; leave it out` };
  }
  return undefined;
}

/** @throws InvalidArgumentError when the id can be no job's */
export function requireJobId(jobId: string): void {
  const fault =
    jobId === ""
      ? { path: "jobId", message: "is missing; name the job" }
      : nameFault(jobId, "jobId");
  if (fault !== undefined) throw new InvalidArgumentError([fault]);
}
