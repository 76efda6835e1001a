/*
 * tensor_core.cuh for the CPU: the same functions, with the exchange between lanes that the hardware does. Exact about which lane
 * holds what; slow. PTX ISA: mma.m16n8k16 (bf16), ldmatrix, cp.async.
 */
#pragma once

namespace look_alike {

inline float widen_half(unsigned both, int high) {
  return bits<float>(high ? both & 0xffff0000u : both << 16);
}

inline void check_aligned16(const void *p, const char *what) {
  if (((unsigned long long)p & 15) != 0) fail_thread(716, what, p);
}

/* What each lane puts in for a product. */
struct Fragments {
  unsigned a[4], b[2];
};

/* Rows of COUNT 8 x 8 matrices of halves, whose addresses lanes 0 to 8 COUNT - 1 give. */
template <int COUNT>
inline void ldmatrix(unsigned (&r)[COUNT], const void *row, bool transposed) {
  if (current->lane < 8 * COUNT) check_aligned16(row, "ldmatrix: a row is not aligned to 16 bytes:");
  const Exchange<const void *> rows(ALL_LANES, row);
  const unsigned g = current->lane / 4, t = current->lane % 4;
  const auto element = [&](unsigned matrix, unsigned i, unsigned j) {
    return (unsigned)((const unsigned short *)rows.read(8 * matrix + i))[j];
  };
  for (unsigned i = 0; i < COUNT; i++)
    r[i] = transposed ? element(i, 2 * t, g) | element(i, 2 * t + 1, g) << 16
                      : element(i, g, 2 * t) | element(i, g, 2 * t + 1) << 16;
  /* All have read before any goes on to overwrite a row. */
  wait_for_lanes(ALL_LANES);
}

}  // namespace look_alike

inline void mma_16816(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  using look_alike::widen_half;
  const look_alike::Exchange<look_alike::Fragments> all(look_alike::ALL_LANES, {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  const unsigned g = look_alike::current->lane / 4, t = look_alike::current->lane % 4;
  /* Elements 2q, 2q + 1 and 2q + 8, 2q + 9 along k lie in the lanes with t = q. */
  for (unsigned q = 0; q < 4; q++) {
    const look_alike::Fragments rows = all.read(4 * g + q);
    const look_alike::Fragments columns[2] = {all.read(4 * (2 * t) + q), all.read(4 * (2 * t + 1) + q)};
    for (int half = 0; half < 2; half++)
      for (int high = 0; high < 2; high++)
        for (int column = 0; column < 2; column++) {
          const float factor = widen_half(columns[column].b[half], high);
          d[column] += widen_half(rows.a[2 * half], high) * factor;
          d[2 + column] += widen_half(rows.a[2 * half + 1], high) * factor;
        }
  }
}

inline void ldmatrix_x4(unsigned (&r)[4], const void *row) { look_alike::ldmatrix(r, row, false); }
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void *row) { look_alike::ldmatrix(r, row, true); }
inline void ldmatrix_x2(unsigned (&r)[2], const void *row) { look_alike::ldmatrix(r, row, false); }
inline void ldmatrix_x2_trans(unsigned (&r)[2], const void *row) { look_alike::ldmatrix(r, row, true); }

/* Happens at the wait that it needs, and not before: a wait that is missing shows. */
inline void cp_async16(void *shared, const void *global, bool valid) {
  look_alike::check_aligned16(shared, "cp_async16: the shared address is not aligned to 16 bytes:");
  if (valid) look_alike::check_aligned16(global, "cp_async16: the global address is not aligned to 16 bytes:");
  look_alike::start_copy(shared, valid ? global : nullptr, 16);
}
inline void cp_async_commit() { look_alike::commit_copies(); }
template <int N>
inline void cp_async_wait() {
  look_alike::finish_copies(N);
}

inline unsigned pack_bf16(float low, float high) {
  const auto half = [](float v) {
    const unsigned bits = look_alike::bits<unsigned>(v);
    /* cvt gives the canonical NaN. */
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  };
  return half(low) | half(high) << 16;
}
