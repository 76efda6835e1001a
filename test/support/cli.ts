/** The built command line as a real process. */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { fixturePath } from "./fixtures.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.js", import.meta.url));

export interface CliResult {
  /** Exit code; null when a signal ended the process. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** One `rankmesh ...` process. Killed with its whole tree's pipes when the test forgets it and the timeout passes. */
export class CliProcess {
  readonly child: ChildProcessWithoutNullStreams;
  readonly ended: Promise<CliResult>;
  stdout = "";
  stderr = "";

  constructor(
    args: readonly string[],
    options: {
      cwd?: string;
      env?: NodeJS.ProcessEnv;
      command?: readonly [string, ...string[]];
    } = {},
  ) {
    const env = { ...environment(), ...options.env };
    const [program, ...before] = options.command ?? [process.execPath, MAIN];
    this.child = spawn(program, [...before, ...args], { cwd: options.cwd ?? tmpdir(), env });
    this.child.stdout.setEncoding("utf8").on("data", (text: string) => {
      this.stdout += text;
    });
    this.child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.stderr += text;
    });
    this.ended = new Promise((resolve) => {
      this.child.once("close", (code, signal) =>
        resolve({ code, signal, stdout: this.stdout, stderr: this.stderr }),
      );
    });
  }

  get pid(): number {
    if (this.child.pid === undefined) throw new Error(`not started: ${this.stderr}`);
    return this.child.pid;
  }

  /** The first match of `pattern` in what the process has written. @throws when it ends or stays silent instead */
  async waitFor(pattern: RegExp, timeoutMs = 15_000): Promise<RegExpExecArray> {
    const look = () => pattern.exec(this.stdout) ?? pattern.exec(this.stderr);
    return await poll(
      () => {
        const match = look();
        if (match === null && this.child.exitCode !== null) {
          throw new Error(
            `ended with ${this.child.exitCode} before ${pattern}: ${this.stdout}${this.stderr}`,
          );
        }
        return match ?? undefined;
      },
      `${pattern} in the output`,
      timeoutMs,
      () => `${this.stdout}${this.stderr}`,
    );
  }
}

/** `rankmesh ...` in a pseudo terminal of that size, by util-linux's `script`; what it writes is all on stdout. */
export function onTerminal(args: readonly string[], columns: number, rows: number): CliProcess {
  const words = [process.execPath, MAIN, ...args].map((word) => `'${word}'`).join(" ");
  const line = `stty cols ${columns} rows ${rows}; exec ${words}`;
  const env = { TERM: "xterm-256color", LC_ALL: "C.UTF-8", NO_COLOR: "" };
  return new CliProcess(["-qefc", line, "/dev/null"], { env, command: ["script"] });
}

/** Runs a command to its end. @throws when it takes longer than the timeout; the process is killed then */
export async function runCli(
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv; timeoutMs?: number } = {},
): Promise<CliResult> {
  const cli = new CliProcess(args, options);
  const { timeoutMs = 30_000 } = options;
  const timer = setTimeout(() => cli.child.kill("SIGKILL"), timeoutMs);
  const result = await cli.ended;
  clearTimeout(timer);
  if (result.signal === "SIGKILL") {
    throw new Error(
      `rankmesh ${args.join(" ")} did not end in ${timeoutMs} ms: ${result.stdout}${result.stderr}`,
    );
  }
  return result;
}

/** Asks until there is an answer. */
export async function poll<T>(
  ask: () => T | undefined | Promise<T | undefined>,
  what: string,
  timeoutMs = 15_000,
  context: () => string = () => "",
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (performance.now() > deadline)
      throw new Error(`no ${what} within ${timeoutMs} ms: ${context()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Processes whose parent is `pid`, and that are no zombies. Linux only. */
export function childrenOf(pid: number): number[] {
  const path = `/proc/${pid}/task/${pid}/children`;
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8").trim().split(" ").filter(Boolean).map(Number).filter(isRunning);
}

/** Whether a process is there and no zombie. */
export function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** A temporary folder with a job file and the files of a reference run; `dispose` removes it. */
export async function jobFolder(
  reference: "feedforward-sum" | "feedforward-mse" | "llama-tiny" | "llama-clip",
): Promise<{
  path: string;
  write(name: string, spec: unknown): Promise<string>;
  dispose(): Promise<void>;
}> {
  const path = await mkdtemp(join(tmpdir(), "rankmesh-job-"));
  await cp(fixturePath(`reference/${reference}`), path, { recursive: true });
  return {
    path,
    async write(name, spec) {
      const file = join(path, name);
      // JSON is YAML.
      await writeFile(file, JSON.stringify(spec));
      return file;
    },
    dispose: () => rm(path, { recursive: true, force: true }),
  };
}

function environment(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith("RANKMESH_")),
  );
}
