import { type Document, isNode, LineCounter, parseDocument } from "yaml";
import { type Fault, InvalidArgumentError } from "../errors.ts";

/** Characters of a job file: a spec is small, and a parser's time grows faster than its text. */
const MAX_FILE_LENGTH = 16 * 2 ** 20;
/** Syntax errors listed; one slip of indentation brings dozens behind it. */
const MAX_SYNTAX_FAULTS = 10;
/** Values that aliases may stand for, together: enough for any spec, and no "billion laughs". */
const MAX_ALIASES = 100;

/** A parsed job file: its raw value for `resolveJobSpec`, and where its parts stand. */
export interface JobFile {
  readonly filename: string;
  readonly value: unknown;
  /** `job.yaml:12:3` of the field at a fault's path, or of what is nearest around it. */
  locate(path: string): string;
}

/**
 * Parses YAML 1.2 or JSON (which is YAML). Keys are unique strings; tags, merge keys and YAML 1.1 words mean nothing.
 * @throws InvalidArgumentError with line and column of each syntax error.
 */
export function parseJobFile(text: string, filename: string): JobFile {
  if (text.length > MAX_FILE_LENGTH) {
    throw new InvalidArgumentError(
      `${filename}: ${text.length} characters; a job file has at most ${MAX_FILE_LENGTH}`,
    );
  }
  const lineCounter = new LineCounter();
  const document = parse(text, filename, lineCounter);
  const at = (offset: number): string => {
    const { line, col } = lineCounter.linePos(offset);
    return `${filename}:${line}:${col}`;
  };
  // A warning means that something (a tag, a directive) was not understood; nothing is ignored silently.
  const problems = [...document.errors, ...document.warnings];
  if (problems.length > 0) {
    const shown = problems.slice(0, MAX_SYNTAX_FAULTS);
    throw new InvalidArgumentError(
      shown.map((problem) => ({
        path: "",
        message: `${at(problem.pos[0])}: ${firstLine(problem.message)}`,
      })),
    );
  }
  return {
    filename,
    value: toValue(document, filename),
    locate: (path) => at(offsetOf(document, segmentsOf(path))),
  };
}

/** `faults` with the place in the file behind each message. */
export function locateFaults(file: JobFile, faults: readonly Fault[]): Fault[] {
  return faults.map(({ path, message }) => ({
    path,
    message: path === "" ? message : `${message} (${file.locate(path)})`,
  }));
}

function parse(text: string, filename: string, lineCounter: LineCounter): Document.Parsed {
  try {
    return parseDocument(text, {
      version: "1.2",
      schema: "core",
      strict: true,
      uniqueKeys: true,
      stringKeys: true,
      merge: false,
      resolveKnownTags: false,
      prettyErrors: false,
      logLevel: "error", // quieter, and a second document in the file would be dropped without an error
      lineCounter,
    });
  } catch (error) {
    throw new InvalidArgumentError(`${filename}: ${messageOf(error)}`, { cause: error });
  }
}

function toValue(document: Document.Parsed, filename: string): unknown {
  try {
    return document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (error) {
    throw new InvalidArgumentError(`${filename}: ${messageOf(error)}`, { cause: error });
  }
}

function messageOf(error: unknown): string {
  return firstLine(error instanceof Error ? error.message : String(error));
}

function firstLine(message: string): string {
  return (message.split("\n", 1)[0] ?? "").slice(0, 200);
}

/** Keys and indices of a printed path; what is not understood ends it. */
function segmentsOf(path: string): (string | number)[] {
  const segments: (string | number)[] = [];
  for (const match of path.matchAll(
    /\.?([A-Za-z_$][\w$]*)|\[(\d+)\]|\[("(?:[^"\\]|\\["\\/bfnrt]|\\u[\da-f]{4})*")\]/gy,
  )) {
    const [, name, index, quoted] = match;
    if (name !== undefined) segments.push(name);
    else if (index !== undefined) segments.push(Number(index));
    else if (quoted !== undefined) segments.push(String(JSON.parse(quoted)));
  }
  return segments;
}

function offsetOf(document: Document.Parsed, segments: readonly (string | number)[]): number {
  for (let length = segments.length; length > 0; length--) {
    const node = document.getIn(segments.slice(0, length), true);
    if (isNode(node) && node.range) return node.range[0];
  }
  return document.contents?.range[0] ?? 0;
}
