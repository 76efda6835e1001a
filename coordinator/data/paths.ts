import { constants, type Stats } from "node:fs";
import { access, lstat, realpath, stat } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from "node:path";
import { type Fault, InvalidArgumentError } from "../../shared/errors.ts";
import type { DataSourceSpec, JobSpec } from "../../shared/job/job-spec.ts";
import { sourceKey } from "../../shared/job/sequences.ts";
import { quote } from "../../shared/quote.ts";
import { tokenizes } from "./tokenizes.ts";

/** A path of a job spec that its policy allows. */
export interface ResolvedPath {
  /** Field of the spec: `data.safetensors.path`. */
  readonly field: string;
  /** As the spec has it. */
  readonly given: string;
  /** Absolute, without links (of an output: up to its folder). */
  readonly real: string;
}

/** Which files a job may name. Only the coordinator opens files. */
export interface PathPolicy {
  /**
   * An existing, readable, regular file.
   * @throws InvalidArgumentError with one fault at `field`
   */
  input(given: string, field: string): Promise<ResolvedPath>;
  /**
   * A file to write in an existing folder; it may exist, and is replaced.
   * @throws InvalidArgumentError with one fault at `field`
   */
  output(given: string, field: string): Promise<ResolvedPath>;
  /**
   * A folder to write files into, in an existing one; it may exist itself.
   * @throws InvalidArgumentError with one fault at `field`
   */
  outputFolder(given: string, field: string): Promise<ResolvedPath>;
}

/** The files of a source of rows; undefined where it has none, or where the path is at fault. */
export interface SourcePaths {
  readonly file: ResolvedPath | undefined;
  readonly tokenizer: ResolvedPath | undefined;
}

/** The files that a job reads and writes. */
export interface JobPaths {
  readonly data: SourcePaths;
  readonly evaluation: SourcePaths;
  readonly init: ResolvedPath | undefined;
  readonly output: ResolvedPath | undefined;
}

/** Any path that this process may use, relative ones to `folder`: for a user's own process. */
export function anyPath(folder: string): PathPolicy {
  const policy =
    (kind: FileKind) =>
    (given: string, field: string): Promise<ResolvedPath> =>
      checked(given, field, async () => {
        const real = await kind.realPath(resolve(folder, given));
        await kind.check(real);
        return real;
      });
  return { input: policy(INPUT), output: policy(OUTPUT), outputFolder: policy(OUTPUT_FOLDER) };
}

/** Paths inside `root` alone, relative ones to it: for a daemon that serves others. */
export function insideRoot(root: string): PathPolicy {
  const policy =
    (kind: FileKind) =>
    (given: string, field: string): Promise<ResolvedPath> =>
      checked(given, field, async () => {
        if (given.split(/[/\\]/).includes("..")) {
          throw new PathFault('must not have ".." in it; give a path inside the data root');
        }
        const realRoot = await realpath(root).catch(() => {
          throw new PathFault("the coordinator's data root does not exist; ask who runs it");
        });
        const path = resolve(realRoot, given);
        // What lies outside is refused in the same words whether it exists or not.
        const mayTell = isInside(path, realRoot) || isInside(path, resolve(root));
        const real = await kind.realPath(path).catch((error: unknown) => {
          throw mayTell ? error : new PathFault(OUTSIDE);
        });
        if (!isInside(real, realRoot)) throw new PathFault(OUTSIDE);
        await kind.check(real);
        return real;
      });
  return { input: policy(INPUT), output: policy(OUTPUT), outputFolder: policy(OUTPUT_FOLDER) };
}

/** No path at all: for a daemon without a data root. */
export function noPaths(): PathPolicy {
  const refuse = (given: string, field: string): Promise<ResolvedPath> =>
    checked(given, field, () => Promise.reject(new PathFault(NO_ROOT)));
  return { input: refuse, output: refuse, outputFolder: refuse };
}

/** Resolves every path of a job, with all faults rather than the first. */
export async function resolveJobPaths(
  spec: JobSpec,
  policy: PathPolicy,
): Promise<{ readonly paths: JobPaths; readonly faults: readonly Fault[] }> {
  const faults: Fault[] = [];
  const attempt = async (
    given: string | undefined,
    field: string,
    kind: keyof PathPolicy,
  ): Promise<ResolvedPath | undefined> => {
    if (given === undefined) return undefined;
    try {
      return await policy[kind](given, field);
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      faults.push(...error.faults);
      return undefined;
    }
  };
  const attemptSource = async (source: DataSourceSpec, at: string): Promise<SourcePaths> => ({
    file: await attempt(pathOf(source), `${at}.${sourceKey(source)}.path`, "input"),
    tokenizer: await attempt(tokenizerOf(source), `${at}.text.tokenizer`, "input"),
  });
  const data = await attemptSource(spec.data, "data");
  const heldOut = spec.eval.every > 0 ? spec.eval.data : undefined;
  const evaluation = heldOut === undefined ? NO_FILES : await attemptSource(heldOut, "eval.data");
  const init = await attempt(spec.init.safetensors, "init.safetensors", "input");
  const output = await attempt(spec.output.safetensors, "output.safetensors", "output");
  const read = [data.file, data.tokenizer, evaluation.file, evaluation.tokenizer];
  if (output !== undefined && read.some((path) => path?.real === output.real)) {
    faults.push({
      path: output.field,
      message: `${quote(output.given)} is the file that the data comes from; write to another one`,
    });
  }
  return { paths: { data, evaluation, init, output }, faults };
}

