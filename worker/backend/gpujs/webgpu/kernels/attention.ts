import { InternalError } from "../../../../../shared/errors.ts";
import { type Address, type HeadSizes, type Kernels, NULL } from "../../../kernels.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";

// Legend: q, o, their gradients (B, T, H, F); k, v and theirs (B, T, KV, F); lse(B, T, H). Query head h reads key-value head
// (h + shift) / group.

/** Rows that a group computes together: each key it reads serves all of them. */
const BLOCK = 4;

/** Features that kernels are built for; a head of fewer leaves lanes and memory unused. */
const MOST_FEATURES = [64, 128, 512];

/** What kernels share. The constant MOST: features of a head they have room for. */
const COMMON = /* wgsl */ `
const BLOCK = ${BLOCK}u;
// Features of a head that a lane is for: lane, lane + THREADS, ...
const EACH = MOST / THREADS;
const LOWEST = -3.4028234e38f;

fn query_at(b: u32, t: u32, h: u32) -> u32 { return ((b * params.T + t) * params.H + h) * params.F; }
fn key_at(b: u32, t: u32, kv: u32) -> u32 { return ((b * params.T + t) * params.KV + kv) * params.F; }
fn head_of(h: u32) -> u32 { return (h + params.shift) / params.group; }
// A query that sees one key alone gives it weight 1 whatever its score, which has no gradient then: not what rounding leaves of one.
fn alone(query: u32) -> bool { return query == 0u && (params.causal == 1u || params.T == 1u); }

// Four rows at a time are the parts of a vector.
var<workgroup> tile: array<vec4<f32>, THREADS>;
// The largest, or the sum, of the lanes' values: each lane goes through all of them. The bound is no constant, so that no
// compiler unrolls the loop.
fn lanes_largest(lane: u32, value: vec4<f32>) -> vec4<f32> {
  tile[lane] = value;
  workgroupBarrier();
  var found = tile[0];
  for (var l = 1u; l < THREADS + params.zero; l++) { found = max(found, tile[l]); }
  workgroupBarrier();
  return found;
}
fn lanes_total(lane: u32, value: vec4<f32>) -> vec4<f32> {
  tile[lane] = value;
  workgroupBarrier();
  var found = tile[0];
  for (var l = 1u; l < THREADS + params.zero; l++) { found += tile[l]; }
  workgroupBarrier();
  return found;
}
// Of queries from q0 on, those that see the key; of keys from k0 on, those that the query sees.
fn seen_by(q0: u32, rows: u32, key: u32) -> vec4<bool> {
  let r = vec4<u32>(0u, 1u, 2u, 3u);
  return (r < vec4<u32>(rows)) & (vec4<bool>(params.causal == 0u) | (q0 + r >= vec4<u32>(key)));
}
fn seen_from(query: u32, k0: u32, rows: u32) -> vec4<bool> {
  let r = vec4<u32>(0u, 1u, 2u, 3u);
  return (r < vec4<u32>(rows)) & (vec4<bool>(params.causal == 0u) | (k0 + r <= vec4<u32>(query)));
}
const NONE = vec4<f32>(0.0f);
// The 16 KiB of a group's memory that every adapter has hold one operand of the largest heads, not two: the other is read again then.
const STAGED = MOST <= 256u;
const STAGED_FEATURES = select(1u, MOST, STAGED);`;

const PARAMS = {
  T: "u32",
  H: "u32",
  KV: "u32",
  F: "u32",
  group: "u32",
  shift: "u32",
  causal: "u32",
  scale: "f32",
} as const;

