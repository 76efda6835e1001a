/* One element of an optimizer's update, as worker/backend/cpu/native/update.h has it. */
#pragma once
#include "common.cuh"

/* STORE writes the gradient itself. */
enum update_kind { ADAMW, SGD, SGD_MOMENTUM, STORE };

/* Tensors that the update reads (but STORE) and writes: w; w and m; or w, m and v. */
template <update_kind KIND>
struct update_tensors {
  static constexpr int count = KIND == ADAMW ? 3 : KIND == SGD_MOMENTUM ? 2 : 1;
};

/* s[0..count) are an element of w, m and v; g is its gradient, clipped already. */
template <update_kind KIND>
RM_DEVICE void update_element(float g, float (&s)[update_tensors<KIND>::count],
                              const step_scalars &by) {
  if constexpr (KIND == STORE) {
    s[0] = g;
  } else if constexpr (KIND == SGD) {
    s[0] -= by.step_size * g;
  } else if constexpr (KIND == SGD_MOMENTUM) {
    s[1] = by.momentum * s[1] + g;
    s[0] -= by.step_size * s[1];
  } else {
    s[1] += (g - s[1]) * by.one_minus_beta1;
    s[2] = by.beta2 * s[2] + by.one_minus_beta2 * g * g;
    s[0] = s[0] * by.decay - by.step_size * s[1] / (sqrtf(s[2]) * by.root_scale + by.eps);
  }
}

/* What the gradient is multiplied by; `factor` may be left out. */
RM_DEVICE float factor_of(const float *factor) { return factor ? *factor : 1.0f; }
