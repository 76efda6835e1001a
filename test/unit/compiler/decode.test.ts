import { expect } from "chai";
import { compileDecoder, type DecodeRequest } from "../../../compiler/decode.ts";
import { VirtualRanks } from "../../../compiler/interpret/run-program.ts";
import { opDefinition } from "../../../compiler/ops/index.ts";
import type { ReferenceTensor } from "../../../compiler/ops/op.ts";
import { gpt2Graph } from "../../../models/gpt2.ts";
import { llamaGraph } from "../../../models/llama.ts";
import type { ForwardGraph } from "../../../shared/graph/graph.ts";
import type { Gpt2Model, LlamaModel } from "../../../shared/job/job-spec.ts";
import { stepScalars } from "../../../shared/optimizer/step-scalars.ts";
import type { Program } from "../../../shared/program/program.ts";
import { numbers, requestOf } from "../../support/compile-cases.ts";

const llamaModel: LlamaModel = {
  dim: 16,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  hidden: 24,
  vocab: 12,
  ropeTheta: 500_000,
  normEps: 1e-5,
  dropout: 0.3,
  tied: false,
};
const gpt2Model: Gpt2Model = {
  dim: 16,
  layers: 2,
  heads: 4,
  vocab: 11,
  contextLength: 7,
  dropout: 0.3,
  tied: true,
  normEps: 1e-5,
};
const llama =
  (changes: Partial<LlamaModel> = {}) =>
  (seqLen: number): ForwardGraph =>
    llamaGraph({ ...llamaModel, ...changes }, seqLen, "auto");
const gpt2 = (seqLen: number): ForwardGraph => gpt2Graph(gpt2Model, seqLen, "auto");

const MODELS: Readonly<Record<string, (seqLen: number) => ForwardGraph>> = {
  "a llama with two kv-heads": llama(),
  "a llama whose ranks share one kv-head": llama({ kvHeads: 1 }),
  "a tied llama of a vocabulary that does not divide": llama({ vocab: 13, tied: true }),
  "a gpt2": gpt2,
};
const TOKENS = [3, 0, 7, 7, 1, 10, 2];

function decoder(graph: ForwardGraph, tp: number, changes: Partial<DecodeRequest> = {}) {
  const plan = Object.fromEntries(
    Object.entries(graph.defaultPlan).filter(
      ([layer]) => changes.name !== "shared heads" || !/w[kv]$/.test(layer),
    ),
  );
  const { name, mesh, axes } = requestOf({ graph, tp, plan });
  const request = { name, graph, mesh, axes: axes.map((a) => ({ ...a, splitsBatch: false })) };
  const draw = { positions: TOKENS.length, temperature: 0, topK: 0, seed: 0 };
  return compileDecoder({ ...request, ...draw, ...changes }).program;
}

function weightsOf(graph: ForwardGraph): Map<string, Float64Array> {
  return new Map(
    graph.parameters.map(({ name, dims, init }, i) => {
      const bound = init.kind === "uniform" ? init.bound : 0.1;
      const centre = init.kind === "constant" ? init.value : 0;
      const count = dims.reduce((a, b) => a * b, 1);
      return [name, numbers(count, i + 1).map((x) => centre + 3 * bound * x)];
    }),
  );
}

/** Logits of all tokens by the whole model at once, in float64 and without dropout. */
function fullLogits(
  graph: ForwardGraph,
  weights: ReadonlyMap<string, Float64Array>,
): Float64Array[] {
  const values: ReferenceTensor[] = [
    { data: Float64Array.from(TOKENS), shape: [1, TOKENS.length] },
    ...graph.parameters.map(({ name, dims }) => ({
      data: weights.get(name) ?? new Float64Array(0),
      shape: dims,
    })),
  ];
  for (const { op, inputs, attrs } of graph.nodes) {
    const definition = opDefinition(op);
    const operands = inputs.map((i) => values[i] ?? { data: new Float64Array(0), shape: [] });
    const types = operands.map(({ shape }, i) => ({
      shape,
      dtype: op === "embedding" && i === 0 ? ("int32" as const) : ("float32" as const),
    }));
    const { shape } = definition.infer(types, attrs);
    const output = { data: new Float64Array(shape.reduce((a, b) => a * b, 1)), shape };
    const scalars = stepScalars({ kind: "sgd", lr: 0, momentum: 0 }, { kind: "constant" }, 0);
    const evaluated = { ...attrs, ...definition.evaluationAttrs };
    const call = { attrs: evaluated, scalars, mesh: { axes: [] }, coordinates: [] };
    definition.reference({ inputs: operands, outputs: [output], ...call });
    values.push(output);
  }
  const { data } = values[graph.output] ?? { data: new Float64Array(0) };
  const vocab = data.length / TOKENS.length;
  return TOKENS.map((_, t) => Float64Array.from(data.slice(t * vocab, (t + 1) * vocab)));
}

/** The program with the logits as its result, element by element: what is sampled from. */
function logitsOf(program: Program, ranks: VirtualRanks): Float64Array {
  const sample = program.body.find((i) => i.kind === "compute" && i.op === "sampleToken");
  if (sample?.kind !== "compute") throw new Error("the program samples nothing");
  return ranks.slotData(0, sample.inputs[0] ?? -1);
}

describe("a decoder", () => {
  for (const [model, build] of Object.entries(MODELS)) {
    for (const tp of [1, 2, 4]) {
      const name = /one kv-head/.test(model) || tp > 2 ? "shared heads" : "decoder";
      it(`gives ${model} on ${tp} ranks the logits of the whole sequence at every position`, () => {
        const program = decoder(build(1), tp, { name });
        const whole = build(TOKENS.length);
        const weights = weightsOf(whole);
        const expected = fullLogits(whole, weights);
        const ranks = new VirtualRanks(program, weights);
        TOKENS.forEach((token, position) => {
          const { loss } = ranks.runStep(new Map([["tokens", Float64Array.of(token)]]));
          const [got, want] = [logitsOf(program, ranks), expected[position] ?? new Float64Array(0)];
          expect(got.length).to.equal(want.length);
          got.forEach((x, id) => {
            expect(x, `position ${position}, id ${id}`).to.be.closeTo(want[id] ?? Number.NaN, 1e-9);
          });
          expect(loss, `position ${position}`).to.equal(want.indexOf(Math.max(...want)));
        });
      });
    }
  }
});
