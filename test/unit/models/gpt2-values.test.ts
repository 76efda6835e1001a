import { expect } from "chai";
import { trace } from "../../../compiler/compile.ts";
import { OneDevice } from "../../../compiler/interpret/run-graph.ts";
import { compileRequest } from "../../../coordinator/planning/plan-job.ts";
import { gpt2Graph } from "../../../models/gpt2.ts";
import type { Gpt2Model } from "../../../shared/job/job-spec.ts";
import { requireJobSpec } from "../../../shared/job/resolve.ts";

const MODEL: Gpt2Model = {
  dim: 8,
  layers: 2,
  heads: 2,
  vocab: 7,
  contextLength: 6,
  dropout: 0,
  tied: true,
  normEps: 1e-5,
};
const [ROWS, TOKENS] = [2, 5];

type Weights = ReadonlyMap<string, Float64Array>;
type Matrix = readonly (readonly number[])[];

/** GPT-2's loss of a batch, written down again one token at a time: nothing is shared with the graph's ops. */
function plainLoss(weights: Weights, tokens: Float64Array, targets: Float64Array): number {
  let sum = 0;
  for (let row = 0; row < ROWS; row++) {
    const ids = [...tokens.subarray(row * TOKENS, (row + 1) * TOKENS)];
    const wte = matrix(weights, "wte.weight", 8);
    const wpe = matrix(weights, "wpe.weight", 8);
    let x: Matrix = ids.map((id, t) => sumOf(wte[id], wpe[t]));
    for (let layer = 0; layer < MODEL.layers; layer++) {
      const name = `h.${layer}`;
      const attended = attentionOf(weights, `${name}.attn`, normed(weights, `${name}.ln_1`, x));
      const h = x.map((values, t) => sumOf(values, attended[t]));
      const inner = linearOf(weights, `${name}.mlp.fc`, normed(weights, `${name}.ln_2`, h), 8);
      const outer = linearOf(
        weights,
        `${name}.mlp.proj`,
        inner.map((v) => v.map(gelu)),
        32,
      );
      x = h.map((values, t) => sumOf(values, outer[t]));
    }
    normed(weights, "ln_f", x).forEach((values, t) => {
      const logits = wte.map((word) => dot(word, values));
      const total = Math.log(logits.reduce((all, logit) => all + Math.exp(logit), 0));
      sum += total - (logits[targets[row * TOKENS + t] ?? -1] ?? Number.NaN);
    });
  }
  return sum / (ROWS * TOKENS);
}

function attentionOf(weights: Weights, name: string, x: Matrix): Matrix {
  const [q, k, v] = ["q", "k", "v"].map((part) => linearOf(weights, `${name}.${part}`, x, 8));
  const mixed = x.map((_, t) =>
    [0, 1].flatMap((head) => {
      const part = (values: readonly number[] | undefined) =>
        (values ?? []).slice(4 * head, 4 * head + 4);
      const scores = x.slice(0, t + 1).map((_, s) => dot(part(q?.[t]), part(k?.[s])) / 2);
      const all = scores.reduce((total, score) => total + Math.exp(score), 0);
      return [0, 1, 2, 3].map((i) =>
        scores.reduce((total, score, s) => {
          return total + (Math.exp(score) / all) * (part(v?.[s])[i] ?? Number.NaN);
        }, 0),
      );
    }),
  );
  return linearOf(weights, `${name}.proj`, mixed, 8);
}

function normed(weights: Weights, name: string, x: Matrix): Matrix {
  const [gain, shift] = [weights.get(`${name}.weight`), weights.get(`${name}.bias`)];
  return x.map((values) => {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
    return values.map(
      (value, i) =>
        ((value - mean) / Math.sqrt(variance + MODEL.normEps)) * (gain?.[i] ?? Number.NaN) +
        (shift?.[i] ?? Number.NaN),
    );
  });
}

function linearOf(weights: Weights, name: string, x: Matrix, features: number): Matrix {
  const rows = matrix(weights, `${name}.weight`, features);
  const bias = weights.get(`${name}.bias`);
  return x.map((values) => rows.map((row, o) => dot(row, values) + (bias?.[o] ?? Number.NaN)));
}

function gelu(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

function matrix(weights: Weights, name: string, features: number): Matrix {
  const data = [...(weights.get(name) ?? [])];
  return Array.from({ length: data.length / features }, (_, row) =>
    data.slice(row * features, (row + 1) * features),
  );
}

const dot = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((sum, value, i) => sum + value * (b[i] ?? Number.NaN), 0);
const sumOf = (a: readonly number[] = [], b: readonly number[] = []): number[] =>
  a.map((value, i) => value + (b[i] ?? Number.NaN));

/** Numbers that look random and are the same every time. */
function numbers(count: number, seed: number): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => Math.sin(seed * 7919 + i * 104.729) * 0.8);
}

describe("gpt2's numbers", () => {
  it("are those of the model written down again", () => {
    const spec = requireJobSpec({
      model: { gpt2: MODEL },
      data: { batchSize: ROWS, random: { seqLen: TOKENS } },
    });
    const graph = gpt2Graph(MODEL, TOKENS, "auto");
    const request = compileRequest(spec, graph, { dataParallel: 1, tensorParallel: 1 });
    const training = trace(request, []);
    if (training === undefined) throw new Error("does not trace");
    const weights = new Map(
      graph.parameters.map(({ name, dims }, i) => {
        const count = dims.reduce((product, dim) => product * dim, 1);
        return [name, numbers(count, i + 1)] as const;
      }),
    );
    const ids = (seed: number) =>
      numbers(ROWS * TOKENS, seed).map((value) => Math.floor(Math.abs(value) * 1000) % MODEL.vocab);
    const [tokens, targets] = [ids(101), ids(202)];
    const device = new OneDevice(request, training, weights);
    const { loss } = device.runStep(
      new Map([
        ["tokens", tokens],
        ["targets", targets],
      ]),
    );
    expect(loss).to.be.closeTo(plainLoss(weights, tokens, targets), 1e-12);
  });
});
