import { expect } from "chai";
import fc from "fast-check";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import type { JobSpec } from "../../../shared/job/job-spec.ts";
import { requireJobSpec, resolveJobSpec } from "../../../shared/job/resolve.ts";

const MODEL = { feedForward: { dim: 48, hidden: 80 } };
const DATA = { random: {} };
const ALL_DEFAULTS: JobSpec = {
  name: "job",
  model: { feedForward: { dim: 8192, hidden: 8192 } },
  init: { seed: 0 },
  mesh: { dataParallel: 1, tensorParallel: 1 },
  dataParallelSharding: "none",
  plan: {},
  sequenceParallel: "auto",
  loss: "sum",
  optimizer: { adamw: { lr: 3e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01 } },
  schedule: { constant: {} },
  clipGradNorm: 0,
  reportGradNorm: false,
  gradientAccumulation: 1,
  recompute: "none",
  precision: "fp32",
  allowMixedBackends: false,
  data: { batchSize: 4, shuffle: false, random: { length: 64, seed: 0 } },
  eval: { every: 0, batches: 0 },
  steps: 8,
  output: {},
};

/** Faults of a spec that has a good model and data and `extra`, as printed lines. */
function faultsWith(extra: Record<string, unknown>): string[] {
  return faultsOf({ model: MODEL, data: DATA, ...extra });
}

function faultsOf(value: unknown): string[] {
  const result = resolveJobSpec(value);
  return result.ok ? [] : result.faults.map((fault) => `${fault.path}: ${fault.message}`);
}

