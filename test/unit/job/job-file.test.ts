import { expect } from "chai";
import fc from "fast-check";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import { locateFaults, parseJobFile } from "../../../shared/job/job-file.ts";
import { resolveJobSpec } from "../../../shared/job/resolve.ts";

function errorOf(text: string): string[] {
  try {
    parseJobFile(text, "job.yaml");
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error.faults.map((fault) => fault.message);
    throw error;
  }
  return [];
}

const FILE = `# the reference program
name: tiny
model: { feedForward: { dim: 48, hidden: 80 } }
mesh: { dataParallel: auto, tensorParallel: 2 }
optimizer: { adamw: { lr: 3e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01 } }
plan:
  w1: colwise
  "layers.*.w2": rowwise(output=shard(1))
data:
  batchSize: 6
  safetensors: { path: data.safetensors }
steps: 10
`;

describe("a job file", () => {
  it("is YAML 1.2 and resolves", () => {
    const result = resolveJobSpec(parseJobFile(FILE, "job.yaml").value);
    if (!result.ok) throw new Error(JSON.stringify(result.faults));
    expect(result.spec).to.deep.include({
      name: "tiny",
      mesh: { dataParallel: "auto", tensorParallel: 2 },
      plan: { w1: "colwise", "layers.*.w2": "rowwise(output=shard(1))" },
      steps: 10,
    });
  });

  it("is JSON too, indented by tabs", () => {
    const value = {
      name: 'a\u2028"\\',
      model: { feedForward: {} },
      data: { random: {} },
      steps: 1e3,
    };
    const text = JSON.stringify(value, null, "\t");
    expect(parseJobFile(text, "job.json").value).to.deep.equal(value);
  });

  it("keeps YAML 1.1 words, dates, octals and merge keys as what YAML 1.2 says", () => {
    const { value } = parseJobFile("a: yes\nb: 2001-01-01\nc: 012\n<<: {d: 1}\n", "job.yaml");
    expect(value).to.deep.equal({ a: "yes", b: "2001-01-01", c: 12, "<<": { d: 1 } });
  });

  const bad: readonly [string, string, string][] = [
    ["a repeated key", "steps: 1\nsteps: 2\n", "job.yaml:2:1: Map keys must be unique"],
    ["a list left open", "plan: [a,\n b", "job.yaml:2:3: Flow sequence in block collection"],
    ["a tag", "a: !!binary aGk=", "job.yaml:1:4: Unresolved tag: tag:yaml.org,2002:binary"],
    [
      "a key that is a list",
      "? [a]\n: 1",
      "job.yaml:1:3: With stringKeys, all keys must be strings",
    ],
    ["a second document", "a: 1\n---\nb: 2\n", "job.yaml:2:1: Source contains multiple documents"],
    ["an alias without its anchor", "a: *x", "job.yaml: Unresolved alias"],
    ["a tab as indentation", "a:\n\tb: 1", "job.yaml:2:1: Tabs are not allowed as indentation"],
  ];
  for (const [what, text, message] of bad) {
    it(`is refused for ${what}, with line and column`, () => {
      expect(errorOf(text)[0]?.slice(0, message.length)).to.equal(message);
    });
  }

  it("is refused for aliases that multiply, at once", () => {
    const lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"];
    for (let i = 1; i < 30; i++) {
      lines.push(`a${i}: &a${i} [${Array.from({ length: 10 }, () => `*a${i - 1}`).join(", ")}]`);
    }
    expect(errorOf(lines.join("\n"))[0]).to.match(/^job\.yaml: Excessive alias count/);
  });

  it("is refused for deep nesting with few faults", () => {
    const faults = errorOf("[".repeat(3_000));
    expect(faults.length).to.be.within(1, 10);
  });

  it("is refused past its size limit", () => {
    expect(errorOf(" ".repeat(2 ** 24 + 1))).to.deep.equal([
      "job.yaml: 16777217 characters; a job file has at most 16777216",
    ]);
  });

  it("says where the field of a fault stands, or what is around it", () => {
    const text = "model:\n  feedForward:\n    dim: 0\nplan:\n  'a\"b': 5\ndata: { random: {} }\n";
    const file = parseJobFile(text, "job.yaml");
    const result = resolveJobSpec(file.value);
    if (result.ok) throw new Error("no faults");
    expect(locateFaults(file, result.faults).map((fault) => fault.message)).to.deep.equal([
      "is 0; must be an integer at least 1 and at most 16777216 (job.yaml:3:10)",
      "is 5; must be a string of 1 to 512 bytes (job.yaml:5:10)",
    ]);
    expect(file.locate("data.random.length")).to.equal("job.yaml:6:17");
    expect(file.locate("mesh.dataParallel")).to.equal("job.yaml:1:1");
  });

  it("never throws anything but InvalidArgumentError", () => {
    const token = fc.constantFrom(
      "a",
      ": ",
      "\n",
      "  ",
      "- ",
      "[",
      "]",
      "{",
      "}",
      "&x ",
      "*x",
      "!t ",
      "|",
      ">",
      "'",
      '"',
      "#",
      "%",
      "---",
      "? ",
      ",",
      "\t",
      "0",
      "~",
      "\u0000",
      "<<",
    );
    fc.assert(
      fc.property(fc.array(token, { maxLength: 30 }), (tokens) => {
        const text = tokens.join("");
        if (errorOf(text).length > 0) return;
        const file = parseJobFile(text, "job.yaml");
        const result = resolveJobSpec(file.value);
        if (!result.ok) locateFaults(file, result.faults);
      }),
      { numRuns: 1000 },
    );
  });
});
