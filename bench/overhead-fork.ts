import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { OverheadReply, OverheadTask } from "./overhead-process.ts";

const MODULE = fileURLToPath(new URL("./overhead-process.js", import.meta.url));
const TIMEOUT_MS = 120_000;

/** A process that does one task of the overhead benchmark. It ends when it is closed, killed, or this process ends. */
export class OverheadProcess {
  readonly #child: ChildProcess;
  readonly #reply: Promise<OverheadReply>;
  readonly #timer: NodeJS.Timeout;
  readonly #signal: AbortSignal;
  readonly #kill = (): void => {
    this.#child.kill("SIGKILL");
  };

  constructor(task: OverheadTask, signal: AbortSignal) {
    const child = fork(MODULE);
    this.#child = child;
    this.#signal = signal;
    this.#timer = setTimeout(this.#kill, TIMEOUT_MS);
    signal.addEventListener("abort", this.#kill, { once: true });
    this.#reply = new Promise((resolve, reject) => {
      child.once("message", (reply: OverheadReply) => resolve(reply));
      child.once("error", reject);
      child.once("exit", (code, by) =>
        reject(
          new Error(`overhead process (${task.kind}) ended with ${by ?? code} before it answered`),
        ),
      );
    });
    this.#reply.catch(() => undefined); // Told to whoever asks for it.
    child.send(task);
  }

  /** @throws Error when the task failed, or took longer than two minutes */
  async reply<K extends OverheadReply["kind"]>(
    kind: K,
  ): Promise<Extract<OverheadReply, { readonly kind: K }>> {
    const reply = await this.#reply;
    if (reply.kind === "failed") throw new Error(`overhead process: ${reply.message}`);
    if (!isKind(reply, kind)) throw new Error(`overhead process: said ${reply.kind}, not ${kind}`);
    return reply;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#signal.removeEventListener("abort", this.#kill);
    if (this.#child.connected) this.#child.disconnect();
  }
}

function isKind<K extends OverheadReply["kind"]>(
  reply: OverheadReply,
  kind: K,
): reply is Extract<OverheadReply, { readonly kind: K }> {
  return reply.kind === kind;
}
