import { expect } from "chai";
import fc from "fast-check";
import type { JobSpec, JobSpecInput } from "../../../shared/job/job-spec.ts";
import { jobSpecFromProto, jobSpecToProto } from "../../../shared/job/proto.ts";
import { requireJobSpec, resolveJobSpec } from "../../../shared/job/resolve.ts";
import type { JobSpec as JobSpecMessage } from "../../../shared/rpc/gen/rankmesh/v1/JobSpec.ts";
import { services } from "../../../shared/rpc/proto.ts";

/** What the server sees of a message: encoded to bytes and decoded by the real loader. */
function overTheWire(spec: JobSpecMessage): unknown {
  const method = services().training.definition.SubmitJob;
  const decoded = method.requestDeserialize(method.requestSerialize({ spec }));
  return jobSpecFromProto(decoded.spec);
}

const GRAPH = {
  inputs: [{ name: "x", dtype: "float32", dims: [4] }],
  parameters: [
    { name: "first.weight", dims: [3, 4], init: { kind: "uniform", bound: 0.5 } },
    { name: "first.bias", dims: [3], init: { kind: "constant", value: 0 } },
  ],
  nodes: [
    { op: "linear", inputs: [0, 1], attrs: {}, layer: "first" },
    { op: "scale", inputs: [3], attrs: { factor: -0.25 }, layer: "" },
  ],
  output: 4,
  defaultPlan: { first: "colwise" },
} as const;

const featureModel = fc.oneof(
  fc.record({
    feedForward: fc.record({ dim: fc.integer({ min: 1, max: 9999 }), hidden: fc.constant(80) }),
  }),
  fc.record({
    mlp: fc.record({
      dims: fc.array(fc.integer({ min: 1, max: 99 }), { minLength: 2, maxLength: 5 }),
      activation: fc.constantFrom("silu", "relu", "gelu", "tanh", "sigmoid"),
      bias: fc.boolean(),
    }),
  }),
  fc.constant({ graph: GRAPH }),
);
const probability = fc.constantFrom(0, 0.1, 0.5);
const tokenModel = fc.oneof(
  fc.record({
    llama: fc.record(
      {
        dim: fc.constantFrom(64, 128),
        layers: fc.integer({ min: 1, max: 126 }),
        heads: fc.constantFrom(8, 16),
        kvHeads: fc.constantFrom(1, 2, 4, 8),
        hidden: fc.integer({ min: 1, max: 999 }),
        vocab: fc.integer({ min: 1, max: 999 }),
        ropeTheta: fc.constantFrom(10000, 500000),
        normEps: fc.constantFrom(1e-5, 1e-6),
        dropout: probability,
        tied: fc.boolean(),
        ropeScaling: fc.record({
          factor: fc.constantFrom(1, 8, 32),
          lowFrequency: fc.constant(1),
          highFrequency: fc.constant(4),
          originalLength: fc.constant(8192),
        }),
      },
      {
        requiredKeys: [
          ...(["dim", "layers", "heads", "kvHeads", "hidden", "vocab"] as const),
          ...(["ropeTheta", "normEps", "dropout", "tied"] as const),
        ],
      },
    ),
  }),
  fc.record({
    gpt2: fc.record({
      dim: fc.constantFrom(12, 768),
      layers: fc.integer({ min: 1, max: 126 }),
      heads: fc.constantFrom(3, 6),
      vocab: fc.integer({ min: 1, max: 50257 }),
      contextLength: fc.constantFrom(16, 1024),
      dropout: probability,
      tied: fc.boolean(),
      normEps: fc.constant(1e-5),
    }),
  }),
  fc.constant({ huggingFace: { path: "llama" } }),
);
const finite = (min: number, max: number) => fc.double({ min, max, noNaN: true }).map((v) => v + 0);
const axis = fc.oneof(fc.constant("auto"), fc.integer({ min: 1, max: 8 }));
const settings = { batchSize: fc.constantFrom(4, 8, 1024), shuffle: fc.boolean() };
const fileSource = fc.constant({ safetensors: { path: "d.safetensors" } });
const featureSource = fc.oneof(
  fileSource,
  fc.record({ random: fc.record({ length: fc.integer({ min: 1 }), seed: fc.nat() }) }),
);
const seqLen = fc.constant(16);
const tokenSource = fc.oneof(
  fileSource,
  fc.record({ random: fc.record({ length: fc.nat().map((n) => n + 1), seed: fc.nat(), seqLen }) }),
  fc.record({
    text: fc.record({
      path: fc.constant("t.txt"),
      tokenizer: fc.constantFrom("bytes", "t.json"),
      seqLen,
    }),
  }),
  fc.record({
    tokens: fc.record({
      path: fc.constant("t.bin"),
      dtype: fc.constantFrom("uint16", "uint32"),
      seqLen,
    }),
  }),
);
/** Model and data that fit together, and an evaluation or none. */
function withData<M>(
  model: fc.Arbitrary<M>,
  source: fc.Arbitrary<object>,
  stream: object,
  losses: readonly string[],
  sequenceParallel: readonly unknown[],
) {
  return fc
    .record({
      model,
      settings: fc.record(settings),
      source: fc.oneof(source, fc.constant({ stream })),
      evaluation: fc.oneof(
        fc.constant({ every: 0, batches: 0 }),
        fc.record({ every: fc.nat(), batches: fc.nat(), data: source }),
      ),
      loss: fc.constantFrom(...losses),
      sequenceParallel: fc.constantFrom(...sequenceParallel),
    })
    .map(({ source, settings, evaluation, ...rest }) => ({
      ...rest,
      data: { ...settings, ...source },
      eval: evaluation,
    }));
}

