/** Neighbouring values of a series as one. */
export interface Bucket {
  /** Where the first and the last of them are. */
  readonly first: number;
  readonly last: number;
  readonly min: number;
  readonly max: number;
  readonly mean: number;
  readonly count: number;
}

interface Slot {
  first: number;
  last: number;
  min: number;
  max: number;
  sum: number;
  count: number;
}

/**
 * Values over steps in bounded memory: when all slots are taken, neighbours are merged, and each slot holds twice as many
 * from then on. Values that are not finite leave a gap.
 */
export class Series {
  readonly #maxSlots: number;
  readonly #slots: Slot[] = [];
  #perSlot = 1;
  #firstFinite: number | undefined;
  #lastValue: number | undefined;
  #longest: { readonly at: number; readonly value: number } | undefined;

  /** @param maxSlots even; several for each column of the widest chart */
  constructor(maxSlots = 2048) {
    this.#maxSlots = maxSlots;
  }

  /** Adds a value behind all others. */
  push(at: number, value: number): void {
    this.#lastValue = value;
    if (!Number.isFinite(value)) return;
    this.#firstFinite ??= value;
    if (this.#longest === undefined || value > this.#longest.value) this.#longest = { at, value };
    const slot = this.#slots.at(-1);
    if (slot !== undefined && slot.count < this.#perSlot) {
      slot.last = at;
      slot.min = Math.min(slot.min, value);
      slot.max = Math.max(slot.max, value);
      slot.sum += value;
      slot.count += 1;
      return;
    }
    if (this.#slots.length >= this.#maxSlots) this.#halve();
    this.#slots.push({ first: at, last: at, min: value, max: value, sum: value, count: 1 });
  }

  /** The first finite value. */
  get first(): number | undefined {
    return this.#firstFinite;
  }

  /** The last value, finite or not. */
  get last(): number | undefined {
    return this.#lastValue;
  }

  /** The largest value, and where it first was. */
  get largest(): { readonly at: number; readonly value: number } | undefined {
    return this.#longest;
  }

  get buckets(): Bucket[] {
    return this.#slots.map(({ first, last, min, max, sum, count }) => ({
      first,
      last,
      min,
      max,
      mean: sum / count,
      count,
    }));
  }

  #halve(): void {
    const slots = this.#slots.splice(0);
    for (let i = 0; i < slots.length; i += 2) {
      const a = slots[i];
      const b = slots[i + 1];
      if (a === undefined) continue;
      if (b !== undefined) {
        a.last = b.last;
        a.min = Math.min(a.min, b.min);
        a.max = Math.max(a.max, b.max);
        a.sum += b.sum;
        a.count += b.count;
      }
      this.#slots.push(a);
    }
    this.#perSlot *= 2;
  }
}
