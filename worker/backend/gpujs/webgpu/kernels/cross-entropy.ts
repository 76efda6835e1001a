import type { Kernels } from "../../../kernels.ts";
import { WORKSPACE } from "../device-memory.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";
import { finishSum, TOTAL } from "./reduce.ts";

// Legend: logits z(M, V) of classes from `first` on, targets t(M), statistics s(M, 3) of each token: the largest logit, the
// sum of exp(z - largest), the target's logit.

const STATS = {
  name: "ceStats",
  operands: { z: "f32", t: "i32", s: "f32" },
  params: { V: "u32", first: "i32" },
  by: "group",
  code: `
    var<workgroup> lanes: array<f32, THREADS>;
    fn run(m: u32, lane: u32) {
      var largest = -3.4028234e38f;
      for (var j = lane; j < params.V; j += THREADS) { largest = max(largest, z(m * params.V + j)); }
      lanes[lane] = largest;
      workgroupBarrier();
      for (var l = 0u; l < THREADS + params.zero; l++) { largest = max(largest, lanes[l]); }
      workgroupBarrier();
      var sum = 0.0f;
      for (var j = lane; j < params.V; j += THREADS) { sum += exp(z(m * params.V + j) - largest); }
      lanes[lane] = sum;
      workgroupBarrier();
      if (lane != 0u) { return; }
      for (var l = 1u; l < THREADS + params.zero; l++) { sum += lanes[l]; }
      let target_class = t(m) - params.first;
      set_s(3u * m, largest);
      set_s(3u * m + 1u, sum);
      var at_target = 0.0f;
      if (target_class >= 0 && target_class < i32(params.V)) { at_target = z(m * params.V + u32(target_class)); }
      set_s(3u * m + 2u, at_target);
    }`,
} as const satisfies WgslKernel;

const MERGE = {
  name: "ceMerge",
  operands: { blocks: "f32", s: "f32" },
  params: { parts: "u32" },
  by: "each",
  code: `
    fn run(m: u32) {
      var largest = -3.4028234e38f;
      for (var p = 0u; p < params.parts; p++) { largest = max(largest, blocks(3u * (p * params.n + m))); }
      var sum = 0.0f;
      var at_target = 0.0f;
      for (var p = 0u; p < params.parts; p++) {
        let at = 3u * (p * params.n + m);
        sum += blocks(at + 1u) * exp(blocks(at) - largest);
        at_target += blocks(at + 2u);
      }
      set_s(3u * m, largest);
      set_s(3u * m + 1u, sum);
      set_s(3u * m + 2u, at_target);
    }`,
} as const satisfies WgslKernel;

/** Losses of some tokens, added up in float64. */
const LOSS_PARTS = {
  name: "ceLoss",
  operands: { s: "f32", parts: "f64" },
  params: { M: "u32", span: "u32" },
  libraries: ["float64"],
  by: "group",
  code: `${TOTAL}
    fn run(group: u32, lane: u32) {
      var sum = vec2<u32>(0u, 0u);
      for (var m = group * params.span + lane; m < min(params.M, (group + 1u) * params.span); m += THREADS) {
        sum = f64_add(sum, f64_from_f32(log(s(3u * m + 1u))));
        sum = f64_add(sum, f64_from_f32(s(3u * m)));
        sum = f64_add(sum, f64_negative(f64_from_f32(s(3u * m + 2u))));
      }
      let all = total(lane, sum);
      if (lane == 0u) { set_parts(group, all); }
    }`,
} as const satisfies WgslKernel;

/** dz = ds / count * (exp(z - largest) / sum - [class is the target]). */
const GRADIENT = {
  name: "ceGrad",
  operands: { ds: "f32", z: "f32", t: "i32", s: "f32", dz: "f32" },
  params: { V: "u32", first: "i32", count: "f32" },
  by: "each",
  code: `
    fn run(i: u32) {
      let m = i / params.V;
      let weight = exp(z(i) - s(3u * m));
      let sum = s(3u * m + 1u);
      let factor = ds(0u) / params.count;
      // The target's weight is near the sum where the model is sure: the difference first, it is what counts.
      if (i32(i % params.V) == t(m) - params.first) { set_dz(i, factor * ((weight - sum) / sum)); }
      else { set_dz(i, factor * (weight / sum)); }
    }`,
} as const satisfies WgslKernel;

const LOSS_SPAN = 1024;
const MOST_GROUPS = 1024;

export function crossEntropy(
  launcher: Launcher,
): Pick<Kernels, "ceStats" | "ceMerge" | "ceLoss" | "ceGrad"> {
  return {
    ceStats(z, t, s, M, V, first) {
      const operands = { z: [z, M * V], t: [t, M], s: [s, 3 * M] } as const;
      launcher.launch(STATS, { operands, params: { V, first }, n: M });
    },
    ceMerge(blocks, s, parts, M) {
      const operands = { blocks: [blocks, 3 * parts * M], s: [s, 3 * M] } as const;
      launcher.launch(MERGE, { operands, params: { parts }, n: M });
    },
    ceLoss(s, loss, M, count) {
      const span = Math.max(LOSS_SPAN, Math.ceil(M / MOST_GROUPS));
      const groups = Math.ceil(M / span);
      launcher.launch(LOSS_PARTS, {
        operands: { s: [s, 3 * M], parts: [WORKSPACE, groups] },
        params: { M, span },
        n: groups,
      });
      finishSum(launcher, groups, { single: loss, divisor: count });
    },
    ceGrad(ds, z, t, s, dz, M, V, first, count) {
      const n = M * V;
      const operands = { ds: [ds, 1], z: [z, n], t: [t, M], s: [s, 3 * M], dz: [dz, n] } as const;
      launcher.launch(GRADIENT, { operands, params: { V, first, count }, n });
    },
  };
}
