import { open, stat } from "node:fs/promises";
import { FailedPreconditionError, InvalidArgumentError, NotFoundError } from "../shared/errors.ts";
import { ACTIVATIONS } from "../shared/job/precision.ts";
import { jobSpecFromProto } from "../shared/job/proto.ts";
import { resolveJobSpec } from "../shared/job/resolve.ts";
import { BULK_PIECE_BYTES } from "../shared/rpc/channel.ts";
import type { DownloadWeightsResponse } from "../shared/rpc/gen/rankmesh/v1/DownloadWeightsResponse.ts";
import type { SubmitJobRequest__Output } from "../shared/rpc/gen/rankmesh/v1/SubmitJobRequest.ts";
import type { TrainingServiceHandlers } from "../shared/rpc/gen/rankmesh/v1/TrainingService.ts";
import type { WatchJobResponse } from "../shared/rpc/gen/rankmesh/v1/WatchJobResponse.ts";
import { serverStreaming, unary } from "../shared/rpc/handlers.ts";
import type { Clock } from "./clock.ts";
import type { Engine } from "./engine.ts";
import { leastSizes, sizesFor } from "./gang/scheduler.ts";
import { type CheckPlanner, checkSubmission, specKey } from "./job/check-submission.ts";
import type { Job } from "./job/job.ts";
import type { JobFiles } from "./job/job-files.ts";
import { nameFault, requireJobId } from "./job/job-id.ts";
import type { PlannedJob, Planning, ReportedJob } from "./planner.ts";
import { pushBatchesHandler } from "./push-batches.ts";
import type { StreamedBatches } from "./streamed-batches.ts";
import { eventToWire, jobToWire, workerToWire } from "./wire.ts";

export interface TrainingServiceOptions {
  readonly engine: Engine;
  readonly planning: Planning;
  readonly files: JobFiles;
  readonly streams: StreamedBatches;
  readonly clock: Clock;
  /** How long a cancel waits for the job's end before it answers with the job as it is. */
  readonly cancelWaitMs: number;
}

const DEFAULT_PAGE_SIZE = 100;
const MAX_PAGE_SIZE = 1000;

/** The users' side of the coordinator. */
export function trainingService(options: TrainingServiceOptions): TrainingServiceHandlers {
  const { engine, planning, files, clock } = options;
  /** Submits under way, by id: a retry that comes while the first is being checked waits for it. */
  const submitting = new Map<string, Promise<unknown>>();

  const find = (jobId: string): Job => {
    requireJobId(jobId);
    return engine.job(jobId);
  };

  return {
    SubmitJob: unary(async (request, { signal }) => {
      const { jobId } = request;
      const before = submitting.get(jobId);
      const mine = (before ?? Promise.resolve()).then(
        () => submit(request, options, signal),
        () => submit(request, options, signal),
      );
      if (jobId !== "") submitting.set(jobId, mine);
      try {
        return { job: jobToWire(await mine, true) };
      } finally {
        if (submitting.get(jobId) === mine) submitting.delete(jobId);
      }
    }),

    PlanJob: unary(async (request, { signal }) => {
      // As the job would run now; where nobody is here, the smallest mesh.
      const free = engine.workers.idle();
      const report: CheckPlanner<ReportedJob> = (spec, sizes, facts) =>
        planning.report({ spec, sizes, facts }, { signal });
      const { plan } = await checkSubmission(request.spec, report, files, {
        sizes: ({ mesh, precision }) => {
          const able = free.filter(({ precisions }) => precisions.includes(ACTIVATIONS[precision]));
          return sizesFor(mesh, able.length) ?? leastSizes(mesh);
        },
        depth: "headers",
      });
      return { reportJson: plan.reportJson, reportText: plan.reportText };
    }),

    GetJob: unary(({ jobId }) => ({ job: jobToWire(find(jobId), true) })),

    ListJobs: unary(({ pageSize, pageToken }) => {
      const size = Math.min(pageSize === 0 ? DEFAULT_PAGE_SIZE : pageSize, MAX_PAGE_SIZE);
      const page = engine.jobs.page(size, pageToken);
      return {
        jobs: page.jobs.map((job) => jobToWire(job, false)),
        nextPageToken: page.nextPageToken,
      };
    }),

    WatchJob: serverStreaming(({ jobId, afterEventId }, { signal }) =>
      watch(find(jobId), afterEventId ?? 0, signal),
    ),

    CancelJob: unary(async ({ jobId }, { signal }) => {
      const job = find(jobId);
      job.apply({ kind: "cancel", reason: "cancelled on request" });
      const late = AbortSignal.any([signal, AbortSignal.timeout(options.cancelWaitMs)]);
      // A job on its way to success is not waited for: it cannot be cancelled any more.
      while (job.machine.ending && !late.aborted) await job.changed(late);
      return { job: jobToWire(job, true) };
    }),

    PushBatches: pushBatchesHandler(options.streams, find),

    ListWorkers: unary(() => ({
      workers: engine.workers.list(clock().monotonicMs).map(workerToWire),
    })),

    DownloadWeights: serverStreaming(({ jobId }) => download(find(jobId))),
  };
}

