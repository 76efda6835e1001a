/** Every command that documents show, run or not, and what is wrong with it. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { parse } from "yaml";
import { usageFault } from "./command-line.ts";
import { blocksOf, ROOT } from "./documents.ts";
import { commandsOf } from "./shell-words.ts";

/** Programs that documents call beside `npx rankmesh` and `npm`. What they are given is checked only by blocks that run. */
const OTHER_PROGRAMS: ReadonlySet<string> = new Set([
  "apt-get",
  "cd",
  "cmp",
  "command",
  "cp",
  "curl",
  "docker",
  "echo",
  "export",
  "git",
  "grep",
  "grpcurl",
  "install",
  "journalctl",
  "kubectl",
  "ls",
  "mkdir",
  "node",
  "printf",
  "prometheus",
  "protoc",
  "python3",
  "sed",
  "ssh",
  "systemctl",
  "ufw",
  "useradd",
]);
/** Of files and folders that a clone has. */
const OWN_PATH = /^(?:deploy|docs|examples|protos|scripts)\/[\w./@-]*$/;
/** `npm` commands that are npm's own. */
const NPM_COMMANDS: ReadonlySet<string> = new Set(["ci", "install", "pack", "view"]);

export interface DocumentedCommand {
  /** `README.md:14` */
  readonly place: string;
  readonly words: readonly string[];
  /** The text names it, with or without its arguments. */
  readonly inPart: boolean;
}

/** Commands of `sh` blocks, and `npx rankmesh ...`, `rankmesh ...` and `npm run ...` in the text. */
export function documentedCommands(document: string): DocumentedCommand[] {
  const text = readFileSync(join(ROOT, document), "utf8");
  const inBlocks = blocksOf(document, text)
    .filter(({ language }) => language === "sh")
    .flatMap((block) =>
      commandsOf(block.text).map((words) => ({
        place: `${document}:${block.line}`,
        words,
        inPart: false,
      })),
    );
  return [...inBlocks, ...inProse(document, text)];
}

/** Alternatives (`status|watch`) come as a command each, words in brackets as if they stood without them. */
function inProse(document: string, text: string): DocumentedCommand[] {
  const commands: DocumentedCommand[] = [];
  let inFence = false;
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim().startsWith("```")) inFence = !inFence;
    if (inFence) continue;
    for (const [, code = ""] of line.matchAll(
      /`((?:npx )?rankmesh [^`]+|npm (?:run|test)[^`]*)`/g,
    )) {
      const words = code.replace(/[[\]]/g, " ").replaceAll("\\|", "|").split(/\s+/).filter(Boolean);
      for (const each of alternatives(words))
        commands.push({ place: `${document}:${index + 1}`, words: each, inPart: true });
    }
  }
  return commands;
}

function alternatives(words: readonly string[]): string[][] {
  return words.reduce<string[][]>(
    (all, word) => all.flatMap((before) => word.split("|").map((each) => [...before, each])),
    [[]],
  );
}

/** Why a command cannot be right: its program, flags or files of this project are not there; undefined when nothing is wrong with it. */
export function commandFault(
  program: Command,
  { words, inPart }: DocumentedCommand,
): string | undefined {
  const [name = "", ...rest] = words;
  const path = rest.find((word) => OWN_PATH.test(word) && !existsSync(join(ROOT, word)));
  if (path !== undefined) return `${path} does not exist`;
  if (name === "rankmesh") return usageFault(program, rest, inPart);
  if (name === "npx") {
    const [tool = "", ...args] = rest;
    if (tool === "rankmesh") return usageFault(program, args, inPart);
    return existsSync(join(ROOT, "node_modules/.bin", tool))
      ? undefined
      : `npx ${tool} is not installed`;
  }
  if (name === "npm") return npmFault(program, rest);
  if (name === "docker" && rest[0] === "compose") return composeFault(rest.slice(1));
  return OTHER_PROGRAMS.has(name) ? undefined : `${name} is no program that documents call`;
}

/** Flags after `--` are those of the command that a script ends with, where that is one of ours. */
function npmFault(program: Command, words: readonly string[]): string | undefined {
  const [command = "", ...rest] = words;
  if (NPM_COMMANDS.has(command)) return undefined;
  const name = command === "run" ? rest[0] : command;
  const script = scripts()[name ?? ""];
  if (script === undefined) return `package.json has no script ${name ?? ""}`;
  const ours = /dist\/cli\/main\.js (.*)$/.exec(script)?.[1];
  const separator = words.indexOf("--");
  if (ours === undefined || separator < 0) return undefined;
  return usageFault(program, [...ours.split(" "), ...words.slice(separator + 1)]);
}

/** The file, its profiles and the service of `exec` and the like have to be there. */
function composeFault(words: readonly string[]): string | undefined {
  const rest = [...words];
  const profiles: string[] = [];
  let file = "docker-compose.yml";
  while (rest[0]?.startsWith("-") === true) {
    const [flag = "", value = ""] = rest.splice(0, 2);
    if (flag === "-f") file = value;
    else if (flag === "--profile") profiles.push(value);
    else return `docker compose ${flag}: documents use -f and --profile alone`;
  }
  const path = join(ROOT, file);
  if (!existsSync(path)) return `${file} does not exist`;
  const { services } = parse(readFileSync(path, "utf8"), { merge: true }) as {
    services: Readonly<Record<string, { profiles?: readonly string[] }>>;
  };
  const known = Object.values(services).flatMap((service) => service.profiles ?? []);
  const missing = profiles.find((profile) => !known.includes(profile));
  if (missing !== undefined) return `${file} has no profile ${missing}`;
  const [command = "", ...args] = rest;
  if (!["exec", "logs", "stop", "restart"].includes(command)) return undefined;
  const service = args.find((word) => !word.startsWith("-"));
  return service === undefined || service in services
    ? undefined
    : `${file} has no service ${service}`;
}

function scripts(): Readonly<Record<string, string>> {
  const text = readFileSync(join(ROOT, "package.json"), "utf8");
  return (JSON.parse(text) as { scripts: Record<string, string> }).scripts;
}
