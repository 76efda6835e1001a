/**
 * Compares what a command wrote with what a document shows. Numbers differ from machine to machine and ids from run to run,
 * so both sides are first put into one form:
 *
 * 1. job ids that a server or a client picked become `ID`;
 * 2. numbers (`1,536`, `0.25`, `1e-5`) become `#`, with them ports, times of day and versions;
 * 3. units after a number lose their scale: `# kB` is `# B`, `# ms` is `# s`;
 * 4. runs of blanks become one, so that columns may be wider; blanks at the ends and empty lines go,
 *    as do the lines with which `npm run` says what it runs (`> ...`).
 *
 * A line `...` of the document stands for any lines, `...` at the end of a line for the rest of it. In the exact form only
 * the fourth and `...` hold.
 */
export interface CompareOptions {
  readonly exact: boolean;
}

/** Says where `actual` departs from `expected`; undefined when it does not. */
export function outputFault(
  expected: string,
  actual: string,
  options: CompareOptions,
): string | undefined {
  const want = normalLines(expected, options);
  const have = normalLines(actual, options);
  const reached = furthest(want, have);
  if (reached === undefined) return undefined;
  const [wanted, had] = reached;
  return [
    `the document shows   ${wanted < want.length ? JSON.stringify(want[wanted]) : "no more lines"}`,
    `the command wrote    ${had < have.length ? JSON.stringify(have[had]) : "no more lines"}`,
    "all of it:",
    actual,
  ].join("\n");
}

export function normalLines(text: string, options: CompareOptions): string[] {
  return text
    .split("\n")
    .map((line) => (options.exact ? line : normalLine(line)).replace(/\s+/g, " ").trim())
    .filter((line) => line !== "" && !line.startsWith("> "));
}

function normalLine(line: string): string {
  return line
    .replace(/\b(?:\d{8}-\d{6}-[0-9a-f]{6}|job-[0-9a-z]+-[0-9a-f]{10})\b/g, "ID")
    .replace(/\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?/g, "#")
    .replace(/# ?[kMGT]?i?B\b/g, "# B")
    .replace(/# ?(?:ns|us|ms|s|min)\b/g, "# s");
}

/** Undefined when all lines match, else how far the lines of both were matched at best. */
function furthest(want: readonly string[], have: readonly string[]): [number, number] | undefined {
  const seen = new Set<number>();
  let best: [number, number] = [0, 0];
  const matches = (i: number, j: number): boolean => {
    const key = i * (have.length + 1) + j;
    if (seen.has(key)) return false;
    seen.add(key);
    if (i + j > best[0] + best[1]) best = [i, j];
    if (i === want.length) return j === have.length;
    const line = want[i] ?? "";
    if (line === "...") return matches(i + 1, j) || (j < have.length && matches(i, j + 1));
    return j < have.length && lineMatches(line, have[j] ?? "") && matches(i + 1, j + 1);
  };
  return matches(0, 0) ? undefined : best;
}

function lineMatches(want: string, have: string): boolean {
  return want.endsWith("...") ? have.startsWith(want.slice(0, -3).trimEnd()) : want === have;
}