describe("resolving a job spec", () => {
  it("fills in the default of every key left out", () => {
    const result = resolveJobSpec({ model: { feedForward: {} }, data: { random: {} } });
    expect(result).to.deep.equal({ ok: true, spec: ALL_DEFAULTS });
  });

  it("gives a resolved spec back as it is", () => {
    expect(requireJobSpec(ALL_DEFAULTS)).to.deep.equal(ALL_DEFAULTS);
  });

  it("keeps zeros that are given, where the default is another number", () => {
    const spec = requireJobSpec({
      model: MODEL,
      data: { random: {} },
      steps: 0,
      optimizer: { adamw: { weightDecay: 0, betas: [0, 0] } },
    });
    expect(spec.steps).to.equal(0);
    expect(spec.optimizer).to.deep.equal({
      adamw: { lr: 3e-3, betas: [0, 0], eps: 1e-8, weightDecay: 0 },
    });
  });

  it("takes an empty map for a key with nothing behind it", () => {
    const spec = requireJobSpec({ model: MODEL, data: { stream: null }, plan: null, mesh: null });
    expect(spec.data).to.deep.equal({ batchSize: 4, shuffle: false, stream: {} });
    expect(spec.plan).to.deep.equal({});
  });

  it("fills in the keys of a chosen optimizer and schedule", () => {
    const spec = requireJobSpec({
      model: MODEL,
      data: DATA,
      schedule: { cosine: { minLr: 1e-4 } },
      optimizer: { sgd: { lr: 0.5 } },
    });
    expect(spec.schedule).to.deep.equal({ cosine: { warmupSteps: 0, minLr: 1e-4 } });
    expect(spec.optimizer).to.deep.equal({ sgd: { lr: 0.5, momentum: 0 } });
  });

  const single: readonly [string, Record<string, unknown>, string][] = [
    [
      "batch 0",
      { data: { random: {}, batchSize: 0 } },
      "data.batchSize: is 0; must be an integer at least 1 and at most 16777216",
    ],
    [
      "a fractional batch",
      { data: { random: {}, batchSize: 1.5 } },
      "data.batchSize: is 1.5; must be an integer at least 1 and at most 16777216",
    ],
    [
      "a NaN learning rate",
      { optimizer: { adamw: { lr: NaN } } },
      "optimizer.adamw.lr: is NaN; must be a finite number above 0",
    ],
    [
      "an infinite learning rate",
      { optimizer: { sgd: { lr: Infinity } } },
      "optimizer.sgd.lr: is Infinity; must be a finite number above 0",
    ],
    [
      "a negative learning rate",
      { optimizer: { adamw: { lr: -1 } } },
      "optimizer.adamw.lr: is -1; must be a finite number above 0",
    ],
    [
      "a beta of 1",
      { optimizer: { adamw: { betas: [0.9, 1] } } },
      "optimizer.adamw.betas[1]: is 1; must be a finite number at least 0 and below 1",
    ],
    [
      "three betas",
      { optimizer: { adamw: { betas: [0.9, 0.9, 0.9] } } },
      "optimizer.adamw.betas: has 3 entries; must be a list of 2 numbers",
    ],
    [
      "eps 0",
      { optimizer: { adamw: { eps: 0 } } },
      "optimizer.adamw.eps: is 0; must be a finite number above 0",
    ],
    [
      "a negative weight decay",
      { optimizer: { adamw: { weightDecay: -0.1 } } },
      "optimizer.adamw.weightDecay: is -0.1; must be a finite number at least 0",
    ],
    [
      "a string of digits",
      { steps: "8" },
      'steps: is the string "8"; must be an integer at least 0 and at most 9007199254740991',
    ],
    [
      "steps past 2^53",
      { steps: 2 ** 53 },
      "steps: is 9007199254740992; must be an integer at least 0 and at most 9007199254740991",
    ],
    [
      "a null number",
      { clipGradNorm: null },
      "clipGradNorm: has no value; must be a finite number at least 0",
    ],
    [
      "a list for a map",
      { optimizer: [1, 2] },
      "optimizer: is a list of 2; must be a map with exactly one of adamw and sgd",
    ],
    ["an unknown key", { optimiser: {} }, 'optimiser: unknown key; did you mean "optimizer"?'],
    [
      "an unknown key of another case",
      { mesh: { tensorparallel: 2 } },
      'mesh.tensorparallel: unknown key; did you mean "tensorParallel"?',
    ],
    [
      "an unknown key near to none",
      { mesh: { zzz: 2 } },
      "mesh.zzz: unknown key; known keys: dataParallel and tensorParallel",
    ],
    [
      "a key that is no name",
      { "a b": 1, model: MODEL, data: DATA },
      '["a b"]: unknown key; known keys: ',
    ],
    [
      "the name of an inherited member",
      { optimizer: { adamw: { constructor: 1, toString: 2 } } },
      "optimizer.adamw.constructor: unknown key; ",
    ],
    [
      "an unknown optimizer",
      { optimizer: { adam: {} } },
      'optimizer.adam: unknown key; did you mean "adamw"?',
    ],
    [
      "no optimizer",
      { optimizer: {} },
      "optimizer: has none of adamw and sgd; must have exactly one of them",
    ],
    [
      "two optimizers",
      { optimizer: { adamw: {}, sgd: {} } },
      "optimizer: has adamw and sgd; must have exactly one of them",
    ],
    [
      "an unknown loss",
      { loss: "msee" },
      'loss: "msee" is unknown; must be one of sum, mean, mse, cross_entropy; did you mean "mse"?',
    ],
    [
      "a precision that nothing computes in",
      { precision: "fp8" },
      'precision: "fp8" is unknown; must be one of fp32, bf16',
    ],
    [
      "a word for mixed backends",
      { allowMixedBackends: "yes" },
      'allowMixedBackends: is the string "yes"; must be true or false',
    ],
    [
      "a style that is no string",
      { plan: { "layers.*.w1": 5 } },
      'plan["layers.*.w1"]: is 5; must be a string of 1 to 512 bytes',
    ],
    [
      "a mesh size of 0",
      { mesh: { dataParallel: 0 } },
      "mesh.dataParallel: is 0; must be auto or an integer from 1 to 4096",
    ],
    [
      "too many ranks",
      { mesh: { dataParallel: 4096, tensorParallel: 2 } },
      "mesh: 4096 x 2 is 8192 ranks; at most 4096",
    ],
    [
      "microbatches that do not divide",
      { gradientAccumulation: 3 },
      "gradientAccumulation: 3 microbatches do not divide data.batchSize 4; use a divisor of 4",
    ],
    [
      "a model file on a server",
      { model: { module: "./model.mjs" } },
      "model.module: a server runs no code of its clients; submit with the rankmesh command, which traces the file, or send model.graph",
    ],
    [
      "a weight past every memory",
      { model: { mlp: { dims: [1, 2 ** 24, 2 ** 24] } } },
      "model.mlp.dims[2]: 16777216 x 16777216 weights are more than the 1099511627776 that one parameter may have",
    ],
    [
      "a control character in the name",
      { name: "a\u001b[31m" },
      'name: is "a\\u001b[31m"; must have no control characters',
    ],
    [
      "an mlp of one size",
      { model: { mlp: { dims: [3] } } },
      "model.mlp.dims: has 1 entries; must be a list of 2 to 1025 positive integers",
    ],
    [
      "a warm-up without steps",
      { schedule: { linearWarmup: {} } },
      "schedule.linearWarmup.steps: is missing; must be an integer at least 0 and at most 9007199254740991",
    ],
  ];
  for (const [what, extra, fault] of single) {
    it(`refuses ${what}`, () => {
      const faults = faultsWith(extra);
      expect(faults[0]?.slice(0, fault.length)).to.equal(fault);
      expect(faults.length).to.equal(what === "the name of an inherited member" ? 2 : 1);
    });
  }

  const later: readonly [string, Record<string, unknown>][] = [
    ["eval.data.stream", { eval: { every: 2, data: { stream: {} } } }],
  ];
  for (const [path, extra] of later) {
    it(`says of ${path} in ${JSON.stringify(extra)} that it is not available, once`, () => {
      const faults = faultsWith(extra);
      expect(faults).to.have.length(1);
      expect(faults[0]).to.match(new RegExp(`^${path}: .*is not available in this version; .`));
    });
  }

  for (const precision of ["fp32", "bf16"]) {
    for (const allowMixedBackends of [false, true]) {
      it(`takes precision ${precision} with allowMixedBackends ${allowMixedBackends}`, () => {
        const value = { model: { feedForward: {} }, data: { random: {} } };
        const resolved = resolveJobSpec({ ...value, precision, allowMixedBackends });
        expect(resolved.ok && resolved.spec).to.include({ precision, allowMixedBackends });
      });
    }
  }

  it("answers a name of 10 MB with a short error", () => {
    const [fault, ...others] = faultsWith({ name: "x".repeat(10 * 2 ** 20) });
    expect(others).to.deep.equal([]);
    expect(fault).to.match(
      /^name: is "x{80}"\.\.\. \(10485760 characters\); must be a string of 1 to 256 bytes$/,
    );
  });

  it("measures a name in bytes, not in characters", () => {
    expect(faultsWith({ name: "\u00e9".repeat(128) })).to.deep.equal([]);
    expect(faultsWith({ name: "\u00e9".repeat(129) })).to.have.length(1);
  });

  it("finds a __proto__ key that JSON brings, and changes no prototype", () => {
    const value: unknown = JSON.parse(
      '{"__proto__": {"polluted": 1}, "plan": {"__proto__": "colwise"}}',
    );
    const faults = faultsOf(value);
    expect(faults.some((fault) => fault.startsWith("__proto__: unknown key"))).to.equal(true);
    expect(faults.some((fault) => fault.startsWith('plan["__proto__"]: is no key'))).to.equal(true);
    expect(Object.hasOwn(Object.prototype, "polluted")).to.equal(false);
  });

  it("takes no key from a prototype", () => {
    const inherits = { model: MODEL, data: DATA };
    Object.setPrototypeOf(inherits, { steps: 3, mesh: { dataParallel: 0 } });
    expect(requireJobSpec(inherits).steps).to.equal(8);
  });

  it("lists all faults at once, in the order of the keys", () => {
    const faults = faultsOf({
      model: { feedForward: { dim: -1, hiden: 3 } },
      optimizer: { adamw: { lr: NaN, eps: "x" } },
      data: { batchSize: 0, safetensors: {} },
      steps: -1,
    });
    expect(faults.map((fault) => fault.split(": ")[0])).to.deep.equal([
      "model.feedForward.hiden",
      "model.feedForward.dim",
      "optimizer.adamw.lr",
      "optimizer.adamw.eps",
      "data.batchSize",
      "data.safetensors.path",
      "steps",
    ]);
  });

  it("lists 100 faults and counts the rest", () => {
    const plan = Object.fromEntries(Array.from({ length: 150 }, (_, i) => [`w${i}`, i]));
    const faults = faultsWith({ plan });
    expect(faults).to.have.length(101);
    expect(faults[100]).to.equal(": and at least 50 more");
  });

  it("throws all faults in one error where a spec is required", () => {
    expect(() => requireJobSpec({ model: MODEL, data: DATA, steps: -1, loss: 3 }))
      .to.throw(InvalidArgumentError)
      .with.property("faults")
      .with.length(2);
  });
});

