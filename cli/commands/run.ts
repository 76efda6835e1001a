import type { Command } from "commander";
import { leastSizes, sizesFor } from "../../coordinator/gang/scheduler.ts";
import { InternalError } from "../../shared/errors.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { resolveJobSpec } from "../../shared/job/resolve.ts";
import type { CommandContext } from "../command-context.ts";
import { runEmbeddedJob } from "../embedded-job.ts";
import { catchInterrupt } from "../interrupt.ts";
import { loadJobFile, type LoadedJob } from "../job-file.ts";
import { jobResult } from "../job-result.ts";
import { numCores } from "../machine.ts";
import { checkOutputFile, writeJsonFile } from "../output-file.ts";
import { withRefusalsWritten } from "../refusal.ts";
import { finish } from "./job.ts";
import { backendOption } from "./worker.ts";

interface RunFlags {
  readonly backend: string;
  readonly json?: string;
  readonly verbose: boolean;
}

export function addRunCommand(program: Command, context: CommandContext): void {
  program
    .command("run")
    .description("train a job here: a coordinator in this process, one worker process a rank, and nothing left behind")
    .argument("<job.yaml>", "job file; its paths are relative to it. A mesh size `auto` takes one rank a core")
    .addOption(backendOption())
    .option("--json <file>", "write the result as JSON")
    .option("--verbose", "pass on the logs of coordinator and workers", false)
    .action((file: string, flags: RunFlags) => run(file, flags, context));
}

async function run(file: string, flags: RunFlags, context: CommandContext): Promise<void> {
  await checkOutputFile("--json", flags.json);
  const interrupt = catchInterrupt();
  try {
    await withRefusalsWritten(flags.json, { jobId: null }, async (refusal) => {
      const loaded = await loadJobFile(file);
      refusal.steps = loaded.steps;
      const { spec, ranks, title } = withFixedMesh(loaded);
      const job = await runEmbeddedJob({
        spec,
        ranks,
        title,
        steps: loaded.steps ?? 0,
        backend: flags.backend,
        folder: loaded.folder,
        verbose: flags.verbose,
        stderr: context.stderr,
        signal: interrupt.signal,
      }).catch(refusal.locateWith(loaded));
      if (flags.json !== undefined) await writeJsonFile(flags.json, jobResult(job));
      finish(job, context);
    });
  } finally {
    interrupt.dispose();
  }
}

/**
 * The spec with `auto` sizes settled: one rank a core of this machine, as far as the other axis allows. A faulty spec
 * stays as it is: the coordinator says what is wrong with all of it.
 */
function withFixedMesh(loaded: LoadedJob): {
  readonly spec: JobSpecInput;
  readonly ranks: number;
  readonly title: string;
} {
  const resolved = resolveJobSpec(loaded.spec);
  // The client checks a spec whatever it is; the type is what a valid one has.
  if (!resolved.ok) return { spec: loaded.spec as JobSpecInput, ranks: 1, title: "job" };
  const { spec } = resolved;
  const least = leastSizes(spec.mesh);
  const mesh = sizesFor(spec.mesh, Math.max(numCores(), least.dataParallel * least.tensorParallel));
  if (mesh === undefined) throw new InternalError("no sizes for a mesh that has enough workers");
  return {
    spec: { ...spec, mesh },
    ranks: mesh.dataParallel * mesh.tensorParallel,
    title: spec.name,
  };
}
