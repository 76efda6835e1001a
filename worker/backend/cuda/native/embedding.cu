/*
 * Embeddings: rows of a table w(V,D) taken by ids, and a table's gradient added up, or used up, row by row. A rank holds rows
 * [start, start + V); ids outside give zeros and no gradient. M tokens, sorted by row (token_sort.cu).
 *
 * A row's gradient is the sum of its tokens' rows of dy in token order; more than CHUNK of them are summed by chunks, all at
 * once, and then over chunks, so that a frequent token is no long chain. Every update streams the whole table once: rows without
 * tokens decay and move too. Kernels come for vectors of 4 columns and for single ones.
 */
#include "token_rows.cuh"
#include "update.cuh"

/* Vectors of a thread that copies rows. */
#define COPIED 4
/* Tokens summed as one chain, at most. */
#define CHUNK 128
/* Threads of a block that sums chunks. */
#define CHUNK_THREADS 128
/* Rows of dy whose loads a thread has in flight: more where chunks are all it does; fewer beside the state of an update. */
#define CHUNK_IN_FLIGHT 8
#define ROW_IN_FLIGHT 4

/* W columns in a thread's registers. */
template <int W>
struct columns {
  float at[W];
};

template <int W>
RM_DEVICE columns<W> load_columns(const float *p) {
  columns<W> c;
  if constexpr (W == 4) {
    const float4 v = load4(p);
    c.at[0] = v.x, c.at[1] = v.y, c.at[2] = v.z, c.at[3] = v.w;
  } else {
    c.at[0] = *p;
  }
  return c;
}

template <int W>
RM_DEVICE void store_columns(float *p, const columns<W> &c) {
  if constexpr (W == 4)
    store4(p, make_float4(c.at[0], c.at[1], c.at[2], c.at[3]));
  else
    *p = c.at[0];
}

template <int W>
RM_DEVICE void add(columns<W> &to, const columns<W> &c) {
#pragma unroll
  for (int j = 0; j < W; j++) to.at[j] += c.at[j];
}

/*
 * The row and the first column of a thread: a block has `height` rows, or one of the `pieces` of a row, `width` vectors of W
 * columns wide. False where there is nothing for it.
 */
struct row_place_of_table {
  i64 row;
  int vector;
  RM_CALL bool find(i64 rows, int vectors, int width, int pieces) {
    const int height = blockDim.x / width, r = threadIdx.x / width;
    row = (i64)(blockIdx.x / pieces) * height + r;
    vector = blockIdx.x % pieces * width + (threadIdx.x - r * width);
    return r < height && row < rows && vector < vectors;
  }
};

/* ---- rows taken ---- */

/* y(M,D). A thread's vectors lie `width` apart, and all loads are in flight before the first store. */
template <int W>
RM_DEVICE void embed(const int *ids, const float *w, float *y, i64 M, i64 V, i64 D, i64 start,
                     int width, int pieces) {
  const int height = blockDim.x / width, r = threadIdx.x / width;
  const i64 t = (i64)(blockIdx.x / pieces) * height + r;
  if (r >= height || t >= M) return;
  const i64 row = own_row(ids, t, V, start);
  const i64 first = (i64)(blockIdx.x % pieces) * width * COPIED + (threadIdx.x - r * width);
  columns<W> c[COPIED] = {};
#pragma unroll
  for (int k = 0; k < COPIED; k++) {
    const i64 column = (first + k * width) * W;
    if (row >= 0 && column < D) c[k] = load_columns<W>(w + row * D + column);
  }
#pragma unroll
  for (int k = 0; k < COPIED; k++) {
    const i64 column = (first + k * width) * W;
    if (column < D) store_columns(y + t * D + column, c[k]);
  }
}

/* ---- gradients of rows ---- */

/* g += columns of the tokens order[from..to), one after another. */
template <int W, int IN_FLIGHT>
RM_DEVICE void add_tokens(columns<W> &g, const float *dy, const int *order, int from, int to, i64 D,
                          i64 column) {
  for (int k = from; k < to; k += IN_FLIGHT) {
    columns<W> x[IN_FLIGHT];
#pragma unroll
    for (int j = 0; j < IN_FLIGHT; j++)
      if (k + j < to) x[j] = load_columns<W>(dy + order[k + j] * D + column);
#pragma unroll
    for (int j = 0; j < IN_FLIGHT; j++)
      if (k + j < to) add(g, x[j]);
  }
}

