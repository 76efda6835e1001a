import type { JobHandle } from "../client/job-handle.ts";
import type { Job, StateEvent } from "../client/job-types.ts";
import type { Progress } from "./progress.ts";

/**
 * Shows a job's events as progress until it has ended.
 * @returns the ended job
 */
export async function followJob(
  handle: JobHandle,
  progress: Progress,
  signal: AbortSignal,
): Promise<Job> {
  progress.start();
  try {
    const onReconnect = (error: Error) =>
      progress.status(`lost the coordinator, dialling again: ${error.message}`);
    for await (const event of handle.events({ signal, onReconnect })) {
      switch (event.kind) {
        case "state":
          progress.status(statusText(event));
          break;
        case "step":
          progress.step(event);
          break;
        case "log":
          progress.note(logLine(event.level, event.rank, event.message));
          break;
      }
    }
  } finally {
    progress.end();
  }
  return handle.get({ signal });
}

/** `warn: rank 1: ...` */
export function logLine(level: string, rank: number | undefined, message: string): string {
  return `${level}: ${rank === undefined ? "" : `rank ${rank}: `}${message}`;
}

function statusText(event: StateEvent): string {
  const state = event.state.toLowerCase();
  return event.reason === "" ? state : `${state}: ${event.reason}`;
}
