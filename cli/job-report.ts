import type { Job, JobError } from "../client/job-types.ts";
import { formatBytes } from "../shared/format-bytes.ts";
import { formatLoss, formatStepTime, formatTable, plural, printable } from "./format.ts";
import { summarizeStepSeconds } from "./job-result.ts";

/** How a job ended, for people: steps, losses, step time, and the peak memory of every rank. */
export function jobReport(job: Job): string[] {
  const lines = [endLine(job)];
  lines.push(...job.notes.map((note) => `note: ${printable(note)}`));
  if (job.ranks.length > 0) lines.push("", ...rankTable(job));
  return lines;
}

/** `rank 1 on worker b, step 118: ...`, without what the message says by itself. */
export function jobErrorText(error: JobError): string {
  const { rank, worker, step, message } = error;
  const where: string[] = [];
  if (rank !== undefined && !message.includes(`rank ${rank}`)) {
    where.push(worker === undefined ? `rank ${rank}` : `rank ${rank} on ${worker}`);
  }
  if (step !== undefined && !message.includes(`step ${step}`)) where.push(`step ${step}`);
  return printable(
    `${where.length === 0 ? "" : `${where.join(", ")}: `}${message} (${error.code})`,
  );
}

function endLine(job: Job): string {
  const { median } = summarizeStepSeconds(job.stepSeconds);
  const parts = [`${plural(job.stepsDone, "step")}`];
  const first = job.loss[0];
  const last = job.loss.at(-1);
  if (first !== undefined && last !== undefined)
    parts.push(`loss ${formatLoss(first)} -> ${formatLoss(last)}`);
  const evaluation = job.evaluations.at(-1);
  if (evaluation !== undefined) parts.push(`held-out loss ${formatLoss(evaluation.loss)}`);
  if (median !== null) parts.push(`${formatStepTime(median)} a step (median)`);
  const summary = parts.join(", ");
  switch (job.state) {
    case "SUCCEEDED":
      return `iterations complete: ${summary}`;
    case "FAILED":
      return `failed after ${summary}`;
    case "CANCELLED":
      return `cancelled after ${summary}`;
    default:
      return `${job.state.toLowerCase()}: ${summary}`;
  }
}

function rankTable(job: Job): string[] {
  const rows = job.ranks.map((rank) => [
    String(rank.rank),
    rank.worker,
    `${rank.backend} ${rank.device}`.trim(),
    bytesOrDash(rank.peakMemoryBytes),
    predictionText(rank.peakMemoryBytes, rank.predictedPeakMemoryBytes),
    bytesOrDash(rank.rssBytes),
    rank.rssBytes === 0 ? "-" : formatBytes(rank.collectiveBytes),
  ]);
  return formatTable(
    ["rank", "worker", "device", "peak memory", "predicted", "resident", "sent to peers"],
    rows,
  );
}

function predictionText(peakBytes: number, predictedBytes: number): string {
  if (peakBytes === predictedBytes) return "equal";
  if (peakBytes === 0) return formatBytes(predictedBytes);
  return `${formatBytes(predictedBytes)} (${predictedBytes} B, measured ${peakBytes} B)`;
}

/** A rank that did not live to report has zeros. */
function bytesOrDash(bytes: number): string {
  return bytes === 0 ? "-" : formatBytes(bytes);
}