const common = fc.record({
  name: fc.string({ minLength: 1, maxLength: 60, unit: "grapheme-ascii" }),
  init: fc.record({ seed: fc.nat() }),
  mesh: fc.record({ dataParallel: axis, tensorParallel: axis }),
  dataParallelSharding: fc.constantFrom("none", "optimizer", "full"),
  optimizer: fc.oneof(
    fc.record({
      adamw: fc.record({
        lr: finite(1e-9, 1),
        betas: fc.tuple(finite(0, 0.99), finite(0, 0.99)),
        eps: finite(1e-12, 1),
        weightDecay: finite(0, 1),
      }),
    }),
    fc.record({ sgd: fc.record({ lr: finite(1e-9, 1), momentum: finite(0, 1) }) }),
  ),
  schedule: fc.oneof(
    fc.constant({ constant: {} }),
    fc.record({ linearWarmup: fc.record({ steps: fc.nat() }) }),
    fc.record({ cosine: fc.record({ warmupSteps: fc.nat(), minLr: finite(0, 1) }) }),
  ),
  clipGradNorm: finite(0, 9),
  reportGradNorm: fc.boolean(),
  gradientAccumulation: fc.constantFrom(1, 2, 4),
  recompute: fc.constantFrom("none", "block", "auto"),
  precision: fc.constantFrom("fp32", "bf16"),
  allowMixedBackends: fc.boolean(),
  steps: fc.oneof(fc.nat(), fc.constant(Number.MAX_SAFE_INTEGER)),
});
const anyPlan = fc.dictionary(
  fc.constantFrom("w1", "layers.*.w2", "constructor"),
  fc.constantFrom("colwise", "rowwise(input=replicate)"),
);
const anySpec = fc.oneof(
  fc
    .tuple(
      common,
      withData(featureModel, featureSource, {}, ["sum", "mse", "cross_entropy"], ["auto", false]),
      fc.constantFrom({}, { safetensors: "init.safetensors" }),
      anyPlan,
    )
    .map(([one, other, files, plan]) => ({
      ...one,
      ...other,
      init: { ...one.init, ...files },
      output: files,
      plan,
    })),
  fc
    .tuple(
      common,
      withData(
        tokenModel,
        tokenSource,
        { seqLen: 16 },
        ["cross_entropy", "mean"],
        ["auto", true, false],
      ),
    )
    .map(([one, other]) => ({
      ...one,
      ...other,
      output: "gpt2" in other.model ? {} : { huggingFace: "trained" },
      plan: {},
    })),
);

