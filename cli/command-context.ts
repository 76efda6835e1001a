import type { ProgressStream } from "./progress.ts";

/** Where a command writes: results to stdout, all that is said on the way to stderr. */
export interface CommandContext {
  readonly stdout: {
    write(text: string): unknown;
    readonly isTTY?: boolean;
    readonly columns?: number;
  };
  readonly stderr: ProgressStream;
}

export const PROCESS_CONTEXT: CommandContext = {
  stdout: process.stdout,
  stderr: process.stderr,
};

export function printLines(
  stream: { write(text: string): unknown },
  lines: readonly string[],
): void {
  if (lines.length > 0) stream.write(`${lines.join("\n")}\n`);
}
