// What rotary embedding, attention and cross-entropy compute, by plain loops in float64, written apart from the op registry.
import { partOf } from "../../shared/mesh/placement.ts";
import { type Expected, get, type OpOperands, product, range, sum } from "./expected-math.ts";

const partIndex = (o: OpOperands, name: string): number =>
  partOf(o.attrs[name] ?? 0, o.mesh, o.coordinates).index;

/** Float32 angle of feature pair `i` at `position`. */
function angle(position: number, i: number, { attrs }: OpOperands): number {
  const f = Math.fround;
  const { headDim = 0, theta = 0, factor, lowFrequency = 0, highFrequency = 0 } = attrs;
  const plain = f(1 / f(theta ** f((2 * i) / headDim)));
  if (factor === undefined) return f(position * plain);
  // Turns within the length trained on: above the high bound as it is, below the low bound slowed down.
  const turns = ((attrs["originalLength"] ?? 0) * plain) / (2 * Math.PI);
  const share = (turns - lowFrequency) / (highFrequency - lowFrequency);
  const smooth = Math.min(1, Math.max(0, share));
  return f(position * f(smooth * plain + ((1 - smooth) * plain) / factor));
}

const rope: Expected = (o) => {
  const [B = 0, T = 0, F = 0] = o.shapes[0] ?? [];
  const { headDim = 0, inverse = 0 } = o.attrs;
  return [
    range(B * T * F).map((at) => {
      const [t, feature] = [Math.floor(at / F) % T, at % F];
      const pair = Math.floor((feature % headDim) / 2);
      const first = o.attrs["context"]
        ? o.scalars.step % o.attrs["context"]
        : partIndex(o, "sequenceAxes") * T;
      const turn = angle(first + t, pair, o) * (inverse === 1 ? -1 : 1);
      const [cos, sin] = [Math.fround(Math.cos(turn)), Math.fround(Math.sin(turn))];
      const x = get(o.inputs[0], at);
      return feature % 2 === 0
        ? x * cos - get(o.inputs[0], at + 1) * sin
        : get(o.inputs[0], at - 1) * sin + x * cos;
    }),
  ];
};

/** Attention of one call in terms of (batch, query head, token): the softmax and what it is applied to. */
class Heads {
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly KV: number;
  readonly n: number;
  readonly #o: OpOperands;
  readonly #q: number;

  /** @param q index of the queries among the inputs; keys and values follow */
  constructor(o: OpOperands, q: number) {
    const [B = 0, T = 0, features = 0] = o.shapes[q] ?? [];
    this.n = o.attrs["headDim"] ?? 0;
    [this.B, this.T, this.H] = [B, T, features / this.n];
    this.KV = (o.shapes[q + 1]?.[2] ?? 0) / this.n;
    this.#o = o;
    this.#q = q;
  }

