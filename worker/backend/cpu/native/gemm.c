/*
 * Products with many rows: blocks of C run through a CBLAS on this library's threads, or through
 * the kernel below where no BLAS is installed. The BLAS itself stays on one thread: its own threads
 * would spin between calls and take the cores that the next kernel needs.
 */
#include "gemm.h"

#include "rankmesh_cpu.h"

typedef void (*cblas_sgemm_function)(int order, int trans_a, int trans_b, int m, int n, int k,
                                     float alpha, const float *a, int lda, const float *b, int ldb,
                                     float beta, float *c, int ldc);
#define ROW_MAJOR 101
#define NO_TRANSPOSE 111
#define TRANSPOSE 112

static cblas_sgemm_function cblas_sgemm;

/* Takes cblas_sgemm's address; NULL goes back to the kernel of this file. */
RM_API void rm_use_sgemm(void *function) { cblas_sgemm = (cblas_sgemm_function)function; }

typedef struct {
  int trans_a, trans_b;
  long M, N, K;
  const float *A, *B;
  long lda, ldb, ldc;
  float *C;
  long row_step, column_step, columns;
  int fits_int; /* sizes and strides, as CBLAS takes them */
} gemm_args;

/* ---- own kernel ---- */

/* Register block: MR x NV vectors; packed blocks: KC x MC of A in the second-level cache, KC x NC
 * of B in the third. */
#define NV 2
#if VL == 16
#define MR 12
#elif VL == 8 || defined(__x86_64__)
#define MR 6
#else
#define MR 8
#endif
#define NR (NV * VL)
#define KC 256
#define MC (MR * 16)
#define NC 512

/* panel: KC x MR of A, k-major, zeros past the edge. */
static void pack_a(const gemm_args *g, long row, long rows, long k0, long depth, float *packed) {
  for (long p = 0; p < rows; p += MR) {
    const long n = min_long(MR, rows - p);
    for (long k = 0; k < depth; k++, packed += MR) {
      long i = 0;
      if (g->trans_a)
        for (; i < n; i++) packed[i] = g->A[(k0 + k) * g->lda + row + p + i];
      else
        for (; i < n; i++) packed[i] = g->A[(row + p + i) * g->lda + k0 + k];
      for (; i < MR; i++) packed[i] = 0;
    }
  }
}

static void pack_b(const gemm_args *g, long column, long columns, long k0, long depth,
                   float *packed) {
  for (long p = 0; p < columns; p += NR) {
    const long n = min_long(NR, columns - p);
    if (g->trans_b) {
      for (long j = 0; j < NR; j++)
        for (long k = 0; k < depth; k++)
          packed[k * NR + j] = j < n ? g->B[(column + p + j) * g->ldb + k0 + k] : 0;
      packed += depth * NR;
    } else {
      for (long k = 0; k < depth; k++, packed += NR) {
        memcpy(packed, g->B + (k0 + k) * g->ldb + column + p, (size_t)n * 4);
        for (long j = n; j < NR; j++) packed[j] = 0;
      }
    }
  }
}

/* c[0..rows)[0..columns) (+)= a b, a: depth x MR, b: depth x NR. */
static void micro_kernel(const float *a, const float *b, long depth, float *c, long ldc, long rows,
                         long columns, int add) {
  vf sum[MR][NV];
#pragma GCC unroll 12
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) sum[i][j] = (vf){0};
  for (long k = 0; k < depth; k++) {
    vf bk[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) bk[j] = vload(b + k * NR + j * VL);
#pragma GCC unroll 12
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
      for (int j = 0; j < NV; j++) sum[i][j] += a[k * MR + i] * bk[j];
  }
  if (rows == MR && columns == NR) {
#pragma GCC unroll 12
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
      for (int j = 0; j < NV; j++) {
        float *at = c + i * ldc + j * VL;
        vstore(at, add ? vload(at) + sum[i][j] : sum[i][j]);
      }
    return;
  }
  float edge[MR][NR];
#pragma GCC unroll 12
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) vstore(&edge[i][j * VL], sum[i][j]);
  for (long i = 0; i < rows; i++)
    for (long j = 0; j < columns; j++)
      c[i * ldc + j] = add ? c[i * ldc + j] + edge[i][j] : edge[i][j];
}

static void own_block(const gemm_args *g, long row, long rows, long column, long columns) {
  float a[MC * KC] __attribute__((aligned(64))), b[(NC + NR) * KC] __attribute__((aligned(64)));
  for (long j = 0; j < columns; j += NC) {
    const long nc = min_long(NC, columns - j);
    for (long k = 0; k < g->K; k += KC) {
      const long depth = min_long(KC, g->K - k);
      pack_b(g, column + j, nc, k, depth, b);
      for (long i = 0; i < rows; i += MC) {
        const long mc = min_long(MC, rows - i);
        pack_a(g, row + i, mc, k, depth, a);
        for (long jr = 0; jr < nc; jr += NR)
          for (long ir = 0; ir < mc; ir += MR)
            micro_kernel(a + ir * depth, b + jr * depth, depth,
                         g->C + (row + i + ir) * g->ldc + column + j + jr, g->ldc,
                         min_long(MR, mc - ir), min_long(NR, nc - jr), k > 0);
      }
    }
  }
}

/* ---- blocks of C over the threads ---- */

static void gemm_task(void *context, long task) {
  const gemm_args *g = context;
  const long row = task / g->columns * g->row_step, column = task % g->columns * g->column_step;
  const long rows = min_long(g->row_step, g->M - row),
             columns = min_long(g->column_step, g->N - column);
  if (cblas_sgemm == NULL || !g->fits_int) {
    own_block(g, row, rows, column, columns);
    return;
  }
  cblas_sgemm(ROW_MAJOR, g->trans_a ? TRANSPOSE : NO_TRANSPOSE,
              g->trans_b ? TRANSPOSE : NO_TRANSPOSE, (int)rows, (int)columns, (int)g->K, 1.0f,
              g->trans_a ? g->A + row : g->A + row * g->lda, (int)g->lda,
              g->trans_b ? g->B + column * g->ldb : g->B + column, (int)g->ldb, 0.0f,
              g->C + row * g->ldc + column, (int)g->ldc);
}

void rm_gemm(int trans_a, int trans_b, long M, long N, long K, const float *A, long lda,
             const float *B, long ldb, float *C, long ldc) {
  if (M == 0 || N == 0) return;
  if (K == 0) {
    for (long r = 0; r < M; r++) memset(C + r * ldc, 0, (size_t)N * 4);
    return;
  }
  gemm_args g = {trans_a, trans_b, M, N, K, A, B, lda, ldb, ldc, C, M, N, 1, 0};
  /* The longer side of C is cut: each block packs its share of both operands, and a cut of one side
   * only repeats the other. */
  const long parts = (double)M * (double)N * (double)K < 65536 ? 1 : rm_threads();
  if (M > N)
    g.row_step = max_long(16, ceil_div(ceil_div(M, parts), 16) * 16);
  else
    g.column_step = max_long(64, ceil_div(ceil_div(N, parts), 64) * 64);
  g.fits_int =
      max_long(max_long(max_long(M, N), max_long(K, lda)), max_long(ldb, ldc)) <= INT32_MAX;
  g.columns = ceil_div(N, g.column_step);
  rm_parallel(ceil_div(M, g.row_step) * g.columns, gemm_task, &g);
}
