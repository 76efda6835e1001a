/**
 * A place of its own to run commands in: its own network with a loopback of its own, so that daemons may take their
 * default ports, and its own processes, all of which end with it. Two of them, linked, play two machines. Linux only.
 */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { dirname } from "node:path";
import { childrenOf, poll } from "./cli.ts";

const NAMESPACES = ["--net", "--pid", "--uts", "--mount"];

export interface CommandResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Why no host can be made here; undefined when one can. */
export function hostFault(): string | undefined {
  if (process.platform !== "linux") return "needs Linux: network namespaces";
  if (process.getuid?.() !== 0) return "needs root: network namespaces";
  for (const [program, name] of [
    ["unshare", "util-linux"],
    ["nsenter", "util-linux"],
    ["ip", "iproute2"],
  ] as const) {
    if (spawnSync(program, ["--version"]).status !== 0 && spawnSync(program, ["-V"]).status !== 0)
      return `needs ${program}: apt-get install ${name}`;
  }
  const { status, stderr } = spawnSync("unshare", [...NAMESPACES, "--fork", "true"], {
    encoding: "utf8",
  });
  return status === 0 ? undefined : `needs network namespaces: ${stderr.trim()}`;
}

export class Host {
  readonly name: string;
  readonly #keeper: ChildProcessWithoutNullStreams;
  readonly #init: number;
  readonly #running: RunningCommand[] = [];

  private constructor(name: string, keeper: ChildProcessWithoutNullStreams, init: number) {
    this.name = name;
    this.#keeper = keeper;
    this.#init = init;
  }

  /** All processes in it end when this process does: its first one reads our pipe, and takes the others along. */
  static async start(name: string): Promise<Host> {
    const keeper = spawn("unshare", [
      ...NAMESPACES,
      "--mount-proc",
      "--fork",
      "--kill-child",
      "sh",
      "-c",
      `hostname ${name} && ip link set lo up && echo up && exec cat`,
    ]);
    let said = "";
    for (const stream of [keeper.stdout, keeper.stderr])
      stream.setEncoding("utf8").on("data", (text: string) => {
        said += text;
      });
    await poll(
      () => (said.startsWith("up") ? true : undefined),
      `host ${name}`,
      15_000,
      () => said,
    );
    const init = keeper.pid === undefined ? undefined : childrenOf(keeper.pid)[0];
    if (init === undefined) throw new Error(`host ${name} did not start: ${said}`);
    return new Host(name, keeper, init);
  }

  /** Runs `script` with bash, which stops at the first command that fails, and waits for its end. */
  async run(script: string, options: RunOptions): Promise<CommandResult> {
    const command = this.start(script, options);
    return await command.end(options.timeoutMs ?? 60_000);
  }

  /** Starts `script` and does not wait. */
  start(script: string, options: RunOptions): RunningCommand {
    const command = new RunningCommand(this.#init, script, options);
    this.#running.push(command);
    return command;
  }

  async stop(): Promise<void> {
    for (const { child } of this.#running) child.stdin.destroy();
    const ended = new Promise((resolve) => this.#keeper.once("close", resolve));
    if (this.#keeper.exitCode !== null || this.#keeper.signalCode !== null) return;
    this.#keeper.stdin.end();
    await ended;
    await Promise.all(this.#running.map(({ ended }) => ended));
  }

  /** A link between two hosts, with the address of each at its end. */
  static link(a: Host, addressA: string, b: Host, addressB: string): void {
    const pids = [String(a.#init), String(b.#init)] as const;
    ip([
      "link",
      "add",
      "link0",
      "netns",
      pids[0],
      "type",
      "veth",
      "peer",
      "name",
      "link0",
      "netns",
      pids[1],
    ]);
    for (const [host, address] of [
      [a, addressA],
      [b, addressB],
    ] as const) {
      host.#ip(["address", "add", `${address}/24`, "dev", "link0"]);
      host.#ip(["link", "set", "link0", "up"]);
    }
  }

  /** Takes the link away, as a cable that is pulled: nobody is told. */
  cutLink(): void {
    this.#ip(["link", "set", "link0", "down"]);
  }

  #ip(args: readonly string[]): void {
    ip(args, ["nsenter", `--target=${this.#init}`, "--net"]);
  }
}

export interface RunOptions {
  readonly cwd: string;
  /** Folder at the end of the search path. */
  readonly lastPath?: string;
  /** @default 60_000 */
  readonly timeoutMs?: number;
}

export class RunningCommand {
  readonly child: ChildProcessWithoutNullStreams;
  readonly ended: Promise<CommandResult>;
  readonly #script: string;
  stdout = "";
  stderr = "";

  constructor(init: number, script: string, options: RunOptions) {
    this.#script = script;
    const wholeScript = `set -euo pipefail\ncd ${quoted(options.cwd)}\n${script}`;
    this.child = spawn("nsenter", [`--target=${init}`, ...NAMESPACES, "bash", "-c", wholeScript], {
      env: commandEnvironment(options.lastPath),
    });
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

  /** The result. @throws when the command goes on for longer; it is killed then */
  async end(timeoutMs: number): Promise<CommandResult> {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.child.kill("SIGKILL");
      // What it started holds the pipes open, until its host ends.
      for (const stream of [this.child.stdout, this.child.stderr]) stream.destroy();
    }, timeoutMs);
    const result = await this.ended;
    clearTimeout(timer);
    if (late)
      throw new Error(
        `goes on after ${timeoutMs} ms:\n${this.#script}${this.stdout}${this.stderr}`,
      );
    return result;
  }

  /** Waits until what the command has written matches. @throws when it ends or stays silent instead */
  async waitFor(pattern: RegExp, timeoutMs: number): Promise<void> {
    await poll(
      () => {
        if (pattern.test(this.stdout) || pattern.test(this.stderr)) return true;
        if (this.child.exitCode !== null)
          throw new Error(`ended with ${this.child.exitCode}:\n${this.#script}${this.stderr}`);
        return undefined;
      },
      `${pattern} in the output`,
      timeoutMs,
      () => `${this.#script}${this.stdout}${this.stderr}`,
    );
  }

  /** Waits until the command has written a line to stdout. @throws when it ends or stays silent instead */
  async firstLine(timeoutMs: number): Promise<void> {
    await poll(
      () => {
        if (this.stdout.includes("\n")) return true;
        if (this.child.exitCode !== null)
          throw new Error(`ended with ${this.child.exitCode}:\n${this.#script}${this.stderr}`);
        return undefined;
      },
      "line on stdout",
      timeoutMs,
      () => `${this.#script}${this.stderr}`,
    );
  }
}

/** This process's environment without what is set for rankmesh; programs of the system before those of version managers. */
function commandEnvironment(lastPath = ""): NodeJS.ProcessEnv {
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(RANKMESH_|npm_|NODE_OPTIONS$)/i.test(name)),
  );
  const system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
  const path = [
    dirname(process.execPath),
    ...system,
    ...(process.env["PATH"] ?? "").split(":"),
    lastPath,
  ].filter(Boolean);
  return { ...env, PATH: [...new Set(path)].join(":"), npm_config_loglevel: "error" };
}

function ip(args: readonly string[], prefix: readonly string[] = []): void {
  const [program = "ip", ...rest] = [...prefix, "ip", ...args];
  const { status, stderr } = spawnSync(program, rest, { encoding: "utf8" });
  if (status !== 0) throw new Error(`ip ${args.join(" ")}: ${stderr}`);
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
