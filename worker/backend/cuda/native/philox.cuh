/* Philox4x32-10 (Salmon et al. 2011), as in shared/random and worker/backend/cpu/native/philox.h, bit for bit. */
#pragma once
#include "common.cuh"

/* Four words of a stream: block `low`, `high` (the counter's first two words) under the seed, of the stream `name`. */
RM_DEVICE uint4 philox_block(u64 seed, u64 name, unsigned low, unsigned high) {
  unsigned c0 = low, c1 = high, c2 = (unsigned)name, c3 = (unsigned)(name >> 32);
  unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u64 p0 = (u64)c0 * 0xD2511F53u, p1 = (u64)c2 * 0xCD9E8D57u;
    c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
    c1 = (unsigned)p1;
    c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
    c3 = (unsigned)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return make_uint4(c0, c1, c2, c3);
}

RM_DEVICE unsigned word_of(uint4 block, unsigned lane) {
  return lane == 0 ? block.x : lane == 1 ? block.y : lane == 2 ? block.z : block.w;
}
