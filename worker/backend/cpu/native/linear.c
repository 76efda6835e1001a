/*
 * Linear layers, x(M,I), w(O,I), y(M,O). Many rows go to a GEMM; the kernels here are for few
 * (RM_FEW_ROWS), where the product is memory-bound on w.
 *
 * Both kernels walk w in blocks of BLOCK whole rows. While one block is used from the second-level
 * cache, tile of columns by tile, the next is prefetched in the order in which it lies in memory:
 * reading tiles straight from memory reaches half the bandwidth. The other operand is copied into
 * dense tiles of first-level cache size; its rows are usually a power of two apart and would all
 * fall on the same cache sets.
 */
#include "gemm.h"
#include "rankmesh_cpu.h"

/* Rows of x handled at once; more rows take another pass over weights that are in cache. */
#define ROWS 8
#define EACH_ROW_COUNT(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
/* Weight rows of a block. */
#define BLOCK 16
/* Columns of a tile: 8 rows of it take 16 KiB. */
#define TILE 512
/* Floats of the packed operand that a task keeps on its stack: 256 KiB for 8 rows. */
#define PACK 8192
/* Out-features of one task of rm_linear, at most. */
#define OUTS 256

/* Registers: 8 x 2 accumulators of 32, or 8 of 16. */
#if VL == 16
#define WIDE 2
#else
#define WIDE 1
#endif

/* Walks the next block of w in memory order, a tile's width at a time. */
typedef struct {
  const float *at;
  long column, columns, stride;
} prefetch_walk;

RM_INLINE const float *walk(prefetch_walk *p) {
  const float *at = p->at;
  p->at += TILE;
  p->column += TILE;
  if (p->column + TILE > p->columns) {
    p->at += p->stride - p->column;
    p->column = 0;
  }
  return at;
}

typedef struct {
  const float *x, *w, *dy;
  float *y;
  long M, O, I, step;
} linear_args;

/*
 * sum[c][r] += tile[.][r] . w[c] for C weight rows and R rows over `vectors` vectors; a tile holds
 * R vectors for each vector of w. ahead[c] is prefetched on the way.
 */
RM_INLINE void dots(const float *tile, const float *w, long I, const float *const *ahead, vf *sum,
                    long vectors, const int R, const int C) {
  vf s[ROWS][WIDE];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int c = 0; c < C; c++) s[r][c] = sum[c * ROWS + r];
  for (long i = 0; i < vectors; i++) {
    vf wi[WIDE];
#pragma GCC unroll 2
    for (int c = 0; c < C; c++) {
      wi[c] = vload(w + c * I + i * VL);
      __builtin_prefetch(ahead[c] + i * VL, 0, 2);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      vf xi = vload(tile + (i * R + r) * VL);
      KEEP(xi);
#pragma GCC unroll 2
      for (int c = 0; c < C; c++) s[r][c] += xi * wi[c];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int c = 0; c < C; c++) sum[c * ROWS + r] = s[r][c];
}

/* Adds the products of one tile of columns to sum[0..outs)[0..R). The last tile may end in a part
 * of a vector. */
RM_INLINE void dot_tile(const float *tile, const float *w, long I, long outs, long columns,
                        prefetch_walk *next, vf *sum, const int R) {
  const long vectors = columns / VL, rest = columns % VL;
  long o = 0;
  for (; o + WIDE <= outs; o += WIDE) {
    const float *ahead[WIDE];
    for (int c = 0; c < WIDE; c++) ahead[c] = walk(next);
    dots(tile, w + o * I, I, ahead, sum + o * ROWS, vectors, R, WIDE);
  }
  for (; o < outs; o++) {
    const float *ahead = walk(next);
    dots(tile, w + o * I, I, &ahead, sum + o * ROWS, vectors, R, 1);
  }
  if (rest)
    for (o = 0; o < outs; o++) {
      const vf wi = vload_part(w + o * I + vectors * VL, rest);
      for (int r = 0; r < R; r++) sum[o * ROWS + r] += vload(tile + (vectors * R + r) * VL) * wi;
    }
}

#define DOT_TILE_OF(R)                                                                         \
  static void dot_tile_##R(const float *tile, const float *w, long I, long outs, long columns, \
                           prefetch_walk *next, vf *sum) {                                     \
    dot_tile(tile, w, I, outs, columns, next, sum, R);                                         \
  }
EACH_ROW_COUNT(DOT_TILE_OF)

typedef void (*dot_tile_kernel)(const float *, const float *, long, long, long, prefetch_walk *,
                                vf *);
