import { expect } from "chai";
import { compileRequest, modelGraph, planJob } from "../../../coordinator/planning/plan-job.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import { requireJobSpec } from "../../../shared/job/resolve.ts";

const ALONE = { dataParallel: 1, tensorParallel: 1 };
const PAIR = { dataParallel: 1, tensorParallel: 2 };
const LLAMA = { llama: {} };
const FILE = { safetensors: { path: "d.safetensors" } };
const RANDOM = { random: { seqLen: 16 } };

/** The faults of `plan`, as printed lines. */
function faultsOf(plan: () => unknown): string[] {
  try {
    plan();
    return [];
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    return error.faults.map(({ path, message }) => `${path}: ${message}`);
  }
}

describe("planning a language model", () => {
  it("takes the length of sequences from the data's key", () => {
    const { program } = planJob(requireJobSpec({ model: LLAMA, data: RANDOM }), PAIR);
    expect(
      program.inputs.map(({ name, dtype, globalShape }) => [name, dtype, globalShape]),
    ).to.deep.equal([
      ["tokens", "int32", [4, 16]],
      ["targets", "int32", [4, 16]],
    ]);
  });

  it("blames sequenceParallel, once, for a length that does not divide where it was asked for", () => {
    const data = { random: { seqLen: 13 } };
    const spec = requireJobSpec({ model: LLAMA, data, sequenceParallel: true });
    const faults = faultsOf(() => planJob(spec, PAIR));
    expect(faults).to.have.length(1);
    expect(faults[0]).to.match(
      /^sequenceParallel: output of .* and \d+ more layers: dim 1 of \[4, 13, 64\] is not divisible by 2 ranks; use auto/,
    );
    expect(planJob({ ...spec, sequenceParallel: "auto" }, PAIR).notes).to.have.length(1);
  });

  it("takes the length of sequences from what a data file tells", () => {
    const spec = requireJobSpec({ model: LLAMA, data: FILE });
    const { program } = planJob(spec, ALONE, { seqLen: 12 });
    expect(program.inputs[0]?.globalShape).to.deep.equal([4, 12]);
  });

  it("takes the model of a checkpoint from what its config.json tells", () => {
    const spec = requireJobSpec({ model: { huggingFace: { path: "m" } }, data: RANDOM });
    const llama = requireJobSpec({ model: { llama: { vocab: 50 } }, data: RANDOM });
    if (!("llama" in llama.model)) throw new Error("no llama");
    const huggingFace = { model: llama.model.llama, carried: { extras: {} } };
    expect(modelGraph(spec, { huggingFace })).to.deep.equal(modelGraph(llama, {}));
  });

  it("knows how many ids there are", () => {
    const spec = requireJobSpec({ model: { llama: { vocab: 50 } }, data: RANDOM });
    expect(planJob(spec, ALONE).idLimits).to.deep.equal({ tokens: 50, targets: 50 });
  });

  it("says what sequence parallelism and the vocabulary are left off for", () => {
    const data = { random: { seqLen: 15 } };
    const spec = requireJobSpec({ model: { llama: { vocab: 95 } }, data });
    const { notes } = planJob(spec, PAIR);
    expect(notes.some((note) => note.includes("tok_embeddings"))).to.equal(true);
    expect(notes.some((note) => note.includes("95"))).to.equal(true);
    expect(notes.some((note) => note.includes("15"))).to.equal(true);
    const divides = requireJobSpec({ model: LLAMA, data: RANDOM });
    expect(planJob(divides, PAIR).notes).to.deep.equal([]);
  });

  it("refuses sequences that do not divide where their parallelism is asked for", () => {
    const data = { random: { seqLen: 15 } };
    const spec = requireJobSpec({ model: LLAMA, data, sequenceParallel: true });
    const faults = faultsOf(() => planJob(spec, PAIR));
    expect(faults).to.not.deep.equal([]);
    expect(faults.join("\n")).to.include("15");
  });

  for (const [what, model, tensorParallel, named] of [
    ["heads", { llama: { dim: 48, heads: 6, kvHeads: 6 } }, 4, "6 heads of 8 features"],
    ["kv-heads", { llama: {} }, 8, "4 kvHeads of 8 features"],
    ["hidden size", { llama: { hidden: 161 } }, 2, "161 out-features"],
  ] as const) {
    it(`refuses ${what} that do not divide, naming layer and numbers`, () => {
      const spec = requireJobSpec({ model, data: RANDOM });
      const faults = faultsOf(() => planJob(spec, { dataParallel: 1, tensorParallel }));
      expect(faults.join("\n")).to.include(named).and.to.include("layers.0.");
    });
  }

  const refused: readonly [string, unknown, object, string][] = [
    [
      "a file that tells no length",
      { model: LLAMA, data: FILE },
      {},
      "data.safetensors.path: the model takes sequences of tokens, and the file tells no length: it needs a tensor tokens [rows, length] int32",
    ],
    [
      "a file of sequences past a gpt2's context",
      { model: { gpt2: { dim: 8, heads: 2, layers: 1, contextLength: 8 } }, data: FILE },
      { seqLen: 9 },
      "data.safetensors.path: has sequences of 9 tokens; model.gpt2 has positions for contextLength 8",
    ],
    [
      "held-out text of another length than the file's",
      { model: LLAMA, data: FILE, eval: { every: 2, data: { text: { path: "t", seqLen: 8 } } } },
      { seqLen: 9 },
      "eval.data.text.seqLen: is 8; it must be that of the training data, 9",
    ],
    [
      "a checkpoint that was not read",
      { model: { huggingFace: { path: "m" } }, data: RANDOM },
      {},
      "model.huggingFace.path: its config.json, which says what model it is, has not been read",
    ],
  ];
  for (const [what, raw, facts, fault] of refused) {
    it(`refuses ${what}`, () => {
      expect(faultsOf(() => planJob(requireJobSpec(raw), ALONE, facts))).to.deep.equal([fault]);
    });
  }
});

