import { Argument, type Command, Option } from "commander";
import type { RankmeshClient } from "../../client/client.ts";
import type { JobHandle } from "../../client/job-handle.ts";
import { isTerminal, type Job, type JobEvent } from "../../client/job-types.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { type CommandContext, printLines } from "../command-context.ts";
import { EXIT, ExitRequest } from "../exit-codes.ts";
import { type FollowOptions, followJob } from "../follow-job.ts";
import { formatLoss, oneLine, plural, printable } from "../format.ts";
import { catchInterrupt } from "../interrupt.ts";
import { loadJobFile } from "../job-file.ts";
import { jobErrorText, jobReport } from "../job-report.ts";
import { jobResult } from "../job-result.ts";
import { type JobView, logLine } from "../job-view.ts";
import { checkOutputFile, writeJsonFile } from "../output-file.ts";
import { Progress } from "../progress.ts";
import { withRefusalsWritten } from "../refusal.ts";
import { styleOf } from "../terminal/style.ts";
import { LiveJobView } from "../watch/live-job-view.ts";
import { type ConnectionOptions, withAddress, withClient } from "./connection.ts";
import { type ListOptions, listJobs } from "./job-list.ts";

interface SubmitOptions extends ConnectionOptions {
  readonly wait: boolean;
  readonly queue: boolean;
  readonly id?: string;
  readonly json?: string;
  readonly watch: boolean;
  readonly color: boolean;
}

interface WatchOptions extends ConnectionOptions {
  readonly color: boolean;
}

interface JsonFlag extends ConnectionOptions {
  readonly json: boolean;
}

export function addJobCommands(program: Command, context: CommandContext): void {
  const job = program.command("job").description("submit, watch and end jobs of a coordinator");
  withAddress(job.command("submit"))
    .description("send a job; waits for its end and shows progress")
    .argument("<job.yaml>", "job file; its paths are the coordinator's")
    .option("--no-wait", "detach as soon as the job is accepted")
    .option("--no-queue", "refuse a job that cannot start now")
    .option(
      "--id <id>",
      "id of the job; a repeated submit with the same id and spec is the same job",
    )
    .option("--json <file>", "write the result as JSON")
    .option("--watch", "draw charts on a terminal, as `job watch` does", false)
    .option("--no-color", "no colours in them (also: NO_COLOR)")
    .action((file: string, options: SubmitOptions) => submit(file, options, context));
  withAddress(withId(job.command("status")))
    .description("say how a job stands")
    .option("--json", "print JSON", false)
    .action((id: string, options: JsonFlag) => status(id, options, context));
  withAddress(withId(job.command("watch")))
    .description(
      "show a job to its end: on a terminal charts of loss, step time and memory, else plain lines; Ctrl-C detaches and leaves the job running",
    )
    .option("--no-color", "no colours (also: NO_COLOR)")
    .action((id: string, options: WatchOptions) => watch(id, options, context));
  withAddress(withId(job.command("logs")))
    .description("print a job's events")
    .addOption(new Option("-f, --follow", "go on to the job's end").default(false))
    .action((id: string, options: ConnectionOptions & { follow: boolean }) =>
      logs(id, options, context),
    );
  withAddress(withId(job.command("cancel")))
    .description("end a job within two steps")
    .action((id: string, options: ConnectionOptions) => cancel(id, options, context));
  withAddress(job.command("list"))
    .description("list jobs, newest first")
    .option("--json", "print JSON", false)
    .option("--no-color", "no colours (also: NO_COLOR)")
    .action((options: ListOptions) => listJobs(options, context));
}

function withId(command: Command): Command {
  return command.addArgument(new Argument("<id>", "the job's id"));
}

async function submit(
  file: string,
  options: SubmitOptions,
  context: CommandContext,
): Promise<void> {
  await checkOutputFile("--json", options.json);
  await withRefusalsWritten(options.json, { jobId: options.id ?? null }, async (refusal) => {
    const loaded = await loadJobFile(file);
    refusal.steps = loaded.steps;
    await withClient(options, async (client) => {
      // The client checks the spec whatever it is; its type is what a valid one has.
      const handle = await client
        .submit(loaded.spec as JobSpecInput, { jobId: options.id, queue: options.queue })
        .catch(refusal.locateWith(loaded));
      refusal.jobId = handle.jobId;
      context.stderr.write(`job ${handle.jobId} submitted to ${client.address}\n`);
      const hints = [
        `  rankmesh job watch ${handle.jobId}    shows its progress`,
        `  rankmesh job cancel ${handle.jobId}   ends it`,
      ];
      if (!options.wait) {
        printLines(context.stderr, hints);
        context.stdout.write(`${handle.jobId}\n`);
        await writeResult(options.json, await handle.get());
        return;
      }
      const view = options.watch ? liveView(client, options.color, context) : undefined;
      const job = await followUntilInterrupt(handle, context, view ?? lineView(context), () => {
        printLines(context.stderr, [`detached: job ${handle.jobId} goes on`, ...hints]);
        return handle.get().then(
          (present) => writeResult(options.json, present),
          () => {},
        );
      });
      await writeResult(options.json, job);
      finish(job, context);
    });
  });
}

