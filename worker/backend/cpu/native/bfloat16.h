#ifndef RANKMESH_BFLOAT16_H
#define RANKMESH_BFLOAT16_H

#include "rankmesh_cpu.h"

typedef uint16_t bfloat16;
typedef uint16_t __attribute__((aligned(1))) bfloat16_unaligned;

RM_INLINE float from_bfloat16(bfloat16 h) {
  union {
    uint32_t bits;
    float value;
  } u = {.bits = (uint32_t)h << 16};
  return u.value;
}

RM_INLINE bfloat16 to_bfloat16(float x) {
  union {
    float value;
    uint32_t bits;
  } u = {.value = x};
  const uint32_t rounded = (u.bits + 0x7fffu + ((u.bits >> 16) & 1u)) >> 16;
  return (bfloat16)((u.bits & 0x7fffffffu) > 0x7f800000u ? (u.bits >> 16) | 0x40u : rounded);
}

#endif
