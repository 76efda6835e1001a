/* Atomic operations. Blocks run on several OS threads, so these are real ones. */
#pragma once

namespace look_alike {

/* Any update of a word of 4 or 8 bytes; returns what was there. */
template <class T, class F>
inline T update(T *at, F f) {
  T old, next;
  __atomic_load(at, &old, __ATOMIC_RELAXED);
  do {
    next = f(old);
  } while (!__atomic_compare_exchange(at, &old, &next, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
  return old;
}

}  // namespace look_alike

#define LOOK_ALIKE_ATOMICS(T)                                                                          \
  inline T atomicAdd(T *at, T v) { return look_alike::update(at, [v](T old) { return (T)(old + v); }); } \
  inline T atomicExch(T *at, T v) { return look_alike::update(at, [v](T) { return v; }); }

#define LOOK_ALIKE_INTEGER_ATOMICS(T)                                                                  \
  LOOK_ALIKE_ATOMICS(T)                                                                                \
  inline T atomicSub(T *at, T v) { return look_alike::update(at, [v](T old) { return (T)(old - v); }); } \
  inline T atomicMin(T *at, T v) { return look_alike::update(at, [v](T old) { return old < v ? old : v; }); } \
  inline T atomicMax(T *at, T v) { return look_alike::update(at, [v](T old) { return old > v ? old : v; }); } \
  inline T atomicAnd(T *at, T v) { return look_alike::update(at, [v](T old) { return old & v; }); }      \
  inline T atomicOr(T *at, T v) { return look_alike::update(at, [v](T old) { return old | v; }); }       \
  inline T atomicXor(T *at, T v) { return look_alike::update(at, [v](T old) { return old ^ v; }); }      \
  inline T atomicCAS(T *at, T expected, T v) {                                                         \
    return look_alike::update(at, [expected, v](T old) { return old == expected ? v : old; });         \
  }

LOOK_ALIKE_ATOMICS(float)
LOOK_ALIKE_ATOMICS(double)
LOOK_ALIKE_INTEGER_ATOMICS(int)
LOOK_ALIKE_INTEGER_ATOMICS(unsigned)
LOOK_ALIKE_INTEGER_ATOMICS(unsigned long long)

#undef LOOK_ALIKE_ATOMICS
#undef LOOK_ALIKE_INTEGER_ATOMICS
