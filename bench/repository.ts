import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Folder that holds package.json, seen from this file's compiled form as well. */
export const REPOSITORY = findRepository();

/** A file of the source tree; dist/ holds no copies of what is not TypeScript. */
export function sourcePath(relative: string): string {
  return join(REPOSITORY, relative);
}

/** Commit that is checked out, with `+` where tracked files differ from it. `unknown` outside a git repository. */
export function commit(): string {
  const git = (...args: string[]): string =>
    execFileSync("git", args, {
      cwd: REPOSITORY,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  try {
    const hash = git("rev-parse", "--short=12", "HEAD");
    return git("status", "--porcelain", "--untracked-files=no") === "" ? hash : `${hash}+`;
  } catch {
    return "unknown";
  }
}

function findRepository(): string {
  const start = dirname(fileURLToPath(import.meta.url));
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return folder;
    if (dirname(folder) === folder) throw new Error(`no package.json above ${start}`);
  }
}
