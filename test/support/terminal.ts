import { EventEmitter } from "node:events";

/** A line as the program ended it, and how it is broken over the screen. */
type Line = string[];

/**
 * A terminal as far as redrawn lines need one: it wraps, scrolls, moves up, erases, and wraps anew when it becomes
 * narrower or wider, as most do. Colours are dropped. Knows characters of one column only.
 */
export class FakeTerminal extends EventEmitter {
  readonly isTTY = true;
  columns: number;
  rows: number;
  /** All that was ever written, as it came. */
  raw = "";
  /** Cells of every line from the first on; a line may take several rows. */
  #lines: Line[] = [[]];
  #line = 0;
  #column = 0;

  constructor(columns: number, rows: number) {
    super();
    this.columns = columns;
    this.rows = rows;
  }

  resize(columns: number, rows: number): void {
    this.columns = columns;
    this.rows = rows;
    this.emit("resize");
  }

  /** What is to be read, scrolled up or not. */
  get text(): string {
    return this.#lines.map((line) => line.join("").trimEnd()).join("\n");
  }

  write(text: string): void {
    this.raw += text;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what terminals are told by
    for (const [part] of text.matchAll(/\x1b\[[?0-9;]*[A-Za-z]|[\s\S]/gu)) {
      if (part.startsWith("\x1b")) this.#control(part);
      else if (part === "\n") this.#newLine();
      else if (part === "\r") this.#column -= this.#column % this.columns;
      else this.#put(part);
    }
  }

  #put(character: string): void {
    const line = this.#lines[this.#line] ?? [];
    while (line.length < this.#column) line.push(" ");
    line[this.#column] = character;
    this.#column += 1;
  }

  #newLine(): void {
    this.#line += 1;
    this.#column = 0;
    if (this.#lines[this.#line] === undefined) this.#lines.push([]);
  }

  #control(sequence: string): void {
    const count = Number(/\d+/.exec(sequence)?.[0] ?? "1");
    const command = sequence.slice(1);
    if (/^\[\d*A$/.test(command)) this.#up(count);
    else if (command === "[K") (this.#lines[this.#line] ?? []).length = this.#column;
    else if (command === "[J") {
      (this.#lines[this.#line] ?? []).length = this.#column;
      this.#lines.length = this.#line + 1;
    } else if (!/m$|^\[\?2026[hl]$/.test(command)) {
      throw new Error(`a terminal of tests does not know ${JSON.stringify(sequence)}`);
    }
  }

  /** By rows of the screen, not by lines; never above its top. */
  #up(count: number): void {
    const rows = this.#lines.flatMap((line, index) =>
      Array.from({ length: Math.max(1, Math.ceil(line.length / this.columns)) }, (_, part) => ({
        index,
        part,
      })),
    );
    const here = rows.findIndex(
      ({ index, part }) => index === this.#line && part === Math.floor(this.#column / this.columns),
    );
    const top = Math.max(0, rows.length - this.rows);
    const target = rows[Math.max(top, here - count)];
    if (target === undefined) throw new Error("the cursor is nowhere");
    this.#line = target.index;
    this.#column = target.part * this.columns;
  }
}
