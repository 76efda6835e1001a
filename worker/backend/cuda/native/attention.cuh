/*
 * What all kernels of attention share: o = softmax(q k^T / sqrt(n)) v for q, o(B,T,H,n) and k, v(B,T,KV,n), and its
 * gradients. B batches, T tokens, H query heads, KV key-value heads, n features of a head. Query head h reads key-
 * value head (h + shift) / group. Rows are `heads * n` apart, so a head is a matrix(T, n) with a stride.
 */
#pragma once
#include "common.cuh"

#define LOG2_E 1.44269504088896340736f
#define LN_2 0.69314718055994530942f

#define MINUS_INFINITY (-__int_as_float(0x7f800000))

/* 2^x to 2 units in the last place: one instruction, and no results below 2^-126. NaN stays NaN. */
RM_DEVICE float exp2_of(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

/* A tile of a head's tokens, for one block. */
struct head_tile {
  i64 b;
  int head, tile;
};

/*
 * Blocks of one head follow each other, so that those that run at a time read the same keys and values out of the L2
 * cache. Under a causal mask a later tile of queries sees more keys, and an earlier tile of keys is seen by more
 * queries: the long ones go first, so that none of them is the last to end.
 */
RM_DEVICE head_tile tile_of_block(int tiles, int heads, bool last_first) {
  const i64 block = blockIdx.x, all = block / tiles;
  const int tile = (int)(block - all * tiles);
  const i64 b = all / heads;
  return {b, (int)(all - b * heads), last_first ? tiles - 1 - tile : tile};
}

/* Query heads [first, end) that read key-value head kv. */
struct head_range {
  int first, end;
};

RM_DEVICE head_range readers_of(int kv, int heads, int group, int shift) {
  const i64 first = (i64)kv * group - shift;
  const i64 end = first + group;
  return {(int)(first < 0 ? 0 : first), (int)(end > heads ? heads : end)};
}

/* Whether a query sees a key: both are there, and the key is none after the query. */
RM_DEVICE bool sees(int query, int key, int T, int causal) {
  return query < T && key < T && (!causal || key <= query);
}

/*
 * A query with one key alone has weight 1 whatever its score: no gradient, not what rounding leaves of one, which an
 * optimizer that divides by its size would take for a real one.
 */
RM_DEVICE bool sees_one_key(int query, int T, int causal) { return T == 1 || (causal && query == 0); }
