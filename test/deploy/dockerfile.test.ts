import { readFileSync } from "node:fs";
import { expect } from "chai";
import { DockerfileParser, type Instruction } from "dockerfile-ast";
import { validate } from "dockerfile-utils";
import { rootPath } from "../support/deploy.ts";

const TEXT = readFileSync(rootPath("deploy/Dockerfile"), "utf8");
const IMAGES = ["cpu", "cuda"];

interface Stage {
  readonly name: string;
  readonly base: string;
  /** Without FROM. */
  readonly instructions: readonly Instruction[];
}

/** What follows the keyword, flags and all; continued lines as one. */
const words = (instruction: Instruction): string =>
  instruction
    .getTextContent()
    .slice(instruction.getInstruction().length)
    .replaceAll(/\\\n\s*(#[^\n]*\n\s*)*/g, "")
    .replaceAll(/\s+/g, " ")
    .trim();

function stages(): Stage[] {
  const found: Stage[] = [];
  const own: Instruction[][] = [];
  for (const instruction of DockerfileParser.parse(TEXT).getInstructions()) {
    if (instruction.getKeyword() !== "FROM") {
      own.at(-1)?.push(instruction);
      continue;
    }
    const [, base = "", name = ""] = /^(\S+) AS (\S+)$/.exec(words(instruction)) ?? [];
    const instructions: Instruction[] = [];
    own.push(instructions);
    found.push({ name, base, instructions });
  }
  return found;
}

function stage(name: string): Stage {
  const found = stages().find((candidate) => candidate.name === name);
  if (found === undefined) throw new Error(`no stage ${name}`);
  return found;
}

/** What the instructions of one kind in a stage say, in order. */
const all = (name: string, keyword: string): string[] =>
  stage(name)
    .instructions.filter((instruction) => instruction.getKeyword() === keyword)
    .map(words);

const EXEC_FORM = /^\["[^\]]+"\]$/;

describe("deploy/Dockerfile", () => {
  it("passes the validator of Docker's language server", () => {
    const findings = validate(TEXT).map(({ message, range }) => `${range.start.line}: ${message}`);
    expect(findings).to.deep.equal([]);
  });

  it("has a stage that builds and a target for each image", () => {
    expect(stages().map(({ name }) => name)).to.deep.equal(["build", ...IMAGES]);
  });

  it("starts from images of a version, which can be replaced", () => {
    const defaults = new Map(
      [...TEXT.matchAll(/^ARG (\w+_IMAGE)=(\S+)$/gm)].map(([, key, name]) => [key, name]),
    );
    for (const { base, name } of stages()) {
      const argument = /^\$\{(\w+)\}$/.exec(base)?.[1];
      expect(defaults.get(argument), name).to.match(/^docker\.io\/[\w/]+:[\w.-]*\d{2,}[\w.-]*$/);
    }
  });

  for (const name of IMAGES) {
    describe(`target ${name}`, () => {
      it("runs as a user by number, who is not root", () => {
        expect(all(name, "USER")).to.deep.equal(["1000:1000"]);
        const { instructions } = stage(name);
        const user = instructions.findIndex((one) => one.getKeyword() === "USER");
        const later = instructions.slice(user + 1).map((one) => one.getKeyword());
        expect(later).to.deep.equal(["HEALTHCHECK", "ENTRYPOINT", "CMD"]);
      });

      it("starts rankmesh without a shell, and asks for its health by doctor", () => {
        expect(all(name, "ENTRYPOINT")).to.deep.equal(['["rankmesh"]']);
        expect(all(name, "CMD")[0]).to.match(EXEC_FORM);
        expect(all(name, "HEALTHCHECK")[0]).to.match(
          /--timeout=5s .*CMD \["rankmesh", "doctor", "--health"\]$/,
        );
      });

      it("takes from the build what was put out for it, and nothing from the host", () => {
        expect(all(name, "ADD")).to.deep.equal([]);
        for (const copy of all(name, "COPY"))
          expect(copy).to.match(/^--from=build \/out\/\w+\/ \/\S+\/$/);
      });

      it("gives its user folders of its own, and nothing of the program", () => {
        const runs = all(name, "RUN").join("\n");
        const folders = name === "cuda" ? "/data /cache" : "/data";
        expect(/install -d -o 1000 -g 1000 (.*)$/.exec(runs)?.[1]).to.equal(folders);
        expect(runs).not.to.match(/\bchown\b|\bchmod\b/);
      });

      it("installs no compiler and no package manager of Node's", () => {
        const runs = all(name, "RUN").join("\n");
        expect(runs).not.to.match(/\b(gcc|g\+\+|clang|build-essential|lib\w+-dev|npm|nodejs)\b/);
      });

      it("says title, version, revision and licences, which arguments set", () => {
        const { version } = JSON.parse(readFileSync(rootPath("package.json"), "utf8")) as {
          version: string;
        };
        const labels = all(name, "LABEL").join(" ");
        for (const key of ["title", "description", "version", "revision", "licenses"])
          expect(labels).to.include(`org.opencontainers.image.${key}=`);
        const args = all(name, "ARG");
        expect(args).to.include(`VERSION=${version}`);
        for (const key of ["VERSION", "REVISION", "LICENSES"]) {
          expect(
            args.some((arg) => arg.startsWith(`${key}=`)),
            key,
          ).to.equal(true);
          expect(labels).to.include(`="\${${key}}"`);
        }
      });
    });
  }

  it("installs Debian's packages without what they recommend, and without lists left behind", () => {
    const runs = stages()
      .flatMap(({ name }) => all(name, "RUN"))
      .filter((run) => run.includes("apt-get install"));
    expect(runs).to.have.length(2);
    for (const run of runs)
      expect(run).to.match(
        /apt-get update && apt-get install -y --no-install-recommends .* && rm -rf \/var\/lib\/apt\/lists\/\*/,
      );
  });

  it("installs npm's packages as locked, runs none of their scripts, and copies the manifest before the sources", () => {
    const install = all("build", "RUN").find((run) => run.startsWith("npm ci"));
    expect(install).to.include("--ignore-scripts");
    expect(all("build", "COPY")).to.deep.equal(["package.json package-lock.json ./", ". ."]);
  });

  it("is built from a context that lists what is let in", () => {
    const lines = readFileSync(rootPath(".dockerignore"), "utf8")
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#"));
    expect(lines[0]).to.equal("*");
    const references = JSON.parse(readFileSync(rootPath("cli/tsconfig.json"), "utf8")) as {
      references: { path: string }[];
    };
    const folders = references.references.map(({ path }) => `!${path.replace("../", "")}`);
    expect(lines).to.include.members([...folders, "!cli", "!protos", "!scripts", "!LICENSE"]);
    for (const line of lines.slice(1)) expect(line).to.match(/^(!|\*\*\/)/);
  });
});