/*
 * Where the sum of a chunk stands that begins at place k of the list, of a row whose tokens begin at `from`: CHUNK places hold at
 * most the beginning of one chunk of the row that is there at their first, and of one that begins among them.
 */
RM_DEVICE i64 chunk_slot(int from, int k) {
  const int window = k / CHUNK;
  return 2 * (i64)window + (from > window * CHUNK);
}

/* sums(slots,D): those of chunks of rows of more than CHUNK tokens. A block has a slot and CHUNK_THREADS vectors of it. */
template <int W>
RM_DEVICE void sum_chunks(const float *dy, const int *ids, const int *ends, const int *order,
                          float *sums, i64 V, i64 D, i64 start, int pieces) {
  const i64 slot = blockIdx.x / pieces;
  const int all = ends[V - 1], first = (int)(slot >> 1) * CHUNK;
  if (first >= all) return;
  const bool begins = slot & 1;
  const int at = begins ? min(first + CHUNK, all) - 1 : first;
  const token_range range(ends, (i64)ids[order[at]] - start);
  if (range.to - range.from <= CHUNK || (begins && range.from <= first)) return;
  const int chunks = begins ? 0 : (first - range.from + CHUNK - 1) / CHUNK;
  const int k = range.from + chunks * CHUNK;
  const i64 column = ((i64)(blockIdx.x % pieces) * CHUNK_THREADS + threadIdx.x) * W;
  if (k >= range.to || column >= D) return;
  columns<W> g = {};
  add_tokens<W, CHUNK_IN_FLIGHT>(g, dy, order, k, min(k + CHUNK, range.to), D, column);
  store_columns(sums + slot * D + column, g);
}

/* Columns of a row's gradient. `sums` holds those of chunks, or is NULL: then rows are summed as one chain. */
template <int W>
RM_DEVICE columns<W> row_gradient(const float *dy, const int *order, const float *sums,
                                  token_range range, i64 D, i64 column) {
  columns<W> g = {};
  if (range.to - range.from <= CHUNK || !sums) {
    add_tokens<W, ROW_IN_FLIGHT>(g, dy, order, range.from, range.to, D, column);
  } else {
#pragma unroll 4
    for (int k = range.from; k < range.to; k += CHUNK)
      add(g, load_columns<W>(sums + chunk_slot(range.from, k) * D + column));
  }
  return g;
}

/* ---- the gradient itself ---- */

/* dw(V,D), or what it adds to dw from further tokens. */
template <int W>
RM_DEVICE void store_rows(const float *dy, const int *ends, const int *order, const float *sums,
                          float *dw, i64 V, i64 D, int width, int pieces, int further) {
  row_place_of_table place;
  if (!place.find(V, (int)(D / W), width, pieces)) return;
  const token_range range(ends, place.row);
  if (further && range.from == range.to) return;
  const i64 column = (i64)place.vector * W, at = place.row * D + column;
  columns<W> g = row_gradient<W>(dy, order, sums, range, D, column);
  if (further) add(g, load_columns<W>(dw + at));
  store_columns(dw + at, g);
}

/* ---- updates ---- */

/* w(V,D), with m and v where KIND has them, by the gradient times *factor unless NULL. */
template <update_kind KIND, int W>
RM_DEVICE void update_rows(const float *dy, const int *ends, const int *order, const float *sums,
                           float *w, float *m, float *v, i64 V, i64 D, int width, int pieces,
                           const float *factor, const step_scalars *scalars) {
  constexpr int COUNT = update_tensors<KIND>::count;
  row_place_of_table place;
  if (!place.find(V, (int)(D / W), width, pieces)) return;
  const token_range range(ends, place.row);
  const float by = factor_of(factor);
  /* Without momentum a row without tokens stays as it is, unless the factor is no number. */
  if (KIND == SGD && range.from == range.to && by - by == 0.0f) return;
  const i64 column = (i64)place.vector * W, at = place.row * D + column;
  float *const tensors[3] = {w, m, v};
  columns<W> state[COUNT];
#pragma unroll
  for (int k = 0; k < COUNT; k++) state[k] = load_columns<W>(tensors[k] + at);
  const columns<W> g = row_gradient<W>(dy, order, sums, range, D, column);
  const step_scalars s = *scalars;
#pragma unroll
  for (int j = 0; j < W; j++) {
    float element[COUNT];
#pragma unroll
    for (int k = 0; k < COUNT; k++) element[k] = state[k].at[j];
    update_element<KIND>(by * g.at[j], element, s);
#pragma unroll
    for (int k = 0; k < COUNT; k++) state[k].at[j] = element[k];
  }
#pragma unroll
  for (int k = 0; k < COUNT; k++) store_columns(tensors[k] + at, state[k]);
}

