import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { FailedPreconditionError } from "../shared/errors.ts";
import { DAEMON_VARIABLES } from "./option-values.ts";

/** The built command line that worker processes run. */
const MAIN = fileURLToPath(new URL("./main.js", import.meta.url));

/** Lines of a worker's log kept to explain its end. */
const LOG_LINES_KEPT = 20;

export interface WorkerProcessOptions {
  readonly coordinator: string;
  readonly name: string;
  readonly backend: string;
  /** Empty: the backend's own choice. */
  readonly device: string;
  readonly threads: number;
  readonly memoryLimitBytes: number;
  /** Takes each line that the worker logs. */
  readonly onLog?: (line: string) => void;
}

/** How a worker process ended. */
export interface WorkerExit {
  readonly name: string;
  /** `exit code 1` or `signal SIGKILL`. */
  readonly how: string;
  readonly log: readonly string[];
}

/**
 * A worker as a child process. The child ends when its stdin closes, which the system does even when this process
 * is killed with SIGKILL, so that no worker outlives its parent.
 */
export class WorkerProcess {
  readonly name: string;
  readonly exited: Promise<WorkerExit>;
  /** Fulfilled with the first line of its stdout: the worker listens. */
  readonly listening: Promise<void>;
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #log: string[] = [];
  #ended = false;

  constructor(options: WorkerProcessOptions) {
    this.name = options.name;
    const child = spawn(
      process.execPath,
      [
        MAIN,
        "worker",
        "--exit-with-parent",
        "--coordinator",
        options.coordinator,
        "--name",
        options.name,
        "--backend",
        options.backend,
        "--device",
        options.device,
        "--threads",
        String(options.threads),
        "--memory-limit",
        String(options.memoryLimitBytes),
      ],
      { stdio: ["pipe", "pipe", "pipe"], env: environmentWithoutSettings() },
    );
    this.#child = child;
    child.stdin.on("error", () => {}); // The child's end is reported by its exit, not by the pipe.
    this.exited = new Promise((resolve) => {
      const end = (how: string) => {
        this.#ended = true;
        resolve({ name: this.name, how, log: this.#log });
      };
      child.once("error", (error) => end(`could not start: ${error.message}`));
      // "close" comes after the last of its output, so that the kept log is whole.
      child.once("close", (code, signal) =>
        end(signal === null ? `exit code ${code}` : `signal ${signal}`),
      );
    });
    this.listening = new Promise((resolve) => {
      createInterface({ input: child.stdout }).once("line", () => resolve());
    });
    createInterface({ input: child.stderr }).on("line", (line) => {
      this.#log.push(line);
      if (this.#log.length > LOG_LINES_KEPT) this.#log.shift();
      options.onLog?.(line);
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Asks the worker to end, then insists: SIGTERM, and SIGKILL when it is still there after `graceMs`. */
  async stop(graceMs: number): Promise<WorkerExit> {
    if (!this.#ended) {
      this.#child.kill("SIGTERM");
      const timer = setTimeout(() => this.#child.kill("SIGKILL"), graceMs);
      await this.exited;
      clearTimeout(timer);
    }
    return this.exited;
  }
}

/** An error that says how a worker process ended too early, with the end of its log. */
export function workerExitError(exit: WorkerExit): FailedPreconditionError {
  const log =
    exit.log.length === 0 ? "it logged nothing" : `its last log lines:\n  ${exit.log.join("\n  ")}`;
  return new FailedPreconditionError(
    `worker ${exit.name} ended before the job (${exit.how}); ${log}`,
  );
}

/** The environment without flags of daemons: those meant for a daemon of the user's must not bind these workers. */
function environmentWithoutSettings(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !DAEMON_VARIABLES.has(name)),
  );
}