async function watch(id: string, options: WatchOptions, context: CommandContext): Promise<void> {
  await withClient(options, async (client) => {
    const view = liveView(client, options.color, context) ?? lineView(context);
    const onDetach = async () =>
      printLines(context.stderr, [
        `detached: job ${id} goes on; "rankmesh job cancel ${id}" ends it`,
      ]);
    // Its report needs no more, and a job may have millions of steps.
    const keep = { keepSteps: false };
    const job = await followUntilInterrupt(client.job(id), context, view, onDetach, keep);
    finish(job, context);
  });
}

async function status(id: string, options: JsonFlag, context: CommandContext): Promise<void> {
  const job = await withClient(options, (client) => client.get(id));
  if (options.json) {
    context.stdout.write(
      `${JSON.stringify({ name: job.name, reason: job.reason, ...jobResult(job) }, null, 2)}\n`,
    );
    return;
  }
  const reason = job.reason === "" ? "" : `: ${oneLine(job.reason)}`;
  printLines(context.stdout, [
    `${job.jobId} (${oneLine(job.name)}) is ${job.state}${reason}, ${job.stepsDone} of ${job.steps} steps done`,
    ...(job.error === undefined ? [] : [jobErrorText(job.error)]),
    ...(isTerminal(job.state) ? jobReport(job) : []),
  ]);
}

async function logs(
  id: string,
  options: ConnectionOptions & { follow: boolean },
  context: CommandContext,
): Promise<void> {
  const interrupt = catchInterrupt();
  try {
    await withClient(options, async (client) => {
      const job = await client.get(id);
      const stopAfter = (event: JobEvent) =>
        !options.follow && !isTerminal(job.state) && isPresent(event, job);
      for await (const event of client.watch(id, { signal: interrupt.signal })) {
        const time = event.time === undefined ? "" : `${event.time.toISOString()} `;
        switch (event.kind) {
          case "state":
            context.stdout.write(
              `${time}${event.state}${event.reason === "" ? "" : `: ${oneLine(event.reason)}`}\n`,
            );
            if (event.error !== undefined)
              context.stdout.write(`${time}${jobErrorText(event.error)}\n`);
            break;
          case "step":
            context.stdout.write(`${time}step ${event.step} loss ${formatLoss(event.loss)}\n`);
            break;
          case "eval":
            context.stdout.write(
              `${time}held-out loss ${formatLoss(event.loss)} after ${plural(event.step, "step")}\n`,
            );
            break;
          case "log":
            context.stdout.write(
              `${time}${printable(logLine(event.level, event.rank, event.message))}\n`,
            );
            break;
        }
        if (stopAfter(event)) return;
      }
    });
  } finally {
    interrupt.dispose();
  }
}

/** Whether the replay of a running job's events has come to where the job stands. */
function isPresent(event: JobEvent, job: Job): boolean {
  if (event.kind === "step") return event.step + 1 >= job.stepsDone;
  return event.kind === "state" && event.state === job.state && job.stepsDone === 0;
}

async function cancel(
  id: string,
  options: ConnectionOptions,
  context: CommandContext,
): Promise<void> {
  const job = await withClient(options, (client) => client.cancel(id));
  context.stdout.write(`${job.jobId} is ${job.state}\n`);
}

/** What shows a job, as it stands when it begins to be followed. */
type ViewOf = (present: Job) => Promise<JobView>;

/** One line of progress, or one every few seconds. */
function lineView({ stderr }: CommandContext): ViewOf {
  return async ({ name, steps }) => new Progress({ stream: stderr, title: name, steps });
}

/** Charts; undefined where nothing can be drawn in place. */
function liveView(
  client: RankmeshClient,
  color: boolean,
  { stderr: stream }: CommandContext,
): ViewOf | undefined {
  const { env } = process;
  if (stream.isTTY !== true || env["TERM"] === "dumb") return undefined;
  return async (job) => {
    const ask = { job: () => client.get(job.jobId), workers: () => client.workers() };
    // The picture is worth drawing without the workers' limits.
    const workers = await ask.workers().catch(() => []);
    return new LiveJobView({ stream, style: styleOf(env, color), job, workers, ask });
  };
}

/** Follows a job to its end; on Ctrl-C calls `onDetach` and ends the command with 130. */
async function followUntilInterrupt(
  handle: JobHandle,
  context: CommandContext,
  viewOf: ViewOf,
  onDetach: () => Promise<void>,
  options: FollowOptions = {},
): Promise<Job> {
  const interrupt = catchInterrupt();
  try {
    const present = await handle.get({ signal: interrupt.signal });
    context.stderr.write(`watching job ${handle.jobId}; Ctrl-C detaches and leaves it running\n`);
    return await followJob(handle, await viewOf(present), interrupt.signal, options);
  } catch (error) {
    if (interrupt.signal.aborted) await onDetach();
    throw error;
  } finally {
    interrupt.dispose();
  }
}

/**
 * Says how a job ended; ends the command with 1 unless it succeeded, with 130 when `interrupted` was what ended it.
 */
export function finish(job: Job, context: CommandContext, interrupted?: AbortSignal): void {
  if (job.error !== undefined) {
    context.stderr.write(`rankmesh: job ${job.jobId} failed: ${jobErrorText(job.error)}\n`);
  }
  printLines(context.stdout, jobReport(job));
  if (job.state === "SUCCEEDED") return;
  throw new ExitRequest(interrupted?.aborted === true ? EXIT.interrupted : EXIT.jobFailed);
}

async function writeResult(path: string | undefined, job: Job): Promise<void> {
  if (path !== undefined) await writeJsonFile(path, jobResult(job));
}