/** A group for four queries of a head, over tiles of a key for each lane. */
const FORWARD = {
  name: "attention",
  operands: { q: "f32", k: "f32", v: "f32", o: "f32", lse: "f32" },
  params: PARAMS,
  by: "group",
  code: `${COMMON}
    var<workgroup> queries: array<vec4<f32>, MOST>;
    var<workgroup> weights: array<vec4<f32>, THREADS>;

    fn run(group: u32, lane: u32) {
      let blocks = (params.T + BLOCK - 1u) / BLOCK;
      let q0 = group % blocks * BLOCK;
      let h = group / blocks % params.H;
      let b = group / blocks / params.H;
      let kv = head_of(h);
      let rows = min(BLOCK, params.T - q0);
      for (var j = lane; j < params.F; j += THREADS) {
        var query = NONE;
        for (var r = 0u; r < rows; r++) { query[r] = q(query_at(b, q0 + r, h) + j) * params.scale; }
        queries[j] = query;
      }
      workgroupBarrier();
      var largest = vec4<f32>(LOWEST);
      var sum = NONE;
      var out: array<vec4<f32>, EACH>;
      var keys = params.T;
      if (params.causal == 1u) { keys = q0 + rows; }
      for (var first = 0u; first < keys; first += THREADS) {
        let key = first + lane;
        var scores = vec4<f32>(LOWEST);
        var seen = vec4<bool>(false);
        if (key < keys) {
          seen = seen_by(q0, rows, key);
          let at = key_at(b, key, kv);
          var products = NONE;
          for (var j = 0u; j < params.F; j++) { products += queries[j] * k(at + j); }
          scores = select(scores, products, seen);
        }
        let top = max(largest, lanes_largest(lane, scores));
        let back = exp_each(largest - top);
        largest = top;
        let weight = select(NONE, exp_each(scores - top), seen);
        weights[lane] = weight;
        sum = sum * back + weight;
        workgroupBarrier();
        if (has_o) {
          let count = min(THREADS, keys - first);
          for (var e = 0u; e < EACH; e++) {
            let j = e * THREADS + lane;
            var add = NONE;
            if (j < params.F) {
              for (var s = 0u; s < count; s++) { add += weights[s] * v(key_at(b, first + s, kv) + j); }
            }
            out[e] = out[e] * back + add;
          }
        }
        workgroupBarrier();
      }
      let totals = lanes_total(lane, sum);
      for (var r = 0u; r < rows; r++) {
        if (has_o) {
          for (var e = 0u; e < EACH; e++) {
            let j = e * THREADS + lane;
            if (j < params.F) { set_o(query_at(b, q0 + r, h) + j, out[e][r] / totals[r]); }
          }
        }
        if (has_lse && lane == 0u) {
          set_lse((b * params.T + q0 + r) * params.H + h, largest[r] + log(totals[r]));
        }
      }
    }`,
} as const satisfies WgslKernel;

