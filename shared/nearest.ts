/** Names longer than this are compared by their start, so that a huge key costs nothing. */
const MAX_COMPARED = 64;

/** Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`. */
export function editDistance(a: string, b: string): number {
  // Row i holds the distances of a's first i characters to every start of b; a swap looks two rows back.
  let beforePrevious: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = at(previous, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      let best = Math.min(replaced, at(previous, j) + 1, at(row, j - 1) + 1);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        best = Math.min(best, at(beforePrevious, j - 2) + 1);
      }
      row.push(best);
    }
    beforePrevious = previous;
    previous = row;
  }
  return at(previous, b.length);
}

/**
 * Up to `limit` of `candidates` that `name` may have been meant to be, nearest first, ties in the given order.
 * Case, `-` and `_` cost nothing; a name further off than 40% of its length (but one slip, if a character stays) is
 * not offered.
 */
export function nearestNames(name: string, candidates: Iterable<string>, limit = 3): string[] {
  const wanted = fold(name);
  const found: { name: string; distance: number }[] = [];
  for (const candidate of candidates) {
    const folded = fold(candidate);
    const longer = Math.max(wanted.length, folded.length);
    const allowed = Math.min(longer - 1, Math.max(1, Math.floor(0.4 * longer)));
    if (Math.abs(wanted.length - folded.length) > allowed) continue;
    const distance = editDistance(wanted, folded);
    if (distance <= allowed) found.push({ name: candidate, distance });
  }
  return found
    .sort((a, b) => a.distance - b.distance)
    .slice(0, limit)
    .map((entry) => entry.name);
}

/** `; did you mean "a" or "b"?` for the nearest names, or an empty string when none is near. */
export function didYouMean(name: string, candidates: Iterable<string>, limit = 3): string {
  const names = nearestNames(name, candidates, limit).map((n) => JSON.stringify(n));
  return names.length === 0 ? "" : `; did you mean ${names.join(" or ")}?`;
}

function fold(name: string): string {
  return name.slice(0, MAX_COMPARED).replace(/[-_]/g, "").toLowerCase();
}

function at(row: readonly number[], index: number): number {
  return row[index] ?? Number.POSITIVE_INFINITY;
}