describe("the partial spec beside faults", () => {
  function partialOf(value: unknown): {
    partial: JobSpec | undefined;
    broken: ReadonlySet<string>;
  } {
    const result = resolveJobSpec(value);
    if (result.ok) throw new Error("no faults");
    return result;
  }

  it("keeps what is right, and puts defaults for what is wrong", () => {
    const { partial, broken } = partialOf({
      model: MODEL,
      data: { safetensors: { path: "d" }, batchSize: 6 },
      optimizer: { adamw: { lr: NaN, eps: 1e-6 } },
      plan: { w1: 5, w2: "rowwise" },
      mesh: { tensorParallel: 3 },
    });
    expect(partial?.model).to.deep.equal(MODEL);
    expect(partial?.optimizer).to.deep.equal({
      adamw: { lr: 3e-3, betas: [0.9, 0.999], eps: 1e-6, weightDecay: 0.01 },
    });
    expect(partial?.plan).to.deep.equal({ w2: "rowwise" });
    expect(partial?.mesh.tensorParallel).to.equal(3);
    expect(partial?.data).to.deep.equal({
      batchSize: 6,
      shuffle: false,
      safetensors: { path: "d" },
    });
    expect([...broken].sort()).to.deep.equal([
      "",
      "optimizer",
      "optimizer.adamw",
      "optimizer.adamw.lr",
      "plan",
      'plan["w1"]',
    ]);
  });

  it("puts a batch that divides for one that is wrong", () => {
    const { partial } = partialOf({
      model: MODEL,
      data: { random: {}, batchSize: 0 },
      mesh: { dataParallel: 3 },
      gradientAccumulation: 2,
    });
    expect(partial?.data.batchSize).to.equal(6);
    expect(partial?.gradientAccumulation).to.equal(2);
  });

  it("puts one microbatch where the count does not divide the batch", () => {
    const { partial } = partialOf({ model: MODEL, data: DATA, gradientAccumulation: 3 });
    expect(partial?.gradientAccumulation).to.equal(1);
    expect(partial?.data.batchSize).to.equal(4);
  });

  for (const data of [
    {},
    { safetensors: {} },
    { text: {} },
    { random: {}, stream: {} },
    "x",
    undefined,
  ]) {
    it(`goes on without a usable data source: ${JSON.stringify(data)}`, () => {
      const { partial, broken } = partialOf({ model: MODEL, data });
      expect(partial?.data).to.deep.equal({ batchSize: 4, shuffle: false, stream: {} });
      expect(broken.has("data")).to.equal(true);
    });
  }

  it("has sizes that divide where the model's are wrong", () => {
    const { partial } = partialOf({
      model: { feedForward: { dim: 48, hiden: 81 } },
      data: DATA,
      mesh: { tensorParallel: 3 },
    });
    expect(partial?.model).to.deep.equal({ feedForward: { dim: 48, hidden: 24 } });
  });

  it("is missing where no model can be used", () => {
    expect(partialOf({ model: { mlp: { dims: [4, 0] } }, data: DATA }).partial).to.equal(undefined);
    expect(partialOf({ data: DATA }).partial).to.equal(undefined);
    expect(partialOf("text").partial).to.equal(undefined);
  });
});