#define DOT_TILE_NAME(R) dot_tile_##R,
static const dot_tile_kernel dot_tile_for[] = {0, EACH_ROW_COUNT(DOT_TILE_NAME)};

/* Packs x[0..R)[0..columns) as vectors of one column range after another, zeros past the end. */
static void pack_rows(float *packed, const float *x, long I, long R, long columns) {
  const long vectors = columns / VL, rest = columns % VL;
  for (long i = 0; i < vectors; i++)
    for (long r = 0; r < R; r++) vstore(packed + (i * R + r) * VL, vload(x + r * I + i * VL));
  if (rest)
    for (long r = 0; r < R; r++)
      vstore(packed + (vectors * R + r) * VL, vload_part(x + r * I + vectors * VL, rest));
}

/* Sums of one task: a vector for each of its rows and out-features. */
#define SUMS (OUTS * ROWS)

/* y[0..M)[first..first+outs). */
static void linear_task(void *context, long task) {
  const linear_args *a = context;
  const long first = task * a->step, outs = min_long(a->step, a->O - first),
             groups = ceil_div(a->M, ROWS);
  /* Columns whose packed rows fit; whole tiles, so that sums are cut at the same places for every
   * M. */
  const long segment = max_long(1, PACK / TILE / groups) * TILE;
  vf sum[SUMS];
  float packed[(PACK + VL) * ROWS] __attribute__((aligned(64)));
  for (long s = 0; s < groups * outs * ROWS; s++) sum[s] = (vf){0};
  for (long start = 0; start < a->I; start += segment) {
    const long span = min_long(segment, a->I - start), padded = ceil_div(span, VL) * VL;
    for (long g = 0; g < groups; g++)
      pack_rows(packed + g * padded * ROWS, a->x + g * ROWS * a->I + start, a->I,
                min_long(ROWS, a->M - g * ROWS), span);
    for (long block = 0; block < outs; block += BLOCK) {
      const long count = min_long(BLOCK, outs - block);
      const float *here = a->w + (first + block) * a->I + start;
      prefetch_walk next = {block + BLOCK < outs ? here + BLOCK * a->I : here, 0, span, a->I};
      for (long c = 0; c < span; c += TILE) {
        const long columns = min_long(TILE, span - c);
        /* The first group of rows brings the weights from memory and prefetches; the others find
         * them in cache. */
        prefetch_walk stay = {here + c, 0, 0, 0};
        for (long g = 0; g < groups; g++) {
          const long R = min_long(ROWS, a->M - g * ROWS);
          dot_tile_for[R](packed + g * padded * ROWS + c * R, here + c, a->I, count, columns,
                          g == 0 ? &next : &stay, sum + (g * outs + block) * ROWS);
        }
      }
    }
  }
  for (long r = 0; r < a->M; r++)
    for (long o = 0; o < outs; o++)
      a->y[r * a->O + first + o] = vsum(sum[(r / ROWS * outs + o) * ROWS + r % ROWS]);
}

/* y = x w^T. */
RM_API void rm_linear(const float *x, const float *w, float *y, uint64_t M, uint64_t O,
                      uint64_t I) {
  if (M == 0 || O == 0) return;
  if (M > RM_FEW_ROWS) {
    rm_gemm(0, 1, (long)M, (long)O, (long)I, x, (long)I, w, (long)I, y, (long)O);
    return;
  }
  linear_args a = {x, w, NULL, y, (long)M, (long)O, (long)I, 0};
  const long most = OUTS / ceil_div(a.M, ROWS) / BLOCK * BLOCK;
  const long share = ceil_div(ceil_div(a.O, 2L * rm_threads()), BLOCK) * BLOCK;
  a.step = min_long(most, share);
  rm_parallel(ceil_div(a.O, a.step), linear_task, &a);
}

/*
 * tile[0..R)[0..columns) += d[0..count)[0..R) w[0..count)[0..columns): the sums run over w's rows
 * in order. Rows of the tile are TILE apart and padded, so that a last part of a vector is computed
 * as a whole one.
 */
