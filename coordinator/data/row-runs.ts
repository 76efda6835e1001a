/** Rows that follow each other, read together. */
export interface RowRun {
  readonly start: number;
  end: number;
  /** Position of the run's first row in the result. */
  readonly at: number;
}

/** Joins rows that follow each other. */
export function runsOf(rows: readonly number[]): RowRun[] {
  const runs: RowRun[] = [];
  rows.forEach((row, at) => {
    const last = runs.at(-1);
    if (last !== undefined && last.end === row) last.end += 1;
    else runs.push({ start: row, end: row + 1, at });
  });
  return runs;
}