describe("resolving anything", () => {
  const keys = [
    ...Object.keys(ALL_DEFAULTS),
    ...["feedForward", "mlp", "graph", "dims", "batchSize", "random", "stream", "safetensors"],
    ...["adamw", "lr", "betas", "dataParallel", "inputs", "nodes", "__proto__", "constructor"],
    ...[
      "llama",
      "gpt2",
      "huggingFace",
      "dim",
      "heads",
      "kvHeads",
      "ropeScaling",
      "dropout",
      "tied",
    ],
    ...["text", "tokens", "seqLen", "path", "every", "data"],
  ];
  const { tree } = fc.letrec((tie) => ({
    tree: fc.oneof(
      { depthSize: "medium", withCrossShrink: true },
      fc.oneof(
        fc.anything({ withBigInt: true, withMap: true, withTypedArray: true, withDate: true }),
        fc.constantFrom<unknown>(
          0,
          -0,
          1,
          NaN,
          Infinity,
          "auto",
          "sum",
          true,
          null,
          undefined,
          2 ** 60,
        ),
      ),
      fc.dictionary(fc.constantFrom(...keys), tie("tree"), { maxKeys: 8 }),
      fc.array(tie("tree"), { maxLength: 4 }),
    ),
  }));

  it("never throws: it gives a spec or printable faults", () => {
    fc.assert(
      fc.property(tree, (value) => {
        const result = resolveJobSpec(value);
        if (result.ok) return;
        expect(result.faults.length).to.be.greaterThan(0);
        for (const fault of result.faults) {
          expect(fault.path.length + fault.message.length).to.be.lessThan(1000);
          expect(fault.path + fault.message).to.not.match(/\p{Cc}/u);
        }
      }),
      { numRuns: 1000 },
    );
  });

  const LANGUAGE_MODEL = requireJobSpec({
    model: { llama: { ropeScaling: {} } },
    data: { text: { path: "t", seqLen: 8 } },
    eval: { every: 3, data: { tokens: { path: "u", seqLen: 8 } } },
    output: { huggingFace: "out" },
  });
  for (const [what, good] of [
    ["a good spec", ALL_DEFAULTS],
    ["a language model's", LANGUAGE_MODEL],
  ] as const) {
    it(`finds the fault when one value of ${what} is replaced by anything else`, () => {
      const paths: string[][] = [];
      const walk = (value: object, path: string[]): void => {
        for (const [key, child] of Object.entries(value)) {
          paths.push([...path, key]);
          if (typeof child === "object" && child !== null && !Array.isArray(child)) {
            walk(child as object, [...path, key]);
          }
        }
      };
      walk(good, []);
      const odd = fc.constantFrom<unknown>(Symbol("s"), () => 1, [[]], "\u0000", -1.5, 10n ** 400n);
      fc.assert(
        fc.property(fc.constantFrom(...paths), odd, (path, value) => {
          const copy = structuredClone(good) as unknown as Record<string, unknown>;
          let parent = copy;
          for (const key of path.slice(0, -1)) parent = parent[key] as Record<string, unknown>;
          parent[path.at(-1) ?? ""] = value;
          const result = resolveJobSpec(copy);
          expect(result.ok).to.equal(false);
          if (!result.ok) expect(result.broken.has(path.slice(0, 4).join("."))).to.equal(true);
        }),
        { numRuns: 500 },
      );
    });
  }

  it("gives a partial spec that is good itself, however a good one is spoilt", () => {
    const specs = [
      LANGUAGE_MODEL,
      requireJobSpec({ model: { gpt2: {} }, data: { random: { seqLen: 8 } } }),
      ALL_DEFAULTS,
    ];
    const value = fc.constantFrom<unknown>(-1, 0, 3, 7, "x", true, {}, null, undefined);
    const path = fc.constantFrom(
      ...["model.llama.dim", "model.llama.heads", "model.llama.kvHeads", "model.llama.ropeScaling"],
      ...["model.gpt2.heads", "model.gpt2.contextLength", "model.feedForward.dim"],
      ...["data.text", "data.text.seqLen", "data.random", "data.random.seqLen", "data.stream"],
      ...["data", "data.batchSize", "gradientAccumulation", "mesh", "mesh.tensorParallel"],
      ...["sequenceParallel", "loss", "eval", "eval.every", "eval.data", "eval.data.tokens.seqLen"],
      ...["recompute", "init", "init.safetensors", "output", "output.huggingFace", "plan"],
    );
    const changes = fc.array(fc.tuple(path, value), { minLength: 1, maxLength: 4 });
    let partials = 0;
    fc.assert(
      fc.property(fc.constantFrom(...specs), changes, (good, spoilt) => {
        const copy = structuredClone(good) as unknown as Record<string, unknown>;
        for (const [at, odd] of spoilt) put(copy, at.split("."), odd);
        const result = resolveJobSpec(copy);
        if (result.ok || result.partial === undefined) return;
        partials += 1;
        const again = resolveJobSpec(result.partial);
        expect(again.ok ? [] : again.faults).to.deep.equal([]);
      }),
      { numRuns: 1000 },
    );
    expect(partials).to.be.above(200);
  });
});

/** Sets the value at a path where its parents are there. */
function put(target: Record<string, unknown>, [key = "", ...rest]: string[], value: unknown): void {
  const child = target[key];
  if (rest.length === 0) target[key] = value;
  else if (typeof child === "object" && child !== null) {
    put(child as Record<string, unknown>, rest, value);
  }
}