RM_INLINE void axpys(const float *d, const float *w, long I, float *tile, long columns, long count,
                     prefetch_walk *next, const int R, const int C) {
  const long whole = columns / (C * VL) * (C * VL);
  for (long i = 0; i < whole; i += C * VL) {
    const float *ahead = next->at;
    if (count == BLOCK) {
      /* C vectors of BLOCK rows were used: as many lines of the next block are fetched. */
      next->at += C * BLOCK * VL;
      next->column += C * BLOCK * VL;
      if (next->column + C * BLOCK * VL > next->columns) {
        next->at += next->stride - next->column;
        next->column = 0;
      }
    }
    vf s[ROWS][WIDE];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int c = 0; c < C; c++) s[r][c] = vload(tile + r * TILE + i + c * VL);
    for (long o = 0; o < count; o++) {
      vf wi[WIDE];
#pragma GCC unroll 2
      for (int c = 0; c < C; c++) {
        wi[c] = vload(w + o * I + i + c * VL);
        __builtin_prefetch(ahead + (o * C + c) * VL, 0, 2);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        vf dr = vset(d[o * R + r]);
        KEEP(dr);
#pragma GCC unroll 2
        for (int c = 0; c < C; c++) s[r][c] += dr * wi[c];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int c = 0; c < C; c++) vstore(tile + r * TILE + i + c * VL, s[r][c]);
  }
  for (long i = whole; i < columns; i += VL) {
    const long n = min_long(VL, columns - i);
    for (long o = 0; o < count; o++) {
      const vf wi = n == VL ? vload(w + o * I + i) : vload_part(w + o * I + i, n);
      for (int r = 0; r < R; r++)
        vstore(tile + r * TILE + i, vload(tile + r * TILE + i) + vset(d[o * R + r]) * wi);
    }
  }
}

#define AXPYS_OF(R)                                                                        \
  static void axpys_##R(const float *d, const float *w, long I, float *tile, long columns, \
                        long count, prefetch_walk *next) {                                 \
    axpys(d, w, I, tile, columns, count, next, R, WIDE);                                   \
  }
EACH_ROW_COUNT(AXPYS_OF)

typedef void (*axpys_kernel)(const float *, const float *, long, float *, long, long,
                             prefetch_walk *);
#define AXPYS_NAME(R) axpys_##R,
static const axpys_kernel axpys_for[] = {0, EACH_ROW_COUNT(AXPYS_NAME)};

static void linear_dx_task(void *context, long task) {
  const linear_args *a = context;
  const long first = task * a->step, n = min_long(a->step, a->I - first);
  const long tiles = ceil_div(n, TILE), groups = ceil_div(a->M, ROWS);
  /* For each group of rows its tiles of columns one after another, each [ROWS][TILE]. */
  float sums[PACK * ROWS] __attribute__((aligned(64)));
  memset(sums, 0, (size_t)(groups * tiles * ROWS * TILE) * 4);
  for (long block = 0; block < a->O; block += BLOCK) {
    const long outs = min_long(BLOCK, a->O - block);
    const float *w = a->w + block * a->I + first;
    float d[BLOCK * RM_FEW_ROWS];
    for (long r = 0; r < a->M; r++) {
      const long g = r / ROWS, R = min_long(ROWS, a->M - g * ROWS);
      for (long o = 0; o < outs; o++)
        d[g * ROWS * BLOCK + o * R + r % ROWS] = a->dy[r * a->O + block + o];
    }
    prefetch_walk next = {block + BLOCK < a->O ? w + BLOCK * a->I : w, 0, n, a->I};
    for (long t = 0; t < tiles; t++) {
      prefetch_walk stay = {w + t * TILE, 0, 0, 0};
      for (long g = 0; g < groups; g++)
        axpys_for[min_long(ROWS, a->M - g * ROWS)](
            d + g * ROWS * BLOCK, w + t * TILE, a->I, sums + (g * tiles + t) * ROWS * TILE,
            min_long(TILE, n - t * TILE), outs, g == 0 ? &next : &stay);
    }
  }
  for (long r = 0; r < a->M; r++)
    for (long t = 0; t < tiles; t++)
      memcpy(a->y + r * a->I + first + t * TILE,
             sums + ((r / ROWS * tiles + t) * ROWS + r % ROWS) * TILE,
             (size_t)min_long(TILE, n - t * TILE) * 4);
}

/* dx = dy w. Tasks are ranges of columns, so each sum over o runs in order, whatever the range. */
RM_API void rm_linear_dx(const float *dy, const float *w, float *dx, uint64_t M, uint64_t O,
                         uint64_t I) {
  if (M == 0 || I == 0) return;
  if (M > RM_FEW_ROWS) {
    rm_gemm(0, 0, (long)M, (long)I, (long)O, dy, (long)O, w, (long)I, dx, (long)I);
    return;
  }
  linear_args a = {NULL, w, dy, dx, (long)M, (long)O, (long)I, 0};
  const long most = max_long(1, PACK / TILE / ceil_div(a.M, ROWS)) * TILE;
  a.step = min_long(most, ceil_div(ceil_div(a.I, rm_threads()), TILE) * TILE);
  rm_parallel(ceil_div(a.I, a.step), linear_dx_task, &a);
}
