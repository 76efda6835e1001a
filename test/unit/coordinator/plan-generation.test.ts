import { expect } from "chai";
import { generationPlanner } from "../../../coordinator/planning/plan-generation.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import { requireJobSpec } from "../../../shared/job/resolve.ts";

const PAIR = { dataParallel: 1, tensorParallel: 2 };
const DATA = { batchSize: 1, stream: { seqLen: 1 } };
const llama = { dim: 16, layers: 1, heads: 4, kvHeads: 2, hidden: 24, vocab: 12 };
const settings = { context: 9, temperature: 1, topK: 0, seed: 0 };

const plan = (job: object, sizes = PAIR) =>
  generationPlanner(settings)(requireJobSpec({ model: { llama }, data: DATA, ...job }), sizes, {
    seqLen: 1,
  });

/** Layouts of the parameters on the tensor-parallel axis. */
const layouts = ({ program }: ReturnType<typeof plan>) =>
  new Map(program.stored.map(({ name, layout }) => [name, layout[1]]));

describe("planning a generation", () => {
  it("splits weights as training does, and caches like keys", () => {
    const found = layouts(plan({}));
    expect(found.get("layers.0.attention.wq.weight")).to.equal("S0");
    expect(found.get("layers.0.attention.wo.weight")).to.equal("S1");
    expect(found.get("layers.0.attention.keys0")).to.equal("S1");
    expect(found.get("tok_embeddings.weight")).to.equal("S0");
  });

  it("knows how many ids there are", () => {
    expect(plan({}).idLimits).to.deep.equal({ tokens: 12 });
  });

  it("takes a plan of the user's own, and leaves off what splits the sequence", () => {
    const own = {
      "layers.*.attention.w[qkv]": "colwise",
      "layers.*.attention.wo": "rowwise(output=shard(1))",
      "layers.*.ffn_norm": "sequence",
      "layers.*.feed_forward.w?": "replicate()",
    };
    const styles = Object.fromEntries(
      Object.entries(own).flatMap(([layer, style]) =>
        layer.includes("[")
          ? ["q", "k", "v"].map((w) => [layer.replace("[qkv]", w), style])
          : [[layer, style]],
      ),
    );
    const found = plan({ plan: styles });
    expect(layouts(found).get("layers.0.attention.wq.weight")).to.equal("S0");
    expect(layouts(found).get("layers.0.attention.wo.weight")).to.equal("S1");
    expect(layouts(found).get("layers.0.feed_forward.w1.weight")).to.equal("R");
    expect(found.notes).to.have.lengthOf.at.least(1);
  });

  it("finds the faults of a plan", () => {
    try {
      plan({ plan: { "layers.*.attention.wq": "col-wise", nothing: "rowwise" } });
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      expect(error.faults.map(({ path }) => path)).to.deep.equal([
        'plan["layers.*.attention.wq"]',
        'plan["nothing"]',
      ]);
      return;
    }
    expect.fail("no faults");
  });
});
