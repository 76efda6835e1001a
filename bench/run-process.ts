import { spawn } from "node:child_process";

export interface RunProcessOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** Characters of a failed command's stderr that are worth repeating. */
const STDERR_KEPT = 2000;

/**
 * Runs a command to its end. It gets a process group of its own, so that whatever it has started ends with it when it
 * takes too long or is interrupted.
 *
 * @returns its stdout
 * @throws Error with the end of its stderr when it fails, takes longer than the timeout, or `signal` aborts
 */
export function runProcess(
  command: string,
  args: readonly string[],
  options: RunProcessOptions,
): Promise<string> {
  const { timeoutMs, signal } = options;
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const child = spawn(command, args, {
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
      env: options.env ?? process.env,
    });
    let stdout = "";
    let stderr = "";
    let killed = "";
    const kill = (why: string) => {
      killed = why;
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    };
    const timer = setTimeout(() => kill(`took longer than ${timeoutMs} ms`), timeoutMs);
    const interrupted = () => kill("was interrupted");
    signal.addEventListener("abort", interrupted, { once: true });
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr = (stderr + text).slice(-STDERR_KEPT);
    });
    const settle = (how: string) => {
      clearTimeout(timer);
      signal.removeEventListener("abort", interrupted);
      if (how === "") resolve(stdout);
      else reject(new Error(`${command} ${args.join(" ")}: ${how}: ${stderr.trim()}`));
    };
    child.once("error", (error) => settle(error.message));
    child.once("close", (code, by) =>
      settle(killed !== "" ? killed : code === 0 ? "" : `ended with ${by ?? code}`),
    );
  });
}
