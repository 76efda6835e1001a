/* Philox4x32-10 (Salmon et al. 2011), as in shared/random, a vector of blocks at a time. */
#ifndef RANKMESH_PHILOX_H
#define RANKMESH_PHILOX_H

#include "rankmesh_cpu.h"

#define MULTIPLIER0 0xD2511F53u
#define MULTIPLIER1 0xCD9E8D57u
#define WEYL0 0x9E3779B9u
#define WEYL1 0xBB67AE85u
#define ROUNDS 10
/* Words of the blocks made together: four for each lane. */
#define PHILOX_WORDS (4 * VL)

typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint32_t vu_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint64_t vul __attribute__((vector_size(VL * 4)));

/* Key, and the two counter words that stay. */
typedef struct {
  uint32_t key0, key1, name0, name1;
} stream;

RM_INLINE stream stream_of(uint64_t seed, uint64_t name) {
  return (stream){(uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)name, (uint32_t)(name >> 32)};
}

/* Products of the even words, 64 bits each. */
RM_INLINE vul even_products(vul a, uint32_t b) {
#if defined(__AVX512F__)
  return (vul)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi32((int)b));
#elif defined(__AVX2__)
  return (vul)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi32((int)b));
#elif defined(__SSE2__) && VL == 4
  return (vul)_mm_mul_epu32((__m128i)a, _mm_set1_epi32((int)b));
#else
  return (a & 0xffffffffu) * b;
#endif
}

/* High words of the products. Little-endian: word 2i is the low half of element i. */
RM_INLINE vu high_product(vu a, uint32_t b) {
  const vul even = even_products((vul)a, b), odd = even_products((vul)a >> 32, b);
  return (vu)((even >> 32) | (odd & 0xffffffff00000000u));
}

/* Four words a lane to four lanes in a row: lane 4g + p of the inputs ends up as words 4g.. of output p. */
RM_INLINE void interleave(vu c0, vu c1, vu c2, vu c3, uint32_t *words) {
#if defined(__AVX512F__)
#define PAIR(KIND, a, b) (vu) _mm512_unpack##KIND((__m512i)(a), (__m512i)(b))
#elif defined(__AVX2__)
#define PAIR(KIND, a, b) (vu) _mm256_unpack##KIND((__m256i)(a), (__m256i)(b))
#elif defined(__SSE2__) && VL == 4
#define PAIR(KIND, a, b) (vu) _mm_unpack##KIND((__m128i)(a), (__m128i)(b))
#endif
#if defined(PAIR)
  const vu low01 = PAIR(lo_epi32, c0, c1), high01 = PAIR(hi_epi32, c0, c1);
  const vu low23 = PAIR(lo_epi32, c2, c3), high23 = PAIR(hi_epi32, c2, c3);
  *(vu_unaligned *)words = PAIR(lo_epi64, low01, low23);
  *(vu_unaligned *)(words + VL) = PAIR(hi_epi64, low01, low23);
  *(vu_unaligned *)(words + 2 * VL) = PAIR(lo_epi64, high01, high23);
  *(vu_unaligned *)(words + 3 * VL) = PAIR(hi_epi64, high01, high23);
#undef PAIR
#else
  for (int j = 0; j < VL; j++) {
    uint32_t *to = words + j % 4 * VL + j / 4 * 4;
    to[0] = c0[j];
    to[1] = c1[j];
    to[2] = c2[j];
    to[3] = c3[j];
  }
#endif
}

/* Words 4 * first .. 4 * first + PHILOX_WORDS - 1 of the stream. */
RM_INLINE void philox_blocks(const stream *s, uint64_t first, uint32_t *words) {
  vu c0, c1;
  for (int j = 0; j < VL; j++) {
    /* The order in which `interleave` writes them. */
    const uint64_t block = first + (uint64_t)(j % 4 * (VL / 4) + j / 4);
    c0[j] = (uint32_t)block;
    c1[j] = (uint32_t)(block >> 32);
  }
  vu c2 = (vu){0} + s->name0, c3 = (vu){0} + s->name1;
  uint32_t k0 = s->key0, k1 = s->key1;
#pragma GCC unroll 10
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
  interleave(c0, c1, c2, c3, words);
}

#endif
