import type { StepScalars } from "../../../../../shared/optimizer/step-scalars.ts";
import type { Address, Kernels } from "../../../kernels.ts";
import type { LaunchOperand } from "../bind-operands.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";

/** What is done with the element `at` of a gradient: it is stored in w, or w, m and v are updated by it. */
export const KIND = { store: 0, adamw: 1, sgd: 2 } as const;

/** Operands of `UPDATE`; m is left out by SGD without momentum. */
export const UPDATE_OPERANDS = { w: "f32", m: "f32", v: "f32", factor: "f32" } as const;

export const UPDATE_PARAMS = {
  oneMinusBeta1: "f32",
  beta2: "f32",
  oneMinusBeta2: "f32",
  decay: "f32",
  stepSize: "f32",
  rootScale: "f32",
  eps: "f32",
  momentum: "f32",
} as const;

/** `update(at, gradient)`, by the constant KIND. As update.h. */
export const UPDATE = /* wgsl */ `
fn update(at: u32, gradient: f32) {
  if (KIND == 0u) {
    set_w(at, gradient);
    return;
  }
  var g = gradient;
  if (has_factor) { g *= factor(0u); }
  if (KIND == 2u) {
    if (has_m) {
      g += params.momentum * m(at);
      set_m(at, g);
    }
    set_w(at, w(at) - params.stepSize * g);
    return;
  }
  var mi = m(at);
  var vi = v(at);
  mi += (g - mi) * params.oneMinusBeta1;
  vi = params.beta2 * vi + params.oneMinusBeta2 * g * g;
  set_m(at, mi);
  set_v(at, vi);
  set_w(at, w(at) * params.decay - params.stepSize * mi / (sqrt(vi) * params.rootScale + params.eps));
}`;

const FROM_GRADIENT = {
  name: "update",
  operands: { g: "f32", ...UPDATE_OPERANDS },
  params: UPDATE_PARAMS,
  by: "each",
  code: `${UPDATE}
    fn run(i: u32) { update(i, g(i)); }`,
} as const satisfies WgslKernel;

/** Scalars of the step that runs: they go with every launch that needs them. */
export interface CurrentScalars {
  readonly current: StepScalars;
}

/** Operands of an update of n elements. */
export function updateOperands(
  n: number,
  w: Address,
  m: Address,
  v: Address,
  factor: Address,
): { w: LaunchOperand; m: LaunchOperand; v: LaunchOperand; factor: LaunchOperand } {
  return { w: [w, n], m: [m, n], v: [v, n], factor: [factor, 1] };
}

export function updates(
  launcher: Launcher,
  scalars: CurrentScalars,
): Pick<Kernels, "adamw" | "sgd"> {
  const launch = (
    kind: number,
    n: number,
    g: Address,
    operands: ReturnType<typeof updateOperands>,
  ): void =>
    launcher.launch(FROM_GRADIENT, {
      operands: { g: [g, n], ...operands },
      params: scalars.current,
      constants: { KIND: kind },
      n,
    });
  return {
    adamw: (w, g, m, v, n, factor) => launch(KIND.adamw, n, g, updateOperands(n, w, m, v, factor)),
    sgd: (w, g, m, n, factor) => launch(KIND.sgd, n, g, updateOperands(n, w, m, 0, factor)),
  };
}
