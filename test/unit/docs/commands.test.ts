import { expect } from "chai";
import { runCli } from "../../support/cli.ts";
import { describedCommandLine, usageFault } from "../../support/command-line.ts";
import { commandFault, documentedCommands } from "../../support/documented-commands.ts";
import { documentPaths } from "../../support/documents.ts";
import { commandsOf } from "../../support/shell-words.ts";

describe("commands of README and docs", () => {
  const program = describedCommandLine();

  for (const document of documentPaths()) {
    it(`exist, with the flags that ${document} gives them`, () => {
      const faults = documentedCommands(document).flatMap((command) => {
        const fault = commandFault(program, command);
        return fault === undefined
          ? []
          : [`${command.place}: ${command.words.join(" ")}: ${fault}`];
      });
      expect(faults).to.deep.equal([]);
    });
  }

  it("are found: the README shows how to run, plan and deploy", () => {
    const shown = documentedCommands("README.md").map(({ words }) => words.join(" "));
    expect(shown).to.include("npm run quickstart");
    expect(shown).to.include("npx rankmesh run examples/feed-forward.yaml");
    expect(shown).to.include("rankmesh workers");
  });

  it("are checked against all commands that there are", async () => {
    const { stdout } = await runCli(["--help"]);
    const names = [...stdout.matchAll(/^ {2}([a-z]+)(?: |$)/gm)].map(([, name]) => name);
    expect(program.commands.map((command) => command.name()).sort()).to.deep.equal(
      names.filter((name) => name !== "help").sort(),
    );
  });

  for (const [line, fault] of [
    ["cp examples/feed-forward.yaml data", undefined],
    ["cp examples/nothing.yaml data", "examples/nothing.yaml does not exist"],
    ["kubectl apply -k deploy/k8s/none", "deploy/k8s/none does not exist"],
    ["docker compose --profile cpu up -d", undefined],
    ["docker compose --profile tpu up", "docker-compose.yml has no profile tpu"],
    ["docker compose -f deploy/none.yml up", "deploy/none.yml does not exist"],
    ["docker compose exec worker-9 rankmesh", "docker-compose.yml has no service worker-9"],
    ["npm run nothing", "package.json has no script nothing"],
    ["npm run quickstart -- --dim 64", undefined],
    ["npm run quickstart -- --dims 64", "rankmesh quickstart has no option --dims"],
    ["make all", "make is no program that documents call"],
  ] as const) {
    it(`says of "${line}": ${fault ?? "nothing"}`, () => {
      const command = { place: "", words: line.split(" "), inPart: false };
      expect(commandFault(program, command)).to.equal(fault);
    });
  }

  for (const [line, fault] of [
    ["run job.yaml --backend cpu", undefined],
    ["run job.yaml --backend=cpu", undefined],
    ["run", "rankmesh run takes 1 arguments, not 0"],
    ["run job.yaml other.yaml", "rankmesh run takes 1 arguments, not 2"],
    ["run job.yaml --back cpu", "rankmesh run has no option --back"],
    ["run job.yaml --backend", "rankmesh run --backend needs a value"],
    ["jobs list", "rankmesh has no command jobs"],
    ["job", "rankmesh job alone does nothing"],
    ["job stats ID", "rankmesh job has no command stats"],
    ["worker --name a", "rankmesh worker needs --coordinator"],
    ["job submit --help", undefined],
    ["--version", undefined],
  ] as const) {
    it(`says of "${line}": ${fault ?? "nothing"}`, () => {
      expect(usageFault(program, line.split(" "))).to.equal(fault);
    });
  }
});

describe("words of a shell script", () => {
  for (const [script, commands] of [
    ["npx rankmesh plan a.yaml  # says much\n", [["npx", "rankmesh", "plan", "a.yaml"]]],
    ["a \\\n  --b c\nd\n", [["a", "--b", "c"], ["d"]]],
    ["a && b | c; d &\n", [["a"], ["b"], ["c"], ["d"]]],
    ["X=1 sudo a > out 2>&1 < in\n", [["a"]]],
    [`a -d '{"b": "c d"}' "e f"\n`, [["a", "-d", '{"b": "c d"}', "e f"]]],
    ["cat > f <<'END'\nnot a command\nEND\na\n", [["cat"], ["a"]]],
    [
      'ID=$(a b)\nc "$(d (e))"\n',
      [
        ["a", "b"],
        ["d", "(e)"],
        ["c", "$(d (e))"],
      ],
    ],
    ["for i in 1 2; do a $i; done\n", [["a", "$i"]]],
  ] as const) {
    it(`are found in ${JSON.stringify(script)}`, () => {
      expect(commandsOf(script)).to.deep.equal(commands);
    });
  }
});
