import { textWidth } from "./text-width.ts";

/** The part of a terminal that redrawn lines need. */
export interface ScreenStream {
  write(text: string): unknown;
  readonly columns?: number;
  readonly rows?: number;
}

/** Terminals that know it show nothing of a frame before it is whole; others ignore it. */
const BEGIN_FRAME = "\x1b[?2026h";
const END_FRAME = "\x1b[?2026l";

/**
 * Lines at the end of a terminal's text that are drawn over and over. What was above them stays, and the last frame is part
 * of the text from then on. The terminal is in no mode of its own in between, so that nothing has to be undone.
 */
export class InPlaceScreen {
  readonly #stream: ScreenStream;
  #drawn: readonly string[] = [];

  constructor(stream: ScreenStream) {
    this.#stream = stream;
  }

  /** Columns and rows that a frame may take: one less each, so that no line wraps and none scrolls away. */
  get size(): { readonly columns: number; readonly rows: number } {
    const { columns = 80, rows = 24 } = this.#stream;
    // A terminal that does not know its size says 0.
    return { columns: Math.max(20, (columns || 80) - 1), rows: Math.max(3, (rows || 24) - 1) };
  }

  /** Puts the lines in place of the last ones. */
  draw(lines: readonly string[]): void {
    const up = this.#rowsAbove();
    const frame = lines.map((line) => `${line}\x1b[K\n`).join("");
    const back = up > 0 ? `\r\x1b[${up}A` : "\r";
    this.#stream.write(`${BEGIN_FRAME}${back}${frame}\x1b[J${END_FRAME}`);
    this.#drawn = lines;
  }

  /** Leaves what is drawn where it is: the next frame goes below. */
  forget(): void {
    this.#drawn = [];
  }

  /** Rows that the last frame takes now: a terminal that became narrower has wrapped its lines. */
  #rowsAbove(): number {
    const { columns = 80, rows = 24 } = this.#stream;
    const width = columns || 80;
    const taken = this.#drawn.reduce(
      (sum, line) => sum + Math.max(1, Math.ceil(textWidth(line) / width)),
      0,
    );
    return Math.min(taken, Math.max(1, (rows || 24) - 1));
  }
}
