import { type Command, Option } from "commander";
import { BACKEND_MODULE, loadBackend } from "../../worker/compute/backend-loader.ts";
import { daemonLogger, runDaemon } from "../daemon.ts";
import { byteCount, defined, envOption, hostPort, wholeNumber } from "../option-values.ts";
import { backendOption, deviceOption } from "./backend-option.ts";
import { withLogLevel } from "./log-level.ts";

interface WorkerFlags {
  readonly coordinator: string;
  readonly listen: string;
  readonly advertise?: string;
  readonly http: string;
  readonly backend: string;
  readonly device?: string;
  readonly name?: string;
  readonly threads?: number;
  readonly memoryLimit?: number;
  readonly logLevel: string;
  readonly exitWithParent: boolean;
}

export function addWorkerCommand(program: Command): void {
  const command = program
    .command("worker")
    .description("compute one rank at a time for a coordinator")
    .addOption(
      envOption("--coordinator <host:port>", "the coordinator to join", "COORDINATOR")
        .makeOptionMandatory()
        .argParser(hostPort),
    )
    .addOption(
      envOption("--listen <host:port>", "gRPC address to bind for peers", "LISTEN")
        .default("127.0.0.1:0")
        .argParser(hostPort),
    )
    .addOption(
      envOption(
        "--advertise <host:port>",
        "address that peers dial, when it differs from --listen",
        "ADVERTISE",
      ).argParser(hostPort),
    )
    .addOption(
      envOption("--http <host:port>", "address of /metrics", "HTTP")
        .default("127.0.0.1:0")
        .argParser(hostPort),
    )
    .addOption(backendOption())
    .addOption(deviceOption())
    .addOption(envOption("--name <name>", "unique name among the workers", "NAME"))
    .addOption(
      envOption("--threads <n>", "threads that compute (default: all cores)", "THREADS").argParser(
        wholeNumber(1, 1024),
      ),
    )
    .addOption(
      envOption(
        "--memory-limit <bytes>",
        "most memory a job may take (default: the device's, of a CPU what is free)",
        "MEMORY_LIMIT",
      ).argParser(byteCount),
    )
    .addOption(new Option("--exit-with-parent", "end when stdin closes").default(false).hideHelp());
  withLogLevel(command).action(async (flags: WorkerFlags) => {
    const logger = daemonLogger("worker", flags.logLevel);
    const start = async () => {
      // A backend that cannot run here says so before the rest of the daemon is loaded.
      const { backend, device = "", threads } = flags;
      const loaded = await loadBackend(BACKEND_MODULE, { backend, device, threads });
      const { startWorker } = await import("../../worker/worker-daemon.ts");
      return startWorker({
        loaded,
        coordinator: flags.coordinator,
        listen: flags.listen,
        http: flags.http,
        backend: flags.backend,
        logger,
        ...defined({
          advertise: flags.advertise,
          device: flags.device,
          name: flags.name,
          threads: flags.threads,
          memoryLimitBytes: flags.memoryLimit,
        }),
      });
    };
    await runDaemon("worker", logger, start, { exitWithParent: flags.exitWithParent });
  });
}
