/**
 * Fenced blocks of the documents, and the marks that say what a test does with them. A mark is an HTML comment on the line
 * before the fence:
 *
 * - `<!-- run -->`: bash runs the block (node a js or ts block), in order with the document's others, in one copy of the checkout.
 *   `needs=a,b`: programs, else skipped; `timeout=60`: seconds; `exit=1`: status it ends with; `lines=1`: only its first lines;
 *   `background`: goes on until the document ends; counts as started at its first line on stdout or, with `until=WORD`, when it
 *   has written that;
 *   `terminals`: a command a line, those of daemons as if each were in a terminal of its own;
 *   `checkout`: runs in the checkout itself, because it builds;
 *   `host=a`: not run with its document but by the test of two hosts, on that host.
 * - `<!-- run file=NAME -->`: the block is written to NAME. With `host=a,b` to both hosts.
 * - `<!-- output -->`: what the block run last wrote to stdout; `stderr`: to stderr; `exact`: numbers too (`expected-output.ts`).
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fixturePath } from "./fixtures.ts";

/** The checkout. */
export const ROOT = dirname(dirname(dirname(fixturePath("x"))));

export interface Mark {
  readonly kind: "run" | "output";
  /** `needs=a,b` as `needs` to `a,b`; a bare word to the empty text. */
  readonly options: ReadonlyMap<string, string>;
}

export interface Block {
  /** Path of its document from the root of the checkout. */
  readonly document: string;
  /** 1-based line of the first line inside the fence. */
  readonly line: number;
  readonly language: string;
  readonly text: string;
  readonly mark: Mark | undefined;
}

const OPTIONS: Readonly<Record<Mark["kind"], readonly string[]>> = {
  run: [
    "needs",
    "timeout",
    "exit",
    "lines",
    "checkout",
    "background",
    "terminals",
    "until",
    "host",
    "file",
  ],
  output: ["stderr", "exact"],
};

/** README.md, everything under docs/ and what lies beside the files of examples/ and deploy/: paths from the root. */
export function documentPaths(): string[] {
  const isText = (path: string) => path.endsWith(".md");
  const below = ["docs", "examples", "deploy"].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
      .map((name) => join(folder, name))
      .filter((path) => isText(path) && statSync(join(ROOT, path)).isFile()),
  );
  return ["README.md", "CONTRIBUTING.md", ...below.sort()];
}

/** Blocks in their order; an output is for the hosts of the block that wrote it. */
export function readBlocks(document: string): Block[] {
  let host: string | undefined;
  return blocksOf(document, readFileSync(join(ROOT, document), "utf8")).map((block) => {
    const { mark } = block;
    if (mark?.kind === "run") host = mark.options.get("host");
    if (mark?.kind !== "output" || host === undefined) return block;
    return { ...block, mark: { ...mark, options: new Map([...mark.options, ["host", host]]) } };
  });
}

/**
 * Blocks in their order. A fence inside of a list item loses the item's indentation.
 * @throws when a mark is not understood, or stands before something else than a fence
 */
export function blocksOf(document: string, text: string): Block[] {
  const blocks: Block[] = [];
  let mark: { readonly mark: Mark; readonly line: number } | undefined;
  let open:
    | { indent: string; fence: string; language: string; line: number; lines: string[] }
    | undefined;
  for (const [index, line] of text.split("\n").entries()) {
    if (open !== undefined) {
      if (line.trim() === open.fence) {
        const { language, lines } = open;
        const body = lines.map((each) => `${each}\n`).join("");
        blocks.push({ document, line: open.line, language, text: body, mark: mark?.mark });
        open = undefined;
        mark = undefined;
      } else {
        open.lines.push(
          line.startsWith(open.indent) ? line.slice(open.indent.length) : line.trimStart(),
        );
      }
      continue;
    }
    const fence = /^(\s*)(`{3,})(\w*)\s*$/.exec(line);
    if (fence !== null) {
      const [, indent = "", ticks = "", language = ""] = fence;
      open = { indent, fence: ticks, language, line: index + 2, lines: [] };
      continue;
    }
    if (mark !== undefined && line.trim() !== "") {
      throw new Error(
        `${document}:${mark.line}: a mark stands before ${JSON.stringify(line)}, not before a block`,
      );
    }
    const comment = /^\s*<!--\s*(run|output)\b(.*?)-->\s*$/.exec(line);
    if (comment !== null) {
      const [, kind = "", options = ""] = comment;
      const where = `${document}:${index + 1}`;
      mark = { mark: markOf(kind === "run" ? "run" : "output", options, where), line: index + 1 };
    }
  }
  if (open !== undefined) throw new Error(`${document}:${open.line - 1}: the block has no end`);
  if (mark !== undefined)
    throw new Error(`${document}:${mark.line}: no block comes after the mark`);
  return blocks;
}

function markOf(kind: Mark["kind"], text: string, where: string): Mark {
  const options = new Map<string, string>();
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const [name = "", value = ""] = word.split(/=(.*)/s);
    if (!OPTIONS[kind].includes(name)) {
      throw new Error(
        `${where}: ${kind} has no option ${name}; there are ${OPTIONS[kind].join(", ")}`,
      );
    }
    options.set(name, value);
  }
  return { kind, options };
}

/** Where a block is, for titles and errors: `README.md:14`. */
export function placeOf(block: Block): string {
  return `${block.document}:${block.line}`;
}
