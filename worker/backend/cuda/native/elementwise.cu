/* Elementwise ops. Outputs may be the very bytes of an input. */
#include "map_elements.cuh"
#include "silu.cuh"

/* ---- functions ---- */

/* Relative accuracy is kept in the lower tail, as erfc keeps it. */
RM_DEVICE float normal_cdf(float x) { return 0.5f * erfcf(-0.70710678118654752f * x); }

/* GPT-2's gelu: x (1 + tanh(u)) / 2 = x sigmoid(2u). */
#define GELU_SCALE 0.79788456080286536f
#define GELU_CUBE 0.044715f
RM_DEVICE float gelu_argument(float x) { return GELU_SCALE * (x + GELU_CUBE * x * x * x); }

/* Value and slope of each activation. */
template <typename T>
struct Silu {
  static RM_CALL float value(float x) { return silu<T>(x); }
  static RM_CALL float slope(float x) { return silu_slope<T>(x); }
};

template <typename T>
struct Relu {
  static RM_CALL float value(float x) { return x <= 0.0f ? 0.0f : x; } /* NaN stays NaN */
  static RM_CALL float slope(float x) { return x <= 0.0f ? 0.0f : 1.0f; }
};

template <typename T>
struct Gelu {
  static RM_CALL float value(float x) { return x * normal_cdf(x); }
  static RM_CALL float slope(float x) {
    return normal_cdf(x) + x * (0.39894228040143268f * math<T>::exp(-0.5f * x * x));
  }
};

template <typename T>
struct Tanh {
  static RM_CALL float value(float x) { return tanhf(x); }
  /* 1 - tanh(x)^2 without its cancellation. */
  static RM_CALL float slope(float x) {
    const float e = math<T>::exp(-2.0f * fabsf(x)), d = 1.0f + e;
    return math<T>::divide(4.0f * e, d * d);
  }
};

template <typename T>
struct Sigmoid {
  static RM_CALL float value(float x) { return sigmoid<T>(x); }
  static RM_CALL float slope(float x) {
    const float e = math<T>::exp(-fabsf(x)), d = 1.0f + e;
    return math<T>::divide(e, d * d);
  }
};

template <typename T>
struct GeluTanh {
  static RM_CALL float value(float x) { return x * sigmoid<T>(2.0f * gelu_argument(x)); }
  static RM_CALL float slope(float x) {
    const float s = sigmoid<T>(2.0f * gelu_argument(x));
    const float rest = x * s * (1.0f - s) * (2.0f * GELU_SCALE) * (1.0f + 3.0f * GELU_CUBE * x * x);
    /* Far out it is zero, but x^2 may be infinite. */
    return fabsf(x) < 16.0f ? s + rest : s;
  }
};

/* ---- kernels ---- */

template <typename A>
struct ValueOf {
  RM_CALL void operator()(const float (&a)[1], float (&r)[1]) const {
    r[0] = A::value(a[0]);
  }
};

/* dx = dy op'(x). */
template <typename A>
struct SlopeOf {
  RM_CALL void operator()(const float (&a)[2], float (&r)[1]) const {
    r[0] = a[0] * A::slope(a[1]);
  }
};

#define ACTIVATION(NAME, A, T, SUFFIX)                                                            \
  RM_KERNEL rm_##NAME##_##SUFFIX(const T *x, T *y, i64 n) {                                       \
    map_elements<T, 1, 1>({{x}}, {{y}}, n, ValueOf<A<T>>());                                      \
  }                                                                                               \
  RM_KERNEL rm_##NAME##_grad_##SUFFIX(const T *dy, const T *x, T *dx, i64 n) {                    \
    map_elements<T, 2, 1>({{dy, x}}, {{dx}}, n, SlopeOf<A<T>>());                                 \
  }
#define ACTIVATIONS(T, SUFFIX)                \
  ACTIVATION(silu, Silu, T, SUFFIX)           \
  ACTIVATION(relu, Relu, T, SUFFIX)           \
  ACTIVATION(gelu, Gelu, T, SUFFIX)           \
  ACTIVATION(tanh, Tanh, T, SUFFIX)           \
  ACTIVATION(sigmoid, Sigmoid, T, SUFFIX)     \
  ACTIVATION(gelu_tanh, GeluTanh, T, SUFFIX)
ACTIVATIONS(float, f32)
ACTIVATIONS(bf16, bf16)

struct Mul {
  RM_CALL void operator()(const float (&a)[2], float (&r)[1]) const { r[0] = a[0] * a[1]; }
};
struct Add {
  RM_CALL void operator()(const float (&a)[2], float (&r)[1]) const { r[0] = a[0] + a[1]; }
};
struct Sub {
  RM_CALL void operator()(const float (&a)[2], float (&r)[1]) const { r[0] = a[0] - a[1]; }
};

#define BINARY(NAME, F, T, SUFFIX)                                          \
  RM_KERNEL rm_##NAME##_##SUFFIX(const T *a, const T *b, T *y, i64 n) {     \
    map_elements<T, 2, 1>({{a, b}}, {{y}}, n, F());                         \
  }
BINARY(mul, Mul, float, f32)
BINARY(add, Add, float, f32)
BINARY(sub, Sub, float, f32)
BINARY(mul, Mul, bf16, bf16)
BINARY(add, Add, bf16, bf16)
BINARY(sub, Sub, bf16, bf16)

/* Factors are doubles: the product is rounded once. */
struct Scale {
  double factor;
  RM_CALL void operator()(const float (&a)[1], float (&r)[1]) const {
    r[0] = (float)((double)a[0] * factor);
  }
};

RM_KERNEL rm_scale_f32(const float *x, float *y, i64 n, double factor) {
  map_elements<float, 1, 1>({{x}}, {{y}}, n, Scale{factor});
}
RM_KERNEL rm_scale_bf16(const bf16 *x, bf16 *y, i64 n, double factor) {
  map_elements<bf16, 1, 1>({{x}}, {{y}}, n, Scale{factor});
}
