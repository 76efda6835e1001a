/* Device functions that C++ has not, or has by another name. The fast ones are as good as the slow ones here. */
#pragma once

template <class T>
inline T __ldg(const T *p) { return *p; }
template <class T>
inline T __ldcg(const T *p) { return *p; }
template <class T>
inline T __ldcs(const T *p) { return *p; }
template <class T>
inline T __ldca(const T *p) { return *p; }
template <class T>
inline T __ldlu(const T *p) { return *p; }
template <class T>
inline void __stcg(T *p, T v) { *p = v; }
template <class T>
inline void __stcs(T *p, T v) { *p = v; }
template <class T>
inline void __stwt(T *p, T v) { *p = v; }

namespace look_alike {
template <class To, class From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}
/* Keeps the compiler from fusing a rounded product into a sum. */
inline float rounded(float v) {
  asm volatile("" : "+m"(v));
  return v;
}
inline double rounded(double v) {
  asm volatile("" : "+m"(v));
  return v;
}
}  // namespace look_alike

inline unsigned __float_as_uint(float v) { return look_alike::bits<unsigned>(v); }
inline int __float_as_int(float v) { return look_alike::bits<int>(v); }
inline float __uint_as_float(unsigned v) { return look_alike::bits<float>(v); }
inline float __int_as_float(int v) { return look_alike::bits<float>(v); }
inline long long __double_as_longlong(double v) { return look_alike::bits<long long>(v); }
inline double __longlong_as_double(long long v) { return look_alike::bits<double>(v); }

inline float __fadd_rn(float a, float b) { return look_alike::rounded(a + b); }
inline float __fsub_rn(float a, float b) { return look_alike::rounded(a - b); }
inline float __fmul_rn(float a, float b) { return look_alike::rounded(a * b); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return look_alike::rounded(a + b); }
inline double __dmul_rn(double a, double b) { return look_alike::rounded(a * b); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float a) { return a < 0.0f ? 0.0f : a > 1.0f ? 1.0f : a; }

inline float __expf(float a) { return expf(a); }
inline float __exp10f(float a) { return powf(10.0f, a); }
inline float __logf(float a) { return logf(a); }
inline float __log2f(float a) { return log2f(a); }
inline float __sinf(float a) { return sinf(a); }
inline float __cosf(float a) { return cosf(a); }
inline float __tanf(float a) { return tanf(a); }
inline float __powf(float a, float b) { return powf(a, b); }
inline void __sincosf(float a, float *s, float *c) { *s = sinf(a), *c = cosf(a); }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
inline double rsqrt(double a) { return 1.0 / sqrt(a); }
inline float __frsqrt_rn(float a) { return 1.0f / sqrtf(a); }

inline float __int2float_rn(int v) { return (float)v; }
inline float __uint2float_rn(unsigned v) { return (float)v; }
inline float __ull2float_rn(unsigned long long v) { return (float)v; }
inline float __ll2float_rn(long long v) { return (float)v; }
inline float __double2float_rn(double v) { return (float)v; }
inline int __float2int_rn(float v) { return (int)rintf(v); }
inline int __float2int_rz(float v) { return (int)v; }

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz((unsigned)v); }
inline int __clzll(long long v) { return v == 0 ? 64 : __builtin_clzll((unsigned long long)v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)((((unsigned long long)high << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const unsigned long long both = (unsigned long long)high << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned choice = selector >> 4 * i & 15, byte = (unsigned)(both >> 8 * (choice & 7)) & 255;
    result |= (choice & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
  }
  return result;
}

/* CUDA's overloads, mixed operands included: no template, which would refuse those. */
#define LOOK_ALIKE_MIN_MAX(R, A, B)                             \
  inline R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; } \
  inline R max(A a, B b) { return (R)a < (R)b ? (R)b : (R)a; }
LOOK_ALIKE_MIN_MAX(int, int, int)
LOOK_ALIKE_MIN_MAX(unsigned, unsigned, unsigned)
LOOK_ALIKE_MIN_MAX(unsigned, int, unsigned)
LOOK_ALIKE_MIN_MAX(unsigned, unsigned, int)
LOOK_ALIKE_MIN_MAX(long, long, long)
LOOK_ALIKE_MIN_MAX(unsigned long, unsigned long, unsigned long)
LOOK_ALIKE_MIN_MAX(unsigned long, long, unsigned long)
LOOK_ALIKE_MIN_MAX(unsigned long, unsigned long, long)
LOOK_ALIKE_MIN_MAX(long long, long long, long long)
LOOK_ALIKE_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
LOOK_ALIKE_MIN_MAX(unsigned long long, long long, unsigned long long)
LOOK_ALIKE_MIN_MAX(unsigned long long, unsigned long long, long long)
#undef LOOK_ALIKE_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
