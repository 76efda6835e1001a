/*
 * Tokens sorted by the row of a table that their ids name, in token order within a row: order(M) holds them, ends(V) where each
 * row's end, which is where those of the next begin. A counting sort: rows' tokens are counted, counts are added up, tokens take
 * places of their rows in any order, and then each finds its rank among those of its row. That is quadratic in a row's tokens,
 * so the tokens of long rows are collected from the ids instead, whose order is right already.
 *
 * A step's table is far larger than its ids: seven short launches are little beside it.
 */
#include "token_rows.cuh"

/* Rows that one block adds up: threads times rows of a thread. */
#define SCAN_THREADS 256
#define SCAN_EACH 16
/* A row with more tokens is long. */
#define LONG_ROW 4096
/* Tokens that a block looks at together when it collects a row: threads times tokens of a thread. */
#define COLLECT_THREADS 1024
#define COLLECT_EACH 8

/* counts(V), zeros before, = tokens of each row. */
RM_KERNEL rm_tokens_count(const int *ids, int *counts, i64 M, i64 V, i64 start) {
  const i64 t = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 row = t < M ? own_row(ids, t, V, start) : -1;
  if (row >= 0) atomicAdd(counts + row, 1);
}

/* sums[b] = the counts of block b's rows, added up. */
RM_KERNEL rm_tokens_sums(const int *counts, int *sums, i64 V) {
  __shared__ int shared[32];
  const i64 first = (i64)blockIdx.x * (SCAN_THREADS * SCAN_EACH);
  int sum = 0;
  for (int k = 0; k < SCAN_EACH; k++) {
    const i64 row = first + k * SCAN_THREADS + threadIdx.x;
    if (row < V) sum += counts[row];
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/*
 * The sum of v over the threads before this one; *total: over all. `shared` holds 32 values and is free for reuse after the next
 * barrier of the caller.
 */
RM_DEVICE int sum_before(int v, int *shared, int *total) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  int sum = v;
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    const int other = __shfl_up_sync(0xffffffffu, sum, o);
    if (lane >= o) sum += other;
  }
  if (lane == 31) shared[warp] = sum;
  __syncthreads();
  int before = 0, all = 0;
  for (int w = 0; w < warps; w++) {
    if (w == warp) before = all;
    all += shared[w];
  }
  *total = all;
  return before + sum - v;
}

/* places(V): counts become the sums of the counts before them. sums as rm_tokens_sums makes them. */
RM_KERNEL rm_tokens_scan(int *places, const int *sums, i64 V) {
  __shared__ int shared[32], others[32];
  int base = 0;
  for (unsigned b = threadIdx.x; b < blockIdx.x; b += SCAN_THREADS) base += sums[b];
  base = block_sum(base, others);
  const i64 first = ((i64)blockIdx.x * SCAN_THREADS + threadIdx.x) * SCAN_EACH;
  int counts[SCAN_EACH], sum = 0, total;
#pragma unroll
  for (int k = 0; k < SCAN_EACH; k++) {
    counts[k] = first + k < V ? places[first + k] : 0;
    sum += counts[k];
  }
  int place = base + sum_before(sum, shared, &total);
#pragma unroll
  for (int k = 0; k < SCAN_EACH; k++) {
    if (first + k < V) places[first + k] = place;
    place += counts[k];
  }
}

/* Tokens take their rows' places, whoever comes first. places[r], where row r's tokens begin, becomes where they end. */
RM_KERNEL rm_tokens_place(const int *ids, int *places, int *unordered, i64 M, i64 V, i64 start) {
  const i64 t = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 row = t < M ? own_row(ids, t, V, start) : -1;
  if (row >= 0) unordered[atomicAdd(places + row, 1)] = (int)t;
}

/* Tokens of rows that are not long, each at its rank. */
RM_KERNEL rm_tokens_order(const int *ids, const int *ends, const int *unordered, int *order, i64 V,
                          i64 start) {
  const i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= ends[V - 1]) return;
  const int t = unordered[k];
  const token_range range(ends, (i64)ids[t] - start);
  if (range.to - range.from > LONG_ROW) return;
  int rank = 0;
#pragma unroll 4
  for (int j = range.from; j < range.to; j++) rank += unordered[j] < t;
  order[range.from + rank] = t;
}

/* The tokens of one row, as they come in ids. */
RM_DEVICE void collect(const int *ids, int *order, i64 M, i64 id, token_range range) {
  __shared__ int shared[2][32];
  int place = range.from, half = 0;
  for (i64 first = 0; first < M && place < range.to; first += COLLECT_THREADS * COLLECT_EACH) {
    const i64 mine = first + (i64)threadIdx.x * COLLECT_EACH;
    unsigned found = 0;
#pragma unroll
    for (int k = 0; k < COLLECT_EACH; k++)
      if (mine + k < M && ids[mine + k] == id) found |= 1u << k;
    int total, at = place + sum_before(__popc(found), shared[half], &total);
#pragma unroll
    for (int k = 0; k < COLLECT_EACH; k++)
      if (found >> k & 1) order[at++] = (int)(mine + k);
    place += total;
    half ^= 1;
  }
}

/*
 * The tokens of long rows: the one that holds place blockIdx.x LONG_ROW of the list, if it is long and holds no such place
 * before. A long row holds at least one.
 */
RM_KERNEL __launch_bounds__(COLLECT_THREADS)
rm_tokens_collect(const int *ids, const int *ends, const int *unordered, int *order, i64 M, i64 V,
                  i64 start) {
  const i64 k = (i64)blockIdx.x * LONG_ROW;
  if (k >= ends[V - 1]) return;
  const int id = ids[unordered[k]];
  const token_range range(ends, id - start);
  if (range.to - range.from <= LONG_ROW || k - range.from >= LONG_ROW) return;
  collect(ids, order, M, id, range);
}

/* The tokens of every row, one block each: for as many tokens as leave no room for an unordered list. */
RM_KERNEL __launch_bounds__(COLLECT_THREADS)
rm_tokens_collect_rows(const int *ids, const int *ends, int *order, i64 M, i64 start) {
  const token_range range(ends, blockIdx.x);
  if (range.from < range.to) collect(ids, order, M, blockIdx.x + start, range);
}