/** A group for four queries of a head: dq = scale ds k, with ds = p (d_out . v - D) and D = d_out . o. */
const GRADIENT_QUERIES = {
  name: "attentionDq",
  operands: { dOut: "f32", q: "f32", k: "f32", v: "f32", o: "f32", lse: "f32", dq: "f32" },
  params: PARAMS,
  by: "group",
  code: `${COMMON}
    var<workgroup> queries: array<vec4<f32>, MOST>;
    var<workgroup> outs: array<vec4<f32>, STAGED_FEATURES>;
    var<workgroup> slopes: array<vec4<f32>, THREADS>;

    // Feature j of the gradients of four queries' outputs.
    fn out_feature(b: u32, q0: u32, h: u32, rows: u32, j: u32) -> vec4<f32> {
      var out = NONE;
      for (var r = 0u; r < rows; r++) { out[r] = dOut(query_at(b, q0 + r, h) + j); }
      return out;
    }
    fn run(group: u32, lane: u32) {
      let blocks = (params.T + BLOCK - 1u) / BLOCK;
      let q0 = group % blocks * BLOCK;
      let h = group / blocks % params.H;
      let b = group / blocks / params.H;
      let kv = head_of(h);
      let rows = min(BLOCK, params.T - q0);
      var dots = NONE;
      var statistics = NONE;
      for (var j = lane; j < params.F; j += THREADS) {
        var query = NONE;
        for (var r = 0u; r < rows; r++) {
          let at = query_at(b, q0 + r, h) + j;
          query[r] = q(at) * params.scale;
          dots[r] += dOut(at) * o(at);
        }
        queries[j] = query;
        if (STAGED) { outs[j] = out_feature(b, q0, h, rows, j); }
      }
      for (var r = 0u; r < rows; r++) { statistics[r] = lse((b * params.T + q0 + r) * params.H + h); }
      let means = lanes_total(lane, dots);
      var sum: array<vec4<f32>, EACH>;
      var keys = params.T;
      if (params.causal == 1u) { keys = q0 + rows; }
      for (var first = 0u; first < keys; first += THREADS) {
        let key = first + lane;
        var slope = NONE;
        if (key < keys) {
          let at = key_at(b, key, kv);
          var scores = NONE;
          var values = NONE;
          for (var j = 0u; j < params.F; j++) {
            scores += queries[j] * k(at + j);
            if (STAGED) { values += outs[j] * v(at + j); }
            else { values += out_feature(b, q0, h, rows, j) * v(at + j); }
          }
          slope = exp_each(scores - statistics) * (values - means);
          slope = select(NONE, slope, seen_by(q0, rows, key));
          if (alone(q0)) { slope.x = 0.0f; }
        }
        slopes[lane] = slope;
        workgroupBarrier();
        let count = min(THREADS, keys - first);
        for (var e = 0u; e < EACH; e++) {
          let j = e * THREADS + lane;
          if (j >= params.F) { continue; }
          var add = NONE;
          for (var s = 0u; s < count; s++) { add += slopes[s] * k(key_at(b, first + s, kv) + j); }
          sum[e] += add;
        }
        workgroupBarrier();
      }
      for (var r = 0u; r < rows; r++) {
        for (var e = 0u; e < EACH; e++) {
          let j = e * THREADS + lane;
          if (j < params.F) { set_dq(query_at(b, q0 + r, h) + j, sum[e][r] * params.scale); }
        }
      }
    }`,
} as const satisfies WgslKernel;

