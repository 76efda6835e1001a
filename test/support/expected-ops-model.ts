// What embeddings, norms, gates, dropout and views compute, by plain loops in float64, written apart from the op registry.
import { partOf } from "../../shared/mesh/placement.ts";
import { philox4x32 } from "../../shared/random/philox.ts";
import { type Expected, get, map, type OpOperands, product, range, sum } from "./expected-math.ts";

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const silu = (x: number): number => x * sigmoid(x);
const siluSlope = (x: number): number => sigmoid(x) + x * sigmoid(x) * sigmoid(-x);

const part = (o: OpOperands, name: string): { index: number; parts: number } =>
  partOf(o.attrs[name] ?? 0, o.mesh, o.coordinates);

/** Gradient of a table of `rows` local rows: element (r, d) sums the tokens whose id is r. */
function tableGradient(o: OpOperands, rows: number): number[] {
  const [dy, ids = []] = o.inputs;
  const D = o.shapes[0]?.at(-1) ?? 0;
  const start = part(o, "rowAxes").index * rows;
  const tokensOf = range(rows).map((): number[] => []);
  ids.forEach((id, t) => {
    tokensOf[id - start]?.push(t);
  });
  return tokensOf.flatMap((tokens) =>
    range(D).map((d) => tokens.reduce((total, t) => total + get(dy, t * D + d), 0)),
  );
}

const factorAt = (o: OpOperands, index: number): number =>
  o.attrs["hasFactor"] === 1 ? get(o.inputs[index], 0) : 1;

const adamwFromRows: Expected = (o) => {
  const [, , w = [], m = [], v = []] = o.inputs;
  const s = o.scalars;
  const f = factorAt(o, 5);
  const g = tableGradient(o, o.shapes[2]?.[0] ?? 0).map((gi) => gi * f);
  const m1 = g.map((gi, i) => get(m, i) * (1 - s.oneMinusBeta1) + gi * s.oneMinusBeta1);
  const v1 = g.map((gi, i) => s.beta2 * get(v, i) + s.oneMinusBeta2 * gi ** 2);
  const w1 = w.map((wi, i) => {
    const step = get(m1, i) / (Math.sqrt(get(v1, i)) * s.rootScale + s.eps);
    return wi * s.decay - s.stepSize * step;
  });
  return [w1, m1, v1];
};

const sgdFromRows: Expected = (o) => {
  const [, , w = [], m = []] = o.inputs;
  const hasMomentum = o.attrs["hasMomentum"] === 1;
  const f = factorAt(o, hasMomentum ? 4 : 3);
  const g = tableGradient(o, o.shapes[2]?.[0] ?? 0).map((gi) => gi * f);
  const m1 = hasMomentum ? g.map((gi, i) => o.scalars.momentum * get(m, i) + gi) : g;
  const w1 = w.map((wi, i) => wi - o.scalars.stepSize * get(m1, i));
  return hasMomentum ? [w1, m1] : [w1];
};

/** Rows of x with their mean (0 for RMS) and 1 / sqrt(spread + eps). */
function normalised(x: readonly number[], D: number, eps: number, layer: boolean) {
  const M = D === 0 ? 0 : x.length / D;
  return range(M).map((m) => {
    const row = x.slice(m * D, (m + 1) * D);
    const mean = layer ? sum(D, (d) => get(row, d)) / D : 0;
    const rate = 1 / Math.sqrt(sum(D, (d) => (get(row, d) - mean) ** 2) / D + eps);
    return { xhat: row.map((xi) => (xi - mean) * rate), rate };
  });
}

function norm(layer: boolean): Expected {
  return ({ inputs: [x = [], g = [], b], attrs }) => [
    normalised(x, g.length, attrs["eps"] ?? 0, layer).flatMap(({ xhat }) =>
      xhat.map((h, d) => h * get(g, d) + (b === undefined ? 0 : get(b, d))),
    ),
  ];
}

function normDx(layer: boolean): Expected {
  return ({ inputs: [dy, x = [], g = []], attrs }) => {
    const D = g.length;
    return [
      normalised(x, D, attrs["eps"] ?? 0, layer).flatMap(({ xhat, rate }, m) => {
        const d = g.map((gi, i) => get(dy, m * D + i) * gi);
        const mean = layer ? sum(D, (i) => get(d, i)) / D : 0;
        const slope = sum(D, (i) => get(d, i) * get(xhat, i)) / D;
        return d.map((di, i) => rate * (di - mean - get(xhat, i) * slope));
      }),
    ];
  };
}

function normDg(layer: boolean): Expected {
  return ({ inputs: [dy, x = []], shapes, attrs }) => {
    const D = shapes[1]?.at(-1) ?? 0;
    const rows = normalised(x, D, attrs["eps"] ?? 0, layer);
    return [
      range(D).map((d) => sum(rows.length, (m) => get(dy, m * D + d) * get(rows[m]?.xhat, d))),
    ];
  };
}

