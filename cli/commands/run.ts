import type { Command } from "commander";
import { leastSizes, sizesFor } from "../../coordinator/gang/scheduler.ts";
import type { MeshSizes } from "../../coordinator/job/job-state.ts";
import { InternalError, InvalidArgumentError } from "../../shared/errors.ts";
import type { MeshSpec } from "../../shared/job/job-spec.ts";
import { checkLoadedJob } from "../check-job.ts";
import type { CommandContext } from "../command-context.ts";
import { runEmbeddedJob } from "../embedded-job.ts";
import { catchInterrupt } from "../interrupt.ts";
import { loadJobFile } from "../job-file.ts";
import { jobResult } from "../job-result.ts";
import { startLocalCoordinator } from "../local-cluster.ts";
import { type LocalMachine, localMachine } from "../local-machine.ts";
import { checkOutputFile, writeJsonFile } from "../output-file.ts";
import { withRefusalsWritten } from "../refusal.ts";
import { backendsOption, devicesOption } from "./backend-option.ts";
import { finish } from "./job.ts";
import { pageOption } from "./page-option.ts";

interface RunFlags {
  readonly backend: readonly string[];
  readonly device: readonly string[];
  readonly http: string;
  readonly json?: string;
  readonly verbose: boolean;
}

export function addRunCommand(program: Command, context: CommandContext): void {
  program
    .command("run")
    .description(
      "train a job here: a coordinator in this process, one worker process a rank, and nothing left behind",
    )
    .argument(
      "<job.yaml>",
      "job file; its paths are relative to it. A mesh size `auto` takes one rank a GPU, or one a core",
    )
    .addOption(backendsOption())
    .addOption(devicesOption())
    .addOption(pageOption())
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
      const machine = await localMachine({ backends: flags.backend, devices: flags.device });
      const { spec } = await checkLoadedJob(loaded, { sizes: ({ mesh }) => meshOn(machine, mesh) });
      if (!spec.allowMixedBackends && new Set(flags.backend).size > 1) {
        const message = `is false, and --backend names ${flags.backend.join(", ")}; set it to true, or name one backend`;
        throw new InvalidArgumentError(loaded.locate([{ path: "allowMixedBackends", message }]));
      }
      if ("stream" in spec.data) {
        const message =
          "nobody can push batches to a run of its own; submit the job to a coordinator, or give it data";
        throw new InvalidArgumentError(loaded.locate([{ path: "data.stream", message }]));
      }
      const mesh = meshOn(machine, spec.mesh);
      const ranks = machine.place(mesh.dataParallel * mesh.tensorParallel);
      const { verbose } = flags;
      const coordinator = await startLocalCoordinator({
        folder: loaded.folder,
        http: flags.http,
        verbose,
      });
      context.stderr.write(`status page: ${coordinator.pageUrl}\n`);
      const job = await runEmbeddedJob({
        coordinator,
        spec: { ...spec, mesh },
        ranks,
        title: spec.name,
        steps: spec.steps,
        verbose,
        stderr: context.stderr,
        signal: interrupt.signal,
      }).finally(() => coordinator.stop());
      if (flags.json !== undefined) await writeJsonFile(flags.json, jobResult(job));
      finish(job, context, interrupt.signal);
    });
  } finally {
    interrupt.dispose();
  }
}

/** The mesh with `auto` settled: as many ranks as the machine is for, as far as the other axis allows. */
function meshOn({ numWorkers }: LocalMachine, mesh: MeshSpec): MeshSizes {
  const least = leastSizes(mesh);
  const sizes = sizesFor(mesh, Math.max(numWorkers, least.dataParallel * least.tensorParallel));
  if (sizes === undefined) throw new InternalError("no sizes for a mesh that has enough workers");
  return sizes;
}