/** A group for four keys of a key-value head, over tiles of a query for each lane: dk = scale ds^T q, dv = p^T d_out. */
const GRADIENT_KEYS = {
  name: "attentionDkDv",
  operands: {
    dOut: "f32",
    q: "f32",
    k: "f32",
    v: "f32",
    o: "f32",
    lse: "f32",
    dk: "f32",
    dv: "f32",
  },
  params: PARAMS,
  by: "group",
  code: `${COMMON}
    var<workgroup> keys: array<vec4<f32>, MOST>;
    var<workgroup> values: array<vec4<f32>, STAGED_FEATURES>;
    var<workgroup> weights: array<vec4<f32>, THREADS>;

    // Feature j of four values.
    fn value_feature(b: u32, k0: u32, kv: u32, rows: u32, j: u32) -> vec4<f32> {
      var value = NONE;
      for (var r = 0u; r < rows; r++) { value[r] = v(key_at(b, k0 + r, kv) + j); }
      return value;
    }
    fn run(group: u32, lane: u32) {
      let blocks = (params.T + BLOCK - 1u) / BLOCK;
      let k0 = group % blocks * BLOCK;
      let kv = group / blocks % params.KV;
      let b = group / blocks / params.KV;
      let rows = min(BLOCK, params.T - k0);
      for (var j = lane; j < params.F; j += THREADS) {
        var key = NONE;
        for (var r = 0u; r < rows; r++) { key[r] = k(key_at(b, k0 + r, kv) + j) * params.scale; }
        keys[j] = key;
        if (STAGED) { values[j] = value_feature(b, k0, kv, rows, j); }
      }
      workgroupBarrier();
      var sum_k: array<vec4<f32>, EACH>;
      var sum_v: array<vec4<f32>, EACH>;
      let first_head = max(kv * params.group, params.shift) - params.shift;
      let end_head = min(params.H, max((kv + 1u) * params.group, params.shift) - params.shift);
      var start = 0u;
      if (params.causal == 1u) { start = k0; }
      for (var h = first_head; h < end_head; h++) {
        for (var first = start; first < params.T; first += THREADS) {
          let query = first + lane;
          var weight = NONE;
          var slope = NONE;
          if (query < params.T) {
            let at = query_at(b, query, h);
            var scores = NONE;
            var products = NONE;
            var mean = 0.0f;
            for (var j = 0u; j < params.F; j++) {
              let dj = dOut(at + j);
              mean += dj * o(at + j);
              scores += keys[j] * q(at + j);
              if (STAGED) { products += values[j] * dj; }
              else { products += value_feature(b, k0, kv, rows, j) * dj; }
            }
            let statistic = lse((b * params.T + query) * params.H + h);
            let seen = seen_from(query, k0, rows);
            weight = select(NONE, exp_each(scores - vec4<f32>(statistic)), seen);
            slope = weight * (products - vec4<f32>(mean));
            if (alone(query)) { slope = NONE; }
          }
          weights[lane] = weight;
          tile[lane] = slope;
          workgroupBarrier();
          let count = min(THREADS, params.T - first);
          for (var e = 0u; e < EACH; e++) {
            let j = e * THREADS + lane;
            if (j >= params.F) { continue; }
            var add_k = NONE;
            var add_v = NONE;
            for (var s = 0u; s < count; s++) {
              let at = query_at(b, first + s, h) + j;
              if (has_dk) { add_k += tile[s] * q(at); }
              if (has_dv) { add_v += weights[s] * dOut(at); }
            }
            sum_k[e] += add_k;
            sum_v[e] += add_v;
          }
          workgroupBarrier();
        }
      }
      for (var r = 0u; r < rows; r++) {
        for (var e = 0u; e < EACH; e++) {
          let j = e * THREADS + lane;
          if (j >= params.F) { continue; }
          let at = key_at(b, k0 + r, kv) + j;
          if (has_dk) { set_dk(at, sum_k[e][r] * params.scale); }
          if (has_dv) { set_dv(at, sum_v[e][r]); }
        }
      }
    }`,
} as const satisfies WgslKernel;

/** One query a head, over the rows of the caches up to its own position: a group for each head. */
const CACHED = {
  name: "attentionCached",
  operands: { q: "f32", keys: "f32", values: "f32", o: "f32" },
  params: {
    H: "u32",
    KV: "u32",
    F: "u32",
    group: "u32",
    shift: "u32",
    positions: "u32",
    scale: "f32",
  },
  by: "group",
  code: `
    const EACH = MOST / THREADS;
    var<workgroup> query: array<f32, MOST>;
    var<workgroup> weights: array<f32, THREADS>;
    var<workgroup> lanes: array<f32, THREADS>;
    fn largest_of(lane: u32, value: f32) -> f32 {
      lanes[lane] = value;
      workgroupBarrier();
      var found = lanes[0];
      for (var l = 1u; l < THREADS + params.zero; l++) { found = max(found, lanes[l]); }
      workgroupBarrier();
      return found;
    }
    fn run(h: u32, lane: u32) {
      let head = (h + params.shift) / params.group * params.F;
      let stride = params.KV * params.F;
      for (var j = lane; j < params.F; j += THREADS) { query[j] = q(h * params.F + j) * params.scale; }
      workgroupBarrier();
      var largest = -3.4028234e38f;
      var sum = 0.0f;
      var out: array<f32, EACH>;
      for (var first = 0u; first < params.positions; first += THREADS) {
        let position = first + lane;
        var score = 0.0f;
        if (position < params.positions) {
          for (var j = 0u; j < params.F; j++) { score += query[j] * keys(position * stride + head + j); }
        } else {
          score = -3.4028234e38f;
        }
        let top = max(largest, largest_of(lane, score));
        let back = exp(largest - top);
        largest = top;
        weights[lane] = 0.0f;
        if (position < params.positions) { weights[lane] = exp(score - top); }
        workgroupBarrier();
        let count = min(THREADS, params.positions - first);
        var weight = 0.0f;
        for (var s = 0u; s < count; s++) { weight += weights[s]; }
        sum = sum * back + weight;
        for (var e = 0u; e < EACH; e++) {
          let j = e * THREADS + lane;
          if (j >= params.F) { continue; }
          var add = 0.0f;
          for (var s = 0u; s < count; s++) { add += weights[s] * values((first + s) * stride + head + j); }
          out[e] = out[e] * back + add;
        }
        workgroupBarrier();
      }
      for (var e = 0u; e < EACH; e++) {
        let j = e * THREADS + lane;
        if (j < params.F) { set_o(h * params.F + j, out[e] / sum); }
      }
    }`,
} as const satisfies WgslKernel;