const both =
  (...parts: readonly Expected[]): Expected =>
  (o) =>
    parts.flatMap((f) => f(o));

const swigluDa: Expected = map((dy = 0, a = 0, b = 0) => dy * siluSlope(a) * b);
const swigluDb: Expected = map((dy = 0, a = 0) => dy * silu(a));

/** The multi-index of element i. */
function indexOf(i: number, shape: readonly number[]): number[] {
  const index: number[] = [];
  let rest = i;
  for (const size of shape.toReversed()) {
    index.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return index;
}

const dropout: Expected = (o) => {
  const [shape = []] = o.shapes;
  const {
    rate = 0,
    microbatches = 1,
    seedLow = 0,
    seedHigh = 0,
    nameLow = 0,
    nameHigh = 0,
  } = o.attrs;
  const { step, microbatch } = o.scalars;
  const parts = shape.map((_, dim) => part(o, `axes${dim}`));
  return [
    (o.inputs[0] ?? []).map((x, i) => {
      let element = 0;
      indexOf(i, shape).forEach((at, dim) => {
        const { index = 0, parts: count = 1 } = parts[dim] ?? {};
        const size = shape[dim] ?? 0;
        const rows = dim === 0 ? size * microbatches : size;
        const global = index * rows + (dim === 0 ? microbatch * size : 0) + at;
        element = element * rows * count + global;
      });
      const block = new Uint32Array([Math.floor(element / 4), step, nameLow, nameHigh]);
      philox4x32(block, block, seedLow, seedHigh);
      const word = block[element % 4] ?? 0;
      return word >= Math.floor(rate * 2 ** 32) ? x * Math.fround(1 / (1 - rate)) : 0;
    }),
  ];
};

const transpose: Expected = ({ inputs: [x], shapes: [shape = []], attrs: { a = 0, b = 0 } }) => {
  const swap = (list: readonly number[]): number[] =>
    list.map((value, d) => (d === a ? (list[b] ?? 0) : d === b ? (list[a] ?? 0) : value));
  return [
    range(product(shape)).map((i) => {
      const at = swap(indexOf(i, swap(shape)));
      return get(
        x,
        at.reduce((flat, index, d) => flat * (shape[d] ?? 0) + index, 0),
      );
    }),
  ];
};

export const MODEL_EXPECTED: Readonly<Record<string, Expected>> = {
  embedding: (o) => {
    const [ids = [], w] = o.inputs;
    const [V = 0, D = 0] = o.shapes[1] ?? [];
    const start = part(o, "rowAxes").index * V;
    return [
      ids.flatMap((id) =>
        range(D).map((d) => (id >= start && id < start + V ? get(w, (id - start) * D + d) : 0)),
      ),
    ];
  },
  embeddingDw: (o) => [tableGradient(o, o.outputShape[0] ?? 0)],
  adamwFromRows,
  sgdFromRows,
  sumSquaresFromRows: (o) => {
    const rows = (o.inputs[2]?.length ?? 0) - 1 - (o.inputs[1]?.length ?? 0);
    return [[tableGradient(o, rows).reduce((total, g) => total + g * g, 0)]];
  },
  addPosition: (o) => {
    const [x = [], p] = o.inputs;
    const [, T = 0, D = 0] = o.shapes[0] ?? [];
    const start = o.attrs["context"]
      ? o.scalars.step % o.attrs["context"]
      : part(o, "sequenceAxes").index * T;
    return [x.map((xi, i) => xi + get(p, start * D + (i % (T * D))))];
  },
  addPositionDp: (o) => {
    const [B = 0, T = 0, D = 0] = o.shapes[0] ?? [];
    const start = part(o, "sequenceAxes").index * T;
    return [
      range(o.outputLength).map((i) => {
        const t = Math.floor(i / D) - start;
        return t >= 0 && t < T ? sum(B, (b) => get(o.inputs[0], (b * T + t) * D + (i % D))) : 0;
      }),
    ];
  },
  ...Object.fromEntries(
    [false, true].flatMap((layer) => {
      const name = layer ? "layerNorm" : "rmsNorm";
      return [
        [name, norm(layer)],
        [`${name}Dx`, normDx(layer)],
        [`${name}Dg`, normDg(layer)],
        [`${name}Grad`, both(normDx(layer), normDg(layer))],
      ];
    }),
  ),
  geluTanh: map((x = 0) => 0.5 * x * (1 + Math.tanh(geluArgument(x)))),
  geluTanhGrad: map((dy = 0, x = 0) => {
    const u = geluArgument(x);
    const slope = Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
    // 1 + tanh(u) cancels for negative u; 2 sigmoid(2u) does not.
    return dy * (sigmoid(2 * u) + (0.5 * x * slope) / Math.cosh(u) ** 2);
  }),
  swiglu: map((a = 0, b = 0) => silu(a) * b),
  swigluDa,
  swigluDb,
  swigluGrad: both(swigluDa, swigluDb),
  dropout,
  reshape: map((x = 0) => x),
  transpose,
};

const geluArgument = (x: number): number => Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