  /** Key-value head of a local query head, counted locally. */
  kv(h: number): number {
    const { heads = 0, kvHeads = 0 } = this.#o.attrs;
    const global = Math.floor((partIndex(this.#o, "headAxes") * this.H + h) / (heads / kvHeads));
    return global - partIndex(this.#o, "kvHeadAxes") * this.KV;
  }

  query(b: number, t: number, h: number): number {
    return ((b * this.T + t) * this.H + h) * this.n;
  }

  key(b: number, s: number, kv: number): number {
    return ((b * this.T + s) * this.KV + kv) * this.n;
  }

  scores(b: number, t: number, h: number): number[] {
    const [q, k] = [this.#o.inputs[this.#q], this.#o.inputs[this.#q + 1]];
    return range(this.T).map((s) =>
      this.#o.attrs["causal"] === 1 && s > t
        ? Number.NEGATIVE_INFINITY
        : sum(
            this.n,
            (d) => get(q, this.query(b, t, h) + d) * get(k, this.key(b, s, this.kv(h)) + d),
          ) / Math.sqrt(this.n),
    );
  }

  logSum(b: number, t: number, h: number, scores = this.scores(b, t, h)): number {
    const max = Math.max(...scores);
    return max + Math.log(sum(scores.length, (s) => Math.exp(get(scores, s) - max)));
  }

  weights(b: number, t: number, h: number): number[] {
    const scores = this.scores(b, t, h);
    const lse = this.logSum(b, t, h, scores);
    return scores.map((score) => Math.exp(score - lse));
  }

  forEach(visit: (b: number, t: number, h: number) => void): void {
    for (const b of range(this.B))
      for (const t of range(this.T)) for (const h of range(this.H)) visit(b, t, h);
  }
}

function output(o: OpOperands): number[] {
  const heads = new Heads(o, 0);
  const result: number[] = [];
  heads.forEach((b, t, h) => {
    const p = heads.weights(b, t, h);
    for (const d of range(heads.n)) {
      result.push(
        sum(heads.T, (s) => get(p, s) * get(o.inputs[2], heads.key(b, s, heads.kv(h)) + d)),
      );
    }
  });
  return result;
}

function statistics(o: OpOperands): number[] {
  const heads = new Heads(o, 0);
  const result: number[] = [];
  heads.forEach((b, t, h) => {
    result.push(heads.logSum(b, t, h));
  });
  return result;
}

/** [dq, dk, dv] by the softmax's own derivative, from do, q, k and v alone. */
function gradients(o: OpOperands): [number[], number[], number[]] {
  const heads = new Heads(o, 1);
  const [dOut, q, k, v] = o.inputs;
  const zeros = (of: readonly number[] | undefined): number[] => (of ?? []).map(() => 0);
  const [dq, dk, dv] = [zeros(q), zeros(k), zeros(v)];
  const add = (target: number[], i: number, x: number): void => {
    target[i] = get(target, i) + x;
  };
  heads.forEach((b, t, h) => {
    const p = heads.weights(b, t, h);
    const query = heads.query(b, t, h);
    const keys = range(heads.T).map((s) => heads.key(b, s, heads.kv(h)));
    const dp = keys.map((key) => sum(heads.n, (d) => get(dOut, query + d) * get(v, key + d)));
    const mean = sum(heads.T, (s) => get(p, s) * get(dp, s));
    keys.forEach((key, s) => {
      const ds = (get(p, s) * (get(dp, s) - mean)) / Math.sqrt(heads.n);
      for (const d of range(heads.n)) {
        add(dq, query + d, ds * get(k, key + d));
        add(dk, key + d, ds * get(q, query + d));
        add(dv, key + d, get(p, s) * get(dOut, query + d));
      }
    });
  });
  return [dq, dk, dv];
}

/** Rows of logits; targets counted from this rank's first class. */
function logits(
  o: OpOperands,
  z: number,
): { M: number; V: number; row: (m: number) => number[]; target: (m: number) => number } {
  const V = o.shapes[z]?.at(-1) ?? 0;
  return {
    M: product(o.shapes[z]?.slice(0, -1) ?? []),
    V,
    row: (m) => (o.inputs[z] ?? []).slice(m * V, (m + 1) * V),
    target: (m) => get(o.inputs[z + 1], m) - partIndex(o, "classAxes") * V,
  };
}

export const ATTENTION_EXPECTED: Readonly<Record<string, Expected>> = {
  rope,
  attention: (o) => [output(o)],
  attentionStats: (o) => [statistics(o)],
  attentionWithStats: (o) => [output(o), statistics(o)],
  attentionDq: (o) => [gradients(o)[0]],
  attentionDk: (o) => [gradients(o)[1]],
  attentionDv: (o) => [gradients(o)[2]],
  attentionGrad: (o) => gradients(o),
  ceStats: (o) => {
    const { M, row, target } = logits(o, 0);
    return [
      range(M).flatMap((m) => {
        const z = row(m);
        const max = z.reduce((a, b) => Math.max(a, b));
        return [max, sum(z.length, (j) => Math.exp(get(z, j) - max)), z[target(m)] ?? 0];
      }),
    ];
  },
  ceMerge: ({ inputs, shapes, outputLength }) => {
    const parts = shapes[0]?.[0] ?? 0;
    const field = (part: number, i: number): number => get(inputs[0], part * outputLength + i);
    return [
      range(outputLength / 3).flatMap((m) => {
        const max = range(parts).reduce((a, p) => Math.max(a, field(p, 3 * m)), -3.4e38);
        return [
          max,
          sum(parts, (p) => field(p, 3 * m + 1) * Math.exp(field(p, 3 * m) - max)),
          sum(parts, (p) => field(p, 3 * m + 2)),
        ];
      }),
    ];
  },
  ceLoss: ({ inputs, attrs }) => {
    const s = inputs[0] ?? [];
    const total = sum(
      s.length / 3,
      (m) => get(s, 3 * m) + Math.log(get(s, 3 * m + 1)) - get(s, 3 * m + 2),
    );
    return [[total / (attrs["count"] ?? 0)]];
  },
  ceGrad: (o) => {
    const { M, row, target } = logits(o, 1);
    const factor = get(o.inputs[0], 0) / (o.attrs["count"] ?? 0);
    return [
      range(M).flatMap((m) => {
        const [max, total] = [get(o.inputs[3], 3 * m), get(o.inputs[3], 3 * m + 1)];
        return row(m).map(
          (z, j) => factor * (Math.exp(z - max) / total - (j === target(m) ? 1 : 0)),
        );
      }),
    ];
  },
};