async function submit(
  request: SubmitJobRequest__Output,
  options: TrainingServiceOptions,
  signal: AbortSignal,
): Promise<Job> {
  const { engine, planning, files } = options;
  const { jobId, noQueue } = request;
  const idFault = jobId === "" ? undefined : nameFault(jobId, "jobId");
  if (idFault !== undefined) throw new InvalidArgumentError([idFault]);
  // A retry is answered with what it asks for, however many others wait for their plans.
  const resolved = resolveJobSpec(jobSpecFromProto(request.spec));
  const known = resolved.ok ? engine.sameJob(jobId, specKey(resolved.spec)) : undefined;
  if (known !== undefined) return known;
  const plan: CheckPlanner<PlannedJob> = (spec, sizes, facts) =>
    planning.plan({ spec, sizes, facts }, { signal });
  const checked = await checkSubmission(request.spec, plan, files);
  return await engine.submit({ jobId, checked, specKey: specKey(checked.spec), noQueue, signal });
}

/** Reads the job's log as fast as the client does: nothing is stored per client. */
async function* watch(
  job: Job,
  afterEventId: number,
  signal: AbortSignal,
): AsyncGenerator<WatchJobResponse, void, void> {
  const { log } = job.machine;
  let next = afterEventId + 1;
  for (;;) {
    for (; next <= log.lastId; next++) yield eventToWire(log.at(next), job.batchSize);
    // The terminal state is the last event: with it read, there is no more.
    if (job.ended || signal.aborted) return;
    await job.changed(signal);
  }
}

async function* download(job: Job): AsyncGenerator<DownloadWeightsResponse, void, void> {
  const { phase } = job.machine;
  const { output } = job;
  if (phase !== "SUCCEEDED") {
    throw new FailedPreconditionError(
      `job ${job.jobId} is ${phase}; only a job that SUCCEEDED has weights`,
    );
  }
  if (output === undefined) {
    throw new FailedPreconditionError(
      `job ${job.jobId} wrote no weights; give it output.safetensors`,
    );
  }
  const now = await stat(output.path).catch(() => undefined);
  if (now === undefined) throw new NotFoundError(`the file that job ${job.jobId} wrote is gone`);
  if (now.size !== output.bytes || now.mtimeMs !== output.modifiedMs) {
    throw new FailedPreconditionError(`the file that job ${job.jobId} wrote has changed since`);
  }
  const file = await open(output.path, "r");
  try {
    for (let offset = 0; offset < output.bytes; ) {
      const { bytesRead, buffer } = await file.read(
        Buffer.allocUnsafe(Math.min(BULK_PIECE_BYTES, output.bytes - offset)),
        0,
        null,
        offset,
      );
      if (bytesRead === 0)
        throw new FailedPreconditionError(`the file of job ${job.jobId} became shorter`);
      offset += bytesRead;
      yield { data: buffer.subarray(0, bytesRead) };
    }
  } finally {
    await file.close();
  }
}
