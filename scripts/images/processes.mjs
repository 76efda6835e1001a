// Runs programs to their end, each with a deadline.
import { spawn } from "node:child_process";
import { createWriteStream } from "node:fs";

/** How much of what a program wrote is kept for a failure's message. */
const TAIL = 6000;

/** What is told of a program that failed. */
export class ProcessError extends Error {}

/**
 * Runs a program. Its output is kept, and goes to `log` as it comes.
 * @returns {Promise<{code: number | null, stdout: string, stderr: string}>} code null: ended by a signal
 */
export function tryRun(command, { timeoutMs = 60_000, log, env, cwd, input } = {}) {
  const [program, ...args] = command;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
      // Its own group, so that all it started ends with it.
      detached: true,
    });
    const out = log === undefined ? undefined : createWriteStream(log, { flags: "a" });
    const texts = { stdout: "", stderr: "" };
    for (const stream of ["stdout", "stderr"]) {
      child[stream].setEncoding("utf8").on("data", (text) => {
        texts[stream] += text;
        out?.write(text);
      });
    }
    if (input !== undefined) child.stdin.on("error", () => {}).end(input);
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      process.kill(-child.pid, "SIGKILL");
    }, timeoutMs);
    child.once("error", (error) => {
      clearTimeout(timer);
      reject(new ProcessError(`${program} could not be started: ${error.message}`));
    });
    child.once("close", (code) => {
      clearTimeout(timer);
      out?.end();
      if (late) {
        const tail = `${texts.stdout}${texts.stderr}`.slice(-TAIL);
        reject(
          new ProcessError(`${command.join(" ")} did not end within ${timeoutMs} ms\n${tail}`),
        );
      } else resolve({ code, ...texts });
    });
  });
}

/** As `tryRun`, for a program that is to succeed. @returns its stdout @throws ProcessError with its last words */
export async function run(command, options) {
  const { code, stdout, stderr } = await tryRun(command, options);
  if (code === 0) return stdout;
  const tail = `${stdout}${stderr}`.slice(-TAIL).trimEnd();
  throw new ProcessError(`${command.join(" ")} ended with ${code}\n${tail}`);
}