function roomFor(features: number): number {
  const found = MOST_FEATURES.find((most) => most >= features);
  if (found === undefined) throw new InternalError(`attention: heads of ${features} features`);
  return found;
}

const blocks = (T: number): number => Math.ceil(T / BLOCK);

export function attention(
  launcher: Launcher,
  copy: Kernels["copy"],
): Pick<Kernels, "attention" | "attentionGrad" | "attentionCached"> {
  const common = ([, T, H, KV, F, group, shift, causal]: HeadSizes) => ({
    params: { T, H, KV, F, group, shift, causal, scale: 1 / Math.sqrt(F) },
    constants: { MOST: roomFor(F) },
  });
  return {
    attention(q, k, v, o, lse, ...sizes) {
      const [B, T, H, KV, F] = sizes;
      const [nq, nk] = [B * T * H * F, B * T * KV * F];
      launcher.launch(FORWARD, {
        operands: { q: [q, nq], k: [k, nk], v: [v, nk], o: [o, nq], lse: [lse, B * T * H] },
        ...common(sizes),
        n: B * H * blocks(T),
      });
    },
    attentionGrad(dOut, q, k, v, o, lse, dq, dk, dv, ...sizes) {
      const [B, T, H, KV, F] = sizes;
      const [nq, nk] = [B * T * H * F, B * T * KV * F];
      const read = {
        dOut: [dOut, nq],
        q: [q, nq],
        k: [k, nk],
        v: [v, nk],
        o: [o, nq],
        lse: [lse, B * T * H],
      } as const;
      if (dq !== NULL) {
        launcher.launch(GRADIENT_QUERIES, {
          operands: { ...read, dq: [dq, nq] },
          ...common(sizes),
          n: B * H * blocks(T),
        });
      }
      if (dk === NULL && dv === NULL) return;
      launcher.launch(GRADIENT_KEYS, {
        operands: { ...read, dk: [dk, nk], dv: [dv, nk] },
        ...common(sizes),
        n: B * KV * blocks(T),
      });
    },
    attentionCached(q, k, v, keys, values, o, H, KV, F, group, shift, position) {
      const rowBytes = 4 * KV * F;
      const put = (cache: Address, row: Address): void =>
        copy(cache + position * rowBytes, rowBytes, row, rowBytes, rowBytes, 1);
      put(keys, k);
      put(values, v);
      const positions = position + 1;
      const cached = positions * KV * F;
      launcher.launch(CACHED, {
        operands: {
          q: [q, H * F],
          keys: [keys, cached],
          values: [values, cached],
          o: [o, H * F],
        },
        params: { H, KV, F, group, shift, positions, scale: 1 / Math.sqrt(F) },
        constants: { MOST: roomFor(F) },
        n: H,
      });
    },
  };
}
