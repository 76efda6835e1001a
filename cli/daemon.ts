import { destination, type Logger, pino } from "pino";
import { printLines } from "./command-context.ts";
import { errorLines } from "./error-text.ts";
import { EXIT, exitCodeOf } from "./exit-codes.ts";

/** What both daemons offer to the process that runs them. */
export interface DaemonHandle {
  /** Bound host:port of the gRPC server. */
  readonly grpcAddress: string;
  /** Bound host:port of /metrics. */
  readonly httpAddress: string;
  /** Ends in order: takes nothing new, lets what runs end within `graceMs`, then cuts it off. */
  stop(graceMs: number): Promise<void>;
  /** Settles when the daemon has ended; rejects when it ended by a fault of its own. */
  readonly done: Promise<void>;
}

export type DaemonRole = "coordinator" | "worker";

/** Time that a daemon has to end after SIGTERM; Docker kills after 10 s. */
const STOP_GRACE_MS = 5000;

/** Logs are JSON lines on stderr: stdout belongs to the one line that says the addresses. */
export function daemonLogger(role: DaemonRole, level: string): Logger {
  return pino(
    { level, base: { role }, timestamp: pino.stdTimeFunctions.isoTime },
    // Synchronous, so that the last lines before an exit are not lost.
    destination({ dest: 2, sync: true }),
  );
}

/**
 * Keeps a daemon until a signal ends it, and ends the process. SIGTERM and SIGINT stop it in order, a second one at once.
 */
export async function runDaemon(
  role: DaemonRole,
  logger: Logger,
  start: () => Promise<DaemonHandle>,
  options: { readonly exitWithParent?: boolean } = {},
): Promise<never> {
  const signals = new Signals();
  if (options.exitWithParent === true) exitWithParent(logger, signals);
  process.on("uncaughtException", (error) => {
    logger.fatal({ err: error }, "uncaught exception: this is a fault of rankmesh");
    process.exit(EXIT.jobFailed);
  });
  const handle = await start().catch((error: unknown) => {
    // Not left to the caller: a pipe to the parent would keep the process alive.
    printLines(process.stderr, errorLines(error));
    process.exit(exitCodeOf(error));
  });
  process.stdout.write(
    `${JSON.stringify({ role, grpc: handle.grpcAddress, http: handle.httpAddress })}\n`,
  );
  const ended = handle.done.then(
    () => EXIT.done,
    (error: unknown) => {
      logger.fatal(
        { err: error },
        `${role} ended: ${error instanceof Error ? error.message : String(error)}`,
      );
      return EXIT.jobFailed;
    },
  );
  const code = await Promise.race([
    ended,
    signals.first.then(async (signal) => {
      logger.info({ signal }, "stopping");
      await handle.stop(STOP_GRACE_MS);
      return EXIT.done;
    }),
  ]);
  process.exit(code);
}

/** The first signal is a request; from then on each one ends the process at once. */
class Signals {
  readonly first: Promise<string>;
  #resolve: (signal: string) => void = () => {};
  #requested = false;

  constructor() {
    this.first = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    for (const name of ["SIGTERM", "SIGINT"] as const) {
      process.on(name, () => {
        if (this.#requested) process.exit(EXIT.interrupted);
        this.request(name);
      });
    }
  }

  request(why: string): void {
    this.#requested = true;
    this.#resolve(why);
  }

  /** Ctrl-C reaches every process of the terminal; one with a parent leaves it to the parent to say what it means. */
  ignoreInterrupt(): void {
    process.removeAllListeners("SIGINT");
    process.on("SIGINT", () => {});
  }
}

/** Time between the parent's end and this process's, at most. */
const ORPHAN_GRACE_MS = 1000;

/** Ends this process when its stdin closes: the parent is gone, even if it was killed. */
function exitWithParent(logger: Logger, signals: Signals): void {
  signals.ignoreInterrupt();
  let gone = false;
  const onEnd = () => {
    if (gone) return;
    gone = true;
    logger.info("parent process is gone");
    // SIGKILL, because an exit waits for a compute thread that may be deep in a native call.
    setTimeout(() => process.kill(process.pid, "SIGKILL"), ORPHAN_GRACE_MS);
    signals.request("parent process is gone");
  };
  for (const event of ["end", "error", "close"]) process.stdin.once(event, onEnd);
  process.stdin.resume();
}
