import type { Command } from "commander";
import type { Job } from "../../client/job-types.ts";
import { anyPath } from "../../coordinator/data/paths.ts";
import { type CheckedJob, checkJob } from "../../coordinator/job/check-submission.ts";
import { LocalJobFiles } from "../../coordinator/job/local-job-files.ts";
import type { PlannedJob, Planner } from "../../coordinator/planner.ts";
import { generationPlanner } from "../../coordinator/planning/plan-generation.ts";
import { StreamedBatches } from "../../coordinator/streamed-batches.ts";
import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import type { CommandContext } from "../command-context.ts";
import { ContextWindows } from "../context-windows.ts";
import { runEmbeddedJob } from "../embedded-job.ts";
import { EXIT, ExitRequest, UsageError } from "../exit-codes.ts";
import { formatRate, plural, printable } from "../format.ts";
import { Continuation } from "../generate-text.ts";
import {
  chooseTokenizer,
  chooseWeights,
  generationSpec,
  trainedContext,
} from "../generation-job.ts";
import { catchInterrupt } from "../interrupt.ts";
import { type LoadedJob, loadJobFile } from "../job-file.ts";
import { jobErrorText } from "../job-report.ts";
import { startLocalCoordinator } from "../local-cluster.ts";
import { localMachine } from "../local-machine.ts";
import { quantity, wholeNumber } from "../option-values.ts";
import { checkOutputFile, writeJsonFile } from "../output-file.ts";
import type { TextCodec } from "../text-codec.ts";
import { backendOption, devicesOption } from "./backend-option.ts";

interface GenerateFlags {
  readonly prompt: string;
  readonly weights?: string;
  readonly tokenizer?: string;
  readonly tokens: number;
  readonly context?: number;
  readonly temperature: number;
  readonly topK: number;
  readonly seed: number;
  readonly tp: number;
  readonly backend: string;
  readonly device: readonly string[];
  readonly json?: string;
  readonly verbose: boolean;
}

export function addGenerateCommand(program: Command, context: CommandContext): void {
  program
    .command("generate")
    .description("let a trained language model go on with a text, here, token by token")
    .argument("<job.yaml>", "job file that says the model and how its text is tokenized")
    .requiredOption("--prompt <text>", "how the text begins")
    .option(
      "--weights <path>",
      "file of weights, or folder of a Hugging Face checkpoint; else what the job wrote, or the checkpoint that it begins with",
    )
    .option("--tokenizer <path>", "bytes, or a tokenizer.json; else that of the job's text")
    .option("--tokens <n>", "tokens to add", wholeNumber(1, MAX_TOKENS), 200)
    .option(
      "--temperature <number>",
      "below 1 likely tokens are drawn more often, above 1 less; 0 always takes the likeliest",
      quantity,
      0.8,
    )
    .option("--top-k <n>", "draw among the n likeliest tokens only; 0: all", wholeNumber(0), 0)
    .option("--seed <n>", "of the draws", wholeNumber(0), 0)
    .option(
      "--context <n>",
      "tokens that the model looks back on; else as many as it was trained on at a time",
      wholeNumber(1, MAX_TOKENS),
    )
    .option("--tp <n>", "tensor-parallel ranks, one process each", wholeNumber(1, MAX_TP), 1)
    .addOption(backendOption())
    .addOption(devicesOption())
    .option("--json <file>", "write text and tokens as JSON")
    .option("--verbose", "pass on the logs of coordinator and workers", false)
    .action((file: string, flags: GenerateFlags) => generate(file, flags, context));
}

const MAX_TOKENS = 1_000_000;
const MAX_TP = 1024;

async function generate(
  file: string,
  flags: GenerateFlags,
  context: CommandContext,
): Promise<void> {
  await checkOutputFile("--json", flags.json);
  const { folder, codec, prompt, windows, steps, planner, checked } = await prepare(file, flags);
  const { spec, plan } = checked;
  const notes = windows.leftOut === 0 ? [] : [leftOutNote(prompt, windows)];
  for (const note of [...notes, ...plan.notes]) {
    context.stderr.write(`note: ${printable(note)}\n`);
  }
  const machine = await localMachine({ backends: [flags.backend], devices: flags.device });
  const interrupt = catchInterrupt();
  try {
    const continuation = new Continuation({
      input: inputOf(plan),
      prompt,
      windows,
      steps,
      decoder: codec.decoder(prompt),
      write: (text) => context.stdout.write(shown(text, context)),
      signal: interrupt.signal,
    });
    const ranks = machine.place(flags.tp);
    const { verbose } = flags;
    const coordinator = await startLocalCoordinator({ folder, verbose, planner });
    const job = await runEmbeddedJob({
      coordinator,
      spec,
      ranks,
      title: spec.name,
      steps,
      sayBackend: false,
      verbose,
      stderr: context.stderr,
      signal: interrupt.signal,
      follow(handle, progress) {
        return continuation.run(handle, () => {
          progress.end();
          context.stdout.write(shown(flags.prompt, context));
        });
      },
    }).finally(() => coordinator.stop());
    continuation.end();
    if (continuation.tokens.length > 0) context.stdout.write("\n");
    if (flags.json !== undefined)
      await writeJsonFile(flags.json, result(flags, prompt, continuation, job));
    finish(job, continuation, flags, context, interrupt.signal);
  } finally {
    interrupt.dispose();
  }
}