describe("the compile request of a job", () => {
  it("carries seed and evaluation", () => {
    const spec = requireJobSpec({
      model: LLAMA,
      data: RANDOM,
      init: { seed: 7 },
      eval: { every: 3, data: RANDOM },
    });
    const request = compileRequest(spec, modelGraph(spec, {}), ALONE);
    expect(request).to.deep.include({ seed: 7, evaluation: true, loss: "cross_entropy" });
    const plain = requireJobSpec({ model: LLAMA, data: RANDOM });
    expect(compileRequest(plain, modelGraph(plain, {}), ALONE).evaluation).to.equal(false);
  });

  it("draws other dropout masks for another seed", () => {
    const masks = (seed: number) => {
      const model = { llama: { dropout: 0.5, layers: 1 } };
      const spec = requireJobSpec({ model, data: RANDOM, init: { seed } });
      return planJob(spec, ALONE)
        .program.body.flatMap((i) => (i.kind === "compute" && i.op === "dropout" ? [i.attrs] : []))
        .map((attrs) => JSON.stringify(attrs));
    };
    expect(masks(1)).to.have.length.above(1);
    expect(masks(1)).to.deep.equal(masks(1));
    expect(masks(2)).to.not.deep.equal(masks(1));
  });
});

describe("planning recompute", () => {
  const raw = { model: { llama: { layers: 4 } }, data: { batchSize: 8, random: { seqLen: 64 } } };
  const bytesOf = (recompute: "none" | "block" | "auto", memoryBytes?: number) =>
    planJob(requireJobSpec({ ...raw, recompute }), ALONE, {}, memoryBytes).program.arenaBytes;

  it("needs less memory with it", () => {
    expect(bytesOf("block")).to.be.below(bytesOf("none"));
  });

  it("does it where the activations would not fit else, and says so", () => {
    const kept = bytesOf("none");
    expect(bytesOf("auto")).to.equal(kept);
    expect(bytesOf("auto", kept)).to.equal(kept);
    expect(bytesOf("auto", kept - 1)).to.equal(bytesOf("block"));
    const { notes } = planJob(requireJobSpec({ ...raw, recompute: "auto" }), ALONE, {}, kept - 1);
    expect(notes.join("\n")).to.match(/activations are recomputed block by block: kept, a rank/);
  });

  it("keeps activations, whatever fits, where the job says so", () => {
    expect(bytesOf("none", 1)).to.equal(bytesOf("none"));
  });
});

describe("planning a classifier", () => {
  it("compiles an mlp with cross-entropy over its outputs, on one rank and on two", () => {
    const spec = requireJobSpec({
      model: { mlp: { dims: [12, 32, 10] } },
      loss: "cross_entropy",
      data: { batchSize: 6, random: {} },
    });
    for (const sizes of [ALONE, PAIR]) {
      const { program, idLimits } = planJob(spec, sizes);
      expect(
        program.inputs.map(({ name, dtype, globalShape }) => [name, dtype, globalShape]),
      ).to.deep.equal([
        ["x", "float32", [6, 12]],
        ["targets", "int32", [6]],
      ]);
      expect(idLimits).to.deep.equal({ targets: 10 });
    }
  });
});
