import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { JobResult } from "../../cli/job-result.ts";
import { jobFolder, runCli } from "../support/cli.ts";

/** Reordering float32 sums over ranks moves a loss by about 1e-6 of itself. */
const LOSS_TOL = 1e-5;

/** Five linear layers with and without bias, all kinds of activations, a residual and a gate. */
const MODEL = `
import { add, gelu, Linear, Module, mul, relu, scale, sigmoid, silu, sub, tanh } from "rankmesh";

class Block extends Module {
  constructor(dim, hidden) {
    super();
    this.up = new Linear(dim, hidden, { bias: true });
    this.gate = new Linear(dim, hidden);
    this.down = new Linear(hidden, dim, { bias: true });
  }
  forward(x) {
    const h = mul(gelu(this.up.call(x)), sigmoid(this.gate.call(x)));
    return add(x, tanh(this.down.call(h)));
  }
}

export default class Net extends Module {
  constructor() {
    super();
    this.blocks = [new Block(48, 24)];
    this.mid = new Linear(48, 36);
    this.head = new Linear(36, 48, { bias: true });
  }
  forward(x) {
    const h = silu(this.mid.call(relu(this.blocks[0].call(x))));
    return sub(this.head.call(h), scale(x, 0.5));
  }
}
`;

const CASES = [
  {
    mesh: [2, 2],
    job: {
      plan: { "blocks.*.up": "colwise", "blocks.*.gate": "colwise", "blocks.*.down": "rowwise" },
    },
  },
  {
    mesh: [1, 4],
    job: {
      plan: {
        "blocks.0.up": "rowwise",
        "blocks.0.down": "colwise(output=replicate)",
        mid: "colwise",
        head: "rowwise",
      },
    },
  },
  { mesh: [3, 1], job: { dataParallelSharding: "full" } },
  {
    mesh: [3, 2],
    job: { plan: { "*": "colwise", "blocks.*.*": "rowwise(input=replicate)" }, clipGradNorm: 0 },
  },
] as const;

describe("rankmesh run on a model file", function () {
  this.timeout(40_000);
  let folder: Awaited<ReturnType<typeof jobFolder>>;
  let alone: readonly (number | null)[] = [];

  before(async () => {
    // Far from any node_modules: the package's name resolves all the same.
    folder = await jobFolder("feedforward-mse");
    await writeFile(join(folder.path, "net.mjs"), MODEL);
    alone = await losses("alone", [1, 1], {});
  });
  after(() => folder.dispose());

  async function losses(
    name: string,
    [dataParallel, tensorParallel]: readonly [number, number],
    job: object,
  ): Promise<readonly (number | null)[]> {
    const file = await folder.write(`${name}.yaml`, {
      model: { module: "./net.mjs" },
      init: { seed: 7 },
      mesh: { dataParallel, tensorParallel },
      loss: "mse",
      optimizer: { adamw: { lr: 3e-3 } },
      data: { batchSize: 6, shuffle: true, safetensors: { path: "data.safetensors" } },
      steps: 12,
      ...job,
    });
    const json = join(folder.path, `${name}.json`);
    const { code, stderr } = await runCli(["run", file, "--json", json]);
    expect(code, stderr).to.equal(0);
    return (JSON.parse(await readFile(json, "utf8")) as JobResult).loss;
  }

  it("trains: every step has a loss of its own", () => {
    expect(alone).to.have.length(12);
    expect(new Set(alone).size).to.equal(12);
  });

  for (const [index, { mesh, job }] of CASES.entries()) {
    it(`gives the losses of one rank at ${mesh.join(" x ")} with ${JSON.stringify(job)}`, async () => {
      const got = await losses(`case-${index}`, mesh, job);
      alone.forEach((want, step) => {
        const distance = Math.abs(Number(got[step]) - Number(want)) / Math.abs(Number(want));
        expect(distance, `loss of step ${step}`).to.be.at.most(LOSS_TOL);
      });
    });
  }
});
