import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Block, placeOf, ROOT } from "./documents.ts";
import { outputFault } from "./expected-output.ts";
import type { CommandResult, Host } from "./host.ts";

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
      const path = join(this.#folder, file);
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, block.text);
      return;
    }
    if (block.language !== "sh") throw new Error(`only sh blocks run, not ${block.language}`);
    const timeoutMs = Number(options.get("timeout") ?? "60") * 1000;
    const cwd = options.has("checkout") ? ROOT : this.#folder;
    const runOptions = { cwd, lastPath: this.#lastPath, timeoutMs };
    if (options.has("background")) {
      const command = this.#host.start(scriptOf(block), runOptions);
      const until = options.get("until");
      if (until === undefined) await command.firstLine(timeoutMs);
      else await command.waitFor(new RegExp(until), timeoutMs);
      return;
    }
    const result = await this.#host.run(scriptOf(block), runOptions);
    this.#last = result;
    const wanted = Number(options.get("exit") ?? "0");
    if (result.code !== wanted) {
      throw new Error(
        `${placeOf(block)} ended with ${result.code ?? result.signal}, not ${wanted}:\n${block.text}${result.stdout}${result.stderr}`,
      );
    }
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