const NO_FILES: SourcePaths = { file: undefined, tokenizer: undefined };

/** The file that a source reads its rows from. */
function pathOf(source: DataSourceSpec): string | undefined {
  if ("safetensors" in source) return source.safetensors.path;
  if ("text" in source) return source.text.path;
  return "tokens" in source ? source.tokens.path : undefined;
}

/** The tokenizer's file, where it is not built in. */
function tokenizerOf(source: DataSourceSpec): string | undefined {
  return tokenizes(source) ? source.text.tokenizer : undefined;
}

const OUTSIDE = "lies outside the data root; give a path inside it";
const NO_ROOT =
  "this coordinator has no data root, so jobs can name no files; start it with --data-root DIR, or use data.random or data.stream and no output";

/** What is wrong with a path, said without it. */
class PathFault extends Error {}

async function checked(
  given: string,
  field: string,
  locate: () => Promise<string>,
): Promise<ResolvedPath> {
  try {
    if (given.includes("\0")) throw new PathFault("must have no NUL character");
    if (given === "") throw new PathFault("is empty");
    return { field, given, real: await locate() };
  } catch (error) {
    const message = `${quote(given)}: ${reasonOf(error)}`;
    throw new InvalidArgumentError([{ path: field, message }], { cause: error });
  }
}

interface FileKind {
  /** Follows links, without a look at what the path leads to. */
  realPath(path: string): Promise<string>;
  check(real: string): Promise<void>;
}

/** An existing file that can be read. A pipe or device is refused before an open could hang on it. */
const INPUT: FileKind = {
  realPath: (path) => realpath(path),
  async check(real) {
    const info = await stat(real);
    if (info.isDirectory()) throw new PathFault("is a folder; name a file");
    if (!info.isFile()) throw new PathFault("is no regular file");
    await access(real, constants.R_OK);
  },
};

/** A file to come, or to be replaced, in an existing folder. Links are followed up to the folder. */
const OUTPUT: FileKind = {
  realPath: inExistingFolder,
  async check(real) {
    if (!(await stat(dirname(real))).isDirectory()) throw new PathFault("its folder is a file");
    const existing = await statOrNothing(real);
    if (existing?.isDirectory()) throw new PathFault("is a folder; name a file");
    if (existing?.isSymbolicLink()) throw new PathFault("is a link; name the file itself");
    if (existing !== undefined && !existing.isFile()) throw new PathFault("is no regular file");
    await access(dirname(real), constants.W_OK);
  },
};

/** A folder to come, or to put files into. Links are followed up to the one that it is in. */
const OUTPUT_FOLDER: FileKind = {
  realPath: inExistingFolder,
  async check(real) {
    if (!(await stat(dirname(real))).isDirectory()) throw new PathFault("its folder is a file");
    const existing = await statOrNothing(real);
    if (existing?.isSymbolicLink()) throw new PathFault("is a link; name the folder itself");
    if (existing !== undefined && !existing.isDirectory())
      throw new PathFault("is no folder; name one, or one to come");
    await access(existing === undefined ? dirname(real) : real, constants.W_OK);
  },
};

async function inExistingFolder(path: string): Promise<string> {
  const folder = await realpath(dirname(path)).catch((error: unknown) => {
    throw codeOf(error) === "ENOENT" ? new PathFault("its folder does not exist") : error;
  });
  return join(folder, basename(path));
}

async function statOrNothing(path: string): Promise<Stats | undefined> {
  return lstat(path).catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  });
}

function isInside(path: string, root: string): boolean {
  const rest = relative(root, path);
  return rest !== ".." && !rest.startsWith(`..${sep}`) && !isAbsolute(rest);
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error ? String(error.code) : undefined;
}

function reasonOf(error: unknown): string {
  if (error instanceof PathFault) return error.message;
  switch (codeOf(error)) {
    case "ENOENT":
      return "no such file";
    case "ENOTDIR":
      return "a part of it is a file, not a folder";
    case "EACCES":
    case "EPERM":
      return "no permission to use it";
    case "ELOOP":
      return "has links that lead in a circle";
    case "ENAMETOOLONG":
      return "is longer than the file system allows";
    default:
      return `cannot be used: ${codeOf(error) ?? "unknown error"}`;
  }
}
