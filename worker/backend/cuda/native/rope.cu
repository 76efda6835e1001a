/*
 * Rotary position embedding. A block has the rows of a few sequences at one position: it forms the position's cosines and sines
 * once, in shared memory, and turns whole vectors of pairs with them. Bound by memory; the angles are some 25 operations in
 * double for each pair of a head, shared by all heads of the rows.
 */
#include "vectors.cuh"

/* Pairs of the largest head: half of MAX_HEAD_DIM in compiler/ops/rope-frequencies.ts. */
#define MOST_PAIRS 256
/* Vectors of a thread whose loads are in flight at once. */
#define IN_FLIGHT 4

struct rope_frequencies {
  float at[MOST_PAIRS];
};

/*
 * Sine and cosine to about 1e-15 for |x| below 1e6, as the cpu backend's: positions reach far beyond what a reduction in
 * float bears. Coefficients from fdlibm (Sun Microsystems).
 */
RM_DEVICE float2 cosine_and_sine(double x) {
  /*
   * x = n pi / 2 + r, |r| <= pi / 4. The first two parts of pi / 2 have 33 bits, so that n times them is exact. Adding
   * 1.5 * 2^52 rounds to an integer.
   */
  const double n = (x * 0.63661977236758134308 + 6755399441055744.0) - 6755399441055744.0;
  double r = x - n * 1.57079632673412561417;
  r = r - n * 6.07710050630396597660e-11;
  r = r - n * 2.02226624879595063154e-21;
  const double z = r * r;
  double s = z * 1.58969099521155010221e-10 - 2.50507602534068634195e-08;
  s = s * z + 2.75573137070700676789e-06;
  s = s * z - 1.98412698298579493134e-04;
  s = s * z + 8.33333333332248946124e-03;
  s = s * z - 1.66666666666666324348e-01;
  s = s * z * r + r;
  double c = 2.08757232129817482790e-09 - z * 1.13596475577881948265e-11;
  c = c * z - 2.75573143513906633035e-07;
  c = c * z + 2.48015872894767294178e-05;
  c = c * z - 1.38888888888741095749e-03;
  c = c * z + 4.16666666666666019037e-02;
  c = c * z * z - 0.5 * z + 1.0;
  /* Odd quadrants swap the two; the sine is negative in quadrants 2 and 3, the cosine in 1 and 2. */
  const int quadrant = (int)(i64)n & 3;
  const double sine = quadrant & 1 ? c : s, cosine = quadrant & 1 ? s : c;
  return make_float2((float)(quadrant == 1 || quadrant == 2 ? -cosine : cosine),
                     (float)(quadrant & 2 ? -sine : sine));
}

/* Turns the pair (a, b): a cos - b sin, b cos + a sin. */
RM_DEVICE void turn(float2 by, float &a, float &b) {
  const float x = a, y = b;
  a = x * by.x - y * by.y;
  b = y * by.x + x * by.y;
}

/*
 * y(B,T,F) = x with every pair of a head turned by position * frequency, positions counted from `first`; direction -1 turns
 * back. Block (t, k) has position t of sequences [k sequences, (k + 1) sequences). y may be x.
 */
template <typename T, bool VECTOR>
RM_DEVICE void rope(const T *x, const rope_frequencies &frequencies, T *y, i64 B, unsigned positions,
                    i64 F, int pairs, i64 first, int direction, i64 sequences) {
  constexpr int V = VECTOR ? lanes<T>::count : 2;
  __shared__ float2 angles[MOST_PAIRS];
  const i64 t = blockIdx.x % positions, b = blockIdx.x / positions * sequences;
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    /* The angle is rounded to float, as in PyTorch, and its functions are taken of what that is. */
    float2 by = cosine_and_sine((double)(frequencies.at[i] * (float)(first + t)));
    if (direction < 0) by.y = -by.y;
    angles[i] = by;
  }
  __syncthreads();
  const i64 last = min(b + sequences, B);
  const int across = (int)(F / V);
  for (i64 row = b; row < last; row++) {
    const i64 at = (row * positions + t) * F;
    if constexpr (VECTOR) {
      for (int v = threadIdx.x; v < across; v += IN_FLIGHT * blockDim.x) {
        uint4 raw[IN_FLIGHT];
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) {
          const int w = v + k * blockDim.x;
          if (w < across) raw[k] = load16(x + at + (i64)w * V);
        }
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) {
          const int w = v + k * blockDim.x;
          if (w >= across) continue;
          float xi[V];
          unpack(raw[k], xi);
          /* Heads are whole vectors: the pairs of one do not wrap. */
          const float2 *by = angles + (unsigned)w * (V / 2) % (unsigned)pairs;
#pragma unroll
          for (int j = 0; j < V; j += 2) turn(by[j / 2], xi[j], xi[j + 1]);
          store16(y + at + (i64)w * V, pack(xi));
        }
      }
    } else {
      for (int p = threadIdx.x; p < across; p += blockDim.x) {
        const i64 e = at + 2 * (i64)p;
        float a = widen(x[e]), c = widen(x[e + 1]);
        turn(angles[p % pairs], a, c);
        store(y + e, a);
        store(y + e + 1, c);
      }
    }
  }
}

#define ROPE(NAME, T, VECTOR)                                                                      \
  RM_KERNEL rm_rope_##NAME(const T *x, const rope_frequencies frequencies, T *y, i64 B,            \
                           i64 positions, i64 F, int pairs, i64 first, int direction,              \
                           i64 sequences) {                                                        \
    rope<T, VECTOR>(x, frequencies, y, B, (unsigned)positions, F, pairs, first, direction, sequences);       \
  }
ROPE(vector_f32, float, true)
ROPE(pairs_f32, float, false)
ROPE(vector_bf16, bf16, true)
ROPE(pairs_bf16, bf16, false)
