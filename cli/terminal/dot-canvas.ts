/** What one cell's dots are drawn with. */
interface DotCell {
  /** Dots of a cell, across and down. */
  readonly across: number;
  readonly down: number;
  /** Bit of a dot. */
  bit(x: number, y: number): number;
  /** The character for a set of bits. */
  glyph(bits: number): string;
}

/** U+2800 and the dots 1-3, 7 of its left column, 4-6, 8 of its right one. */
const BRAILLE_BITS = [0x01, 0x02, 0x04, 0x40, 0x08, 0x10, 0x20, 0x80];
const BRAILLE: DotCell = {
  across: 2,
  down: 4,
  bit: (x, y) => BRAILLE_BITS[4 * x + y] ?? 0,
  glyph: (bits) => String.fromCharCode(0x2800 + bits),
};

const ASCII: DotCell = {
  across: 1,
  down: 2,
  bit: (_, y) => 1 << y,
  glyph: (bits) => " '.:"[bits] ?? " ",
};

/** A grid of dots, several to a character. Dot (0, 0) is at the left top. */
export class DotCanvas {
  /** Dots across and down. */
  readonly width: number;
  readonly height: number;
  readonly #columns: number;
  readonly #cell: DotCell;
  readonly #bits: Uint8Array;
  readonly #marks = new Map<number, string>();

  /** @param columns, rows in characters */
  constructor(columns: number, rows: number, unicode: boolean) {
    this.#cell = unicode ? BRAILLE : ASCII;
    this.#columns = columns;
    this.width = columns * this.#cell.across;
    this.height = rows * this.#cell.down;
    this.#bits = new Uint8Array(columns * rows);
  }

  /** Sets a dot; one outside is left out. */
  dot(x: number, y: number): void {
    const index = this.#index(x, y);
    if (index === undefined) return;
    const { across, down } = this.#cell;
    this.#bits[index] = (this.#bits[index] ?? 0) | this.#cell.bit(x % across, y % down);
  }

  /** Draws a line between two dots, both with it. */
  line(x0: number, y0: number, x1: number, y1: number): void {
    const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0));
    for (let i = 0; i <= steps; i++) {
      const t = steps === 0 ? 0 : i / steps;
      this.dot(Math.round(x0 + t * (x1 - x0)), Math.round(y0 + t * (y1 - y0)));
    }
  }

  /** Puts a text of one column over the cell of a dot. */
  mark(x: number, y: number, text: string): void {
    const index = this.#index(x, y);
    if (index !== undefined) this.#marks.set(index, text);
  }

  /** The rows from the top, `columns` wide each. @param dots how dots are painted */
  rows(dots: (text: string) => string = (text) => text): string[] {
    const lines: string[] = [];
    for (let start = 0; start < this.#bits.length; start += this.#columns) {
      let line = "";
      let run = "";
      for (let index = start; index < start + this.#columns; index++) {
        const mark = this.#marks.get(index);
        const bits = this.#bits[index] ?? 0;
        if (mark === undefined) {
          run += bits === 0 ? " " : this.#cell.glyph(bits);
          continue;
        }
        line += dots(run) + mark;
        run = "";
      }
      lines.push(line + dots(run));
    }
    return lines;
  }

  #index(x: number, y: number): number | undefined {
    if (!(x >= 0 && x < this.width && y >= 0 && y < this.height)) return undefined;
    const { across, down } = this.#cell;
    return Math.floor(y / down) * this.#columns + Math.floor(x / across);
  }
}
