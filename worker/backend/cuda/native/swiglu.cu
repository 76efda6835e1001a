/* The gate silu(a) b and its gradients. Outputs may be the very bytes of inputs. */
#include "map_elements.cuh"
#include "silu.cuh"

template <typename T>
struct Gate {
  RM_CALL void operator()(const float (&in)[2], float (&out)[1]) const {
    out[0] = silu<T>(in[0]) * in[1];
  }
};

/* Of dy, a and b. */
template <typename T>
struct GateDa {
  RM_CALL void operator()(const float (&in)[3], float (&out)[1]) const {
    out[0] = in[0] * in[2] * silu_slope<T>(in[1]);
  }
};

template <typename T>
struct GateDb {
  RM_CALL void operator()(const float (&in)[2], float (&out)[1]) const {
    out[0] = in[0] * silu<T>(in[1]);
  }
};

/* Both, with one exponential. */
template <typename T>
struct GateGrad {
  RM_CALL void operator()(const float (&in)[3], float (&out)[2]) const {
    const float dy = in[0], a = in[1], s = sigmoid<T>(a);
    out[0] = dy * in[2] * (s * (1.0f + a * (1.0f - s)));
    out[1] = dy * (a * s);
  }
};

#define SWIGLU(T, SUFFIX)                                                                         \
  RM_KERNEL rm_swiglu_##SUFFIX(const T *a, const T *b, T *y, i64 n) {                             \
    map_elements<T, 2, 1>({{a, b}}, {{y}}, n, Gate<T>());                                         \
  }                                                                                               \
  RM_KERNEL rm_swiglu_da_##SUFFIX(const T *dy, const T *a, const T *b, T *da, i64 n) {            \
    map_elements<T, 3, 1>({{dy, a, b}}, {{da}}, n, GateDa<T>());                                  \
  }                                                                                               \
  RM_KERNEL rm_swiglu_db_##SUFFIX(const T *dy, const T *a, T *db, i64 n) {                        \
    map_elements<T, 2, 1>({{dy, a}}, {{db}}, n, GateDb<T>());                                     \
  }                                                                                               \
  RM_KERNEL rm_swiglu_grad_##SUFFIX(const T *dy, const T *a, const T *b, T *da, T *db, i64 n) {   \
    map_elements<T, 3, 2>({{dy, a, b}}, {{da, db}}, n, GateGrad<T>());                            \
  }
SWIGLU(float, f32)
SWIGLU(bf16, bf16)