/** What a text needs before its first token: the job that makes it, checked, and what that is fed. */
async function prepare(file: string, flags: GenerateFlags) {
  if (flags.prompt === "") throw new UsageError("--prompt is empty; give the text's beginning");
  const loaded = await loadJobFile(file);
  const weights = await chooseWeights(loaded, flags.weights);
  const codec = await chooseTokenizer(loaded, flags.tokenizer, weights);
  const prompt = codec.encode(flags.prompt);
  if (prompt.length === 0) throw new UsageError("--prompt holds no token; give a longer text");
  // The last token is drawn, and nothing is drawn after it.
  const whole = prompt.length + flags.tokens - 1;
  const windows = new ContextWindows(
    prompt.length,
    Math.min(whole, flags.context ?? trainedContext(loaded) ?? whole),
  );
  const steps = windows.steps(flags.tokens);
  const { temperature, topK, seed } = flags;
  const planner = generationPlanner({ context: windows.context, temperature, topK, seed });
  const raw = await generationSpec(loaded, weights, { ranks: flags.tp, steps });
  const checked = await check(raw, loaded, planner);
  checkVocabulary(codec, prompt, checked.plan.idLimits[inputOf(checked.plan)]);
  return { folder: loaded.folder, codec, prompt, windows, steps, planner, checked };
}

function leftOutNote(prompt: readonly number[], { context, leftOut }: ContextWindows): string {
  return `the prompt has ${plural(prompt.length, "token")} and the model looks back on ${context}; the first ${leftOut} are left out`;
}

/**
 * Checks the job that generates as a coordinator would.
 * @throws InvalidArgumentError with every fault, at the flag or the place in the job file that can mend it
 */
async function check(raw: unknown, loaded: LoadedJob, planner: Planner): Promise<CheckedJob> {
  const files = new LocalJobFiles(anyPath(loaded.folder), new StreamedBatches());
  try {
    return await checkJob(raw, planner, files);
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    const faults = error.faults.flatMap((fault): Fault[] => {
      const flag = FLAGS.find(([path]) => fault.path.startsWith(path))?.[1];
      return flag === undefined ? loaded.locate([fault]) : [{ ...fault, path: flag }];
    });
    throw new InvalidArgumentError(faults, { cause: error });
  }
}

/** Keys of the job that flags stand for. */
const FLAGS: readonly (readonly [path: string, flag: string])[] = [
  ["init", "--weights"],
  ["mesh", "--tp"],
];

/** @throws InvalidArgumentError when the tokenizer is for another model */
function checkVocabulary(
  { vocabulary }: TextCodec,
  prompt: readonly number[],
  ids = Number.POSITIVE_INFINITY,
): void {
  const needed = vocabulary ?? 1 + prompt.reduce((a, b) => Math.max(a, b), 0);
  if (needed <= ids) return;
  throw new InvalidArgumentError(
    `${vocabulary === undefined ? "the prompt" : "the tokenizer"} has ids up to ${needed - 1}, and the model knows 0 to ${ids - 1}; give the model's own tokenizer with --tokenizer`,
  );
}

function inputOf({ program }: PlannedJob): string {
  return program.inputs[0]?.name ?? "";
}

/** What a terminal may show of a text: no control characters but line ends and tabs. A file gets it as it is. */
function shown(text: string, { stdout }: CommandContext): string {
  return stdout.isTTY === true ? text.split("\t").map(printable).join("\t") : text;
}

function result(
  { prompt, tp }: GenerateFlags,
  promptTokens: readonly number[],
  { text, tokens, tokensPerSecond }: Continuation,
  { state, error }: Job,
) {
  return {
    ...{ state, prompt, text, promptTokens, tokens, tensorParallel: tp },
    tokensPerSecond: tokensPerSecond ?? null,
    error: error === undefined ? null : { code: error.code, message: error.message },
  };
}

/** @throws ExitRequest unless the text was written to its end */
function finish(
  job: Job,
  { tokens, tokensPerSecond, failedAfter }: Continuation,
  { tp }: GenerateFlags,
  { stderr }: CommandContext,
  interrupted: AbortSignal,
): void {
  if (job.state === "SUCCEEDED") {
    const rate = tokensPerSecond === undefined ? "" : `, ${formatRate(tokensPerSecond)} tokens/s`;
    stderr.write(`${plural(tokens.length, "token")} on ${plural(tp, "rank")}${rate}\n`);
    return;
  }
  if (failedAfter !== undefined) {
    stderr.write(
      `rankmesh: the model gives no probabilities after ${plural(failedAfter, "token")}: its logits are not finite; use weights of a training whose losses were\n`,
    );
  } else if (job.error !== undefined) {
    stderr.write(`rankmesh: generation failed: ${jobErrorText(job.error)}\n`);
  }
  throw new ExitRequest(interrupted.aborted ? EXIT.interrupted : EXIT.jobFailed);
}
