/* exp and quotients as exact as a result's dtype asks for, and what activations and gates make of them. */
#pragma once
#include "common.cuh"

/* A bfloat16 result keeps 8 bits: the hardware's approximations, good to 22, do there. */
template <typename T>
struct math;
template <>
struct math<float> {
  static RM_CALL float exp(float x) { return expf(x); }
  static RM_CALL float divide(float a, float b) { return a / b; }
};
template <>
struct math<bf16> {
  static RM_CALL float exp(float x) { return __expf(x); }
  static RM_CALL float divide(float a, float b) { return __fdividef(a, b); }
};

template <typename T>
RM_DEVICE float sigmoid(float x) {
  return math<T>::divide(1.0f, 1.0f + math<T>::exp(-x));
}

template <typename T>
RM_DEVICE float silu(float x) {
  return math<T>::divide(x, 1.0f + math<T>::exp(-x));
}

template <typename T>
RM_DEVICE float silu_slope(float x) {
  const float s = sigmoid<T>(x);
  return s * (1.0f + x * (1.0f - s));
}