describe("job spec messages", () => {
  it("carry every field of a resolved spec through encode and decode", () => {
    fc.assert(
      fc.property(anySpec, (raw) => {
        const spec: JobSpec = requireJobSpec(raw);
        expect(spec, "the generator makes resolved specs").to.deep.equal(raw);
        expect(requireJobSpec(overTheWire(jobSpecToProto(spec)))).to.deep.equal(spec);
      }),
      { numRuns: 300 },
    );
  });

  it("leave what is absent to the server's defaults", () => {
    const raw: JobSpecInput = { model: { feedForward: {} }, data: { stream: {} } };
    expect(overTheWire(jobSpecToProto(raw))).to.deep.equal({
      ...raw,
      plan: {},
    });
    expect(requireJobSpec(overTheWire(jobSpecToProto(raw)))).to.deep.equal(requireJobSpec(raw));
  });

  it("keep an explicit zero apart from a field left out", () => {
    const zero = overTheWire({
      steps: 0,
      optimizer: { adamw: { weightDecay: 0, betas: [0, 0.5] } },
    });
    expect(zero).to.deep.include({
      steps: 0,
      optimizer: { adamw: { weightDecay: 0, betas: [0, 0.5] } },
    });
    expect(overTheWire({})).to.deep.equal({ plan: {} });
  });

  it("carry auto and numbers as mesh sizes, and words or booleans for sequenceParallel", () => {
    const raw = overTheWire({
      mesh: { dataParallel: { stringValue: "auto" }, tensorParallel: { numberValue: 2 } },
      sequenceParallel: { stringValue: "false" },
      model: { feedForward: {} },
      data: { stream: {} },
    });
    const spec = requireJobSpec(raw);
    expect(spec.mesh).to.deep.equal({ dataParallel: "auto", tensorParallel: 2 });
    expect(spec.sequenceParallel).to.equal(false);
  });

  const faulty: readonly [string, JobSpecMessage, string][] = [
    ["a NaN learning rate", { optimizer: { adamw: { lr: NaN } } }, "optimizer.adamw.lr"],
    [
      "a mesh size of 1.5",
      { mesh: { tensorParallel: { numberValue: 1.5 } } },
      "mesh.tensorParallel",
    ],
    [
      "a list as a mesh size",
      { mesh: { tensorParallel: { listValue: { values: [] } } } },
      "mesh.tensorParallel",
    ],
    ["batch 0", { data: { batchSize: 0, stream: {} } }, "data.batchSize"],
    ["steps of 2^64 - 1", { steps: "18446744073709551615" }, "steps"],
    ["a 10 MB name", { name: "n".repeat(1e7) }, "name"],
    ["an optimizer without a kind", { optimizer: {} }, "optimizer"],
    ["a model file", { model: { module: "./model.mjs" } }, "model.module"],
    ["one beta", { optimizer: { adamw: { betas: [0.5] } } }, "optimizer.adamw.betas"],
    [
      "a graph without nodes",
      { model: { graph: { inputs: [{ name: "x" }], output: 0 } } },
      "model.graph.nodes",
    ],
  ];
  for (const [what, message, path] of faulty) {
    it(`are refused for ${what}`, () => {
      const result = resolveJobSpec(
        overTheWire({ model: { feedForward: {} }, data: { stream: {} }, ...message }),
      );
      if (result.ok) throw new Error("was taken");
      expect(result.faults.map((fault) => fault.path)).to.deep.equal([path]);
    });
  }
});
