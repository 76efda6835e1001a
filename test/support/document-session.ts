import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Block, placeOf, ROOT } from "./documents.ts";
import { outputFault } from "./expected-output.ts";
import type { CommandResult, Host, RunOptions } from "./host.ts";

/** What a worker logs when it has joined its coordinator. */
const JOINED = "registered with the coordinator";

/** Runs marked blocks of one document in their order, in one folder of one host. */
export class DocumentSession {
  readonly #host: Host;
  readonly #folder: string;
  readonly #lastPath: string;
  #last: CommandResult | undefined;

  /** @param lastPath folder with programs for commands that are not installed */
  constructor(host: Host, folder: string, lastPath = "") {
    this.#host = host;
    this.#folder = folder;
    this.#lastPath = lastPath;
  }

  /** @throws when the block does not do what its mark says */
  async play(block: Block): Promise<void> {
    if (block.mark?.kind === "output") this.#compare(block, block.mark.options);
    else if (block.mark !== undefined) await this.#run(block, block.mark.options);
  }

  async #run(block: Block, options: ReadonlyMap<string, string>): Promise<void> {
    const file = options.get("file");
    if (file !== undefined) {
      await this.#write(file, block.text);
      return;
    }
    const timeoutMs = Number(options.get("timeout") ?? "60") * 1000;
    const cwd = options.has("checkout") ? ROOT : this.#folder;
    const runOptions = { cwd, lastPath: this.#lastPath, timeoutMs };
    if (options.has("background")) {
      await this.#startDaemon(scriptOf(block), options.get("until"), runOptions);
      return;
    }
    if (options.has("terminals")) {
      for (const line of block.text.split("\n").filter(Boolean)) {
        const daemon = /^npx rankmesh (coordinator|worker) /.exec(line)?.[1];
        if (daemon === undefined) await this.#command(block, line, 0, runOptions);
        else await this.#startDaemon(line, daemon === "worker" ? JOINED : undefined, runOptions);
      }
      return;
    }
    const script = await this.#scriptFor(block);
    await this.#command(block, script, Number(options.get("exit") ?? "0"), runOptions);
  }

  async #write(file: string, text: string): Promise<void> {
    const path = join(this.#folder, file);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
  }

  async #scriptFor(block: Block): Promise<string> {
    if (block.language === "sh") return scriptOf(block);
    if (block.language !== "js" && block.language !== "ts")
      throw new Error(`${placeOf(block)}: sh, js and ts run, not ${block.language}`);
    await this.#write("example.mjs", block.text);
    return "node example.mjs\n";
  }

  async #startDaemon(
    script: string,
    until: string | undefined,
    options: RunOptions & { readonly timeoutMs: number },
  ): Promise<void> {
    const command = this.#host.start(script, options);
    if (until === undefined) await command.firstLine(options.timeoutMs);
    else await command.waitFor(new RegExp(until), options.timeoutMs);
  }

  async #command(block: Block, script: string, wanted: number, options: RunOptions): Promise<void> {
    const result = await this.#host.run(script, options);
    this.#last = result;
    if (result.code === wanted) return;
    throw new Error(
      `${placeOf(block)} ended with ${result.code ?? result.signal}, not ${wanted}:\n${script}${result.stdout}${result.stderr}`,
    );
  }

  #compare(block: Block, options: ReadonlyMap<string, string>): void {
    if (this.#last === undefined)
      throw new Error(`${placeOf(block)}: nothing ran before this output`);
    const actual = options.has("stderr") ? this.#last.stderr : this.#last.stdout;
    const fault = outputFault(block.text, actual, { exact: options.has("exact") });
    if (fault !== undefined) throw new Error(`${placeOf(block)}: ${fault}`);
  }
}

/** The lines of a block that run: those up to `lines`, a line that ends in a backslash with what follows it. */
export function scriptOf(block: Block): string {
  const lines = block.mark?.options.get("lines");
  if (lines === undefined) return block.text;
  return `${block.text.split("\n").slice(0, Number(lines)).join("\n")}\n`;
}