/* ---- sum of squares ---- */

/* partial[b] = the sum, in double, over rows whose tokens begin at places b, b + blocks, ... of the list. */
template <int W>
RM_DEVICE void square_rows(const float *dy, const int *ids, const int *ends, const int *order,
                           const float *sums, double *partial, i64 V, i64 D, i64 start) {
  __shared__ double shared[32];
  const int all = ends[V - 1];
  double total = 0.0;
  for (i64 k = blockIdx.x; k < all; k += gridDim.x) {
    const token_range range(ends, (i64)ids[order[k]] - start);
    if (range.from != k) continue;
    for (i64 column = (i64)threadIdx.x * W; column < D; column += (i64)blockDim.x * W) {
      const columns<W> g = row_gradient<W>(dy, order, sums, range, D, column);
#pragma unroll
      for (int j = 0; j < W; j++) total += (double)g.at[j] * (double)g.at[j];
    }
  }
  total = block_sum(total, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

/* *s = the sum of blocks' sums. One block. */
RM_KERNEL rm_rows_squares_sum(const double *partial, i64 blocks, double *s) {
  __shared__ double shared[32];
  double total = 0.0;
  for (i64 b = threadIdx.x; b < blocks; b += blockDim.x) total += partial[b];
  total = block_sum(total, shared);
  if (threadIdx.x == 0) *s = total;
}

#define UPDATE(NAME, KIND, W)                                                                      \
  RM_KERNEL __launch_bounds__(STREAM_THREADS, 4)                                                   \
      rm_rows_##NAME##_##W(const float *dy, const int *ends, const int *order, const float *sums,  \
                           float *w, float *m, float *v, i64 V, i64 D, int width, int pieces,      \
                           const float *factor, const step_scalars *scalars) {                     \
    update_rows<KIND, W>(dy, ends, order, sums, w, m, v, V, D, width, pieces, factor, scalars);    \
  }
#define ROWS(W)                                                                                    \
  RM_KERNEL rm_embedding_##W(const int *ids, const float *w, float *y, i64 M, i64 V, i64 D,        \
                             i64 start, int width, int pieces) {                                   \
    embed<W>(ids, w, y, M, V, D, start, width, pieces);                                            \
  }                                                                                                \
  RM_KERNEL rm_rows_chunks_##W(const float *dy, const int *ids, const int *ends, const int *order, \
                               float *sums, i64 V, i64 D, i64 start, int pieces) {                 \
    sum_chunks<W>(dy, ids, ends, order, sums, V, D, start, pieces);                                \
  }                                                                                                \
  RM_KERNEL __launch_bounds__(STREAM_THREADS, 4)                                                   \
      rm_rows_store_##W(const float *dy, const int *ends, const int *order, const float *sums,     \
                        float *dw, i64 V, i64 D, int width, int pieces, int further) {             \
    store_rows<W>(dy, ends, order, sums, dw, V, D, width, pieces, further);                        \
  }                                                                                                \
  RM_KERNEL rm_rows_squares_##W(const float *dy, const int *ids, const int *ends,                  \
                                const int *order, const float *sums, double *partial, i64 V,       \
                                i64 D, i64 start) {                                                \
    square_rows<W>(dy, ids, ends, order, sums, partial, V, D, start);                              \
  }                                                                                                \
  UPDATE(adamw, ADAMW, W)                                                                          \
  UPDATE(sgd, SGD, W)                                                                              \
  UPDATE(sgd_momentum, SGD_MOMENTUM, W)
ROWS(1)
ROWS(4)
