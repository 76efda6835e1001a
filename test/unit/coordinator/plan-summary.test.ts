import { expect } from "chai";
import { planJob } from "../../../coordinator/planning/plan-job.ts";
import { summarizePlan } from "../../../coordinator/planning/plan-summary.ts";
import { requireJobSpec } from "../../../shared/job/resolve.ts";

function planned(layers: number, tensorParallel: number) {
  const spec = requireJobSpec({
    model: { llama: { dim: 16, layers, heads: 4, kvHeads: 4, hidden: 32, vocab: 32 } },
    mesh: { dataParallel: 1, tensorParallel },
    data: { batchSize: 2, random: { length: 4, seed: 0, seqLen: 8 } },
    steps: 1,
  });
  return planJob(spec, { dataParallel: 1, tensorParallel });
}

describe("summary of a plan", () => {
  it("is as long for 12 layers as for 3: what is alike is one line with its count", () => {
    const few = summarizePlan(planned(3, 2).program);
    const many = summarizePlan(planned(12, 2).program);
    const labels = (summary: typeof few) =>
      summary.collectives.map(({ label }) => label.replace(/and \d+ more/, "and more"));
    expect(labels(many)).to.deep.equal(labels(few));
    const alike = many.collectives.filter(({ label }) => label.includes("#"));
    expect(alike.length).to.be.above(3);
    const wq = many.shards.find(({ name }) => name === "layers.#.attention.wq.weight");
    expect(wq).to.deep.equal({
      name: "layers.#.attention.wq.weight",
      count: 12,
      globalShape: [16, 16],
      localShape: [8, 16],
      layout: ["R", "S0"],
    });
    expect(many.shards.find(({ name }) => name === "norm.weight")?.count).to.equal(1);
  });

  for (const [layers, tensorParallel] of [
    [1, 1],
    [3, 2],
    [5, 4],
  ] as const) {
    it(`adds up to the report's figures: ${layers} layers, tensorParallel ${tensorParallel}`, () => {
      const { program, report } = planned(layers, tensorParallel);
      const summary = summarizePlan(program);
      expect(summary.collectiveBytesPerStep).to.equal(report.collectiveBytesPerStep);
      const sent = summary.collectives.reduce((sum, c) => sum + c.wireBytes * c.timesPerStep, 0);
      expect(sent).to.equal(report.collectiveBytesPerStep);
      expect(summary.parameters).to.equal(report.parameters);
      expect(summary.arenaBytes).to.equal(report.peakMemoryBytes);
      const elements = summary.shards.reduce(
        (sum, { count, globalShape }) => sum + count * globalShape.reduce((a, b) => a * b, 1),
        0,
      );
      expect(elements).to.equal(report.parameters);
    });
  }
});
