/* Philox4x32-10 (Salmon et al. 2011), as in shared/random, many blocks at a time. */
#ifndef RANKMESH_PHILOX_H
#define RANKMESH_PHILOX_H

#include "rankmesh_cpu.h"

#define MULTIPLIER0 0xD2511F53u
#define MULTIPLIER1 0xCD9E8D57u
#define WEYL0 0x9E3779B9u
#define WEYL1 0xBB67AE85u
#define ROUNDS 10
/* Blocks of four words made together. */
#define PHILOX_LANES 16

typedef uint32_t vu __attribute__((vector_size(PHILOX_LANES * 4)));
typedef uint64_t vul __attribute__((vector_size(PHILOX_LANES * 8)));

/* Key, and the two counter words that stay. */
typedef struct {
  uint32_t key0, key1, name0, name1;
} stream;

RM_INLINE vu high_product(vu a, uint32_t b) {
  const vul wide = __builtin_convertvector(a, vul) * (uint64_t)b;
  return __builtin_convertvector(wide >> 32, vu);
}

/* Words 4 * first .. 4 * (first + PHILOX_LANES) - 1 of the stream. */
RM_INLINE void philox_blocks(const stream *s, uint64_t first, uint32_t *words) {
  vu c0, c1;
  for (int j = 0; j < PHILOX_LANES; j++) {
    const uint64_t block = first + (uint64_t)j;
    c0[j] = (uint32_t)block;
    c1[j] = (uint32_t)(block >> 32);
  }
  vu c2 = (vu){0} + s->name0, c3 = (vu){0} + s->name1;
  uint32_t k0 = s->key0, k1 = s->key1;
  for (int round = 0; round < ROUNDS; round++) {
    const vu high0 = high_product(c0, MULTIPLIER0), low0 = c0 * MULTIPLIER0;
    const vu high1 = high_product(c2, MULTIPLIER1), low1 = c2 * MULTIPLIER1;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += WEYL0;
    k1 += WEYL1;
  }
  for (int j = 0; j < PHILOX_LANES; j++) {
    words[4 * j] = c0[j];
    words[4 * j + 1] = c1[j];
    words[4 * j + 2] = c2[j];
    words[4 * j + 3] = c3[j];
  }
}

#endif
