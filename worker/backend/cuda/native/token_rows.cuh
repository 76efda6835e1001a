/* Tokens sorted by row of a table w(V,D): what token_sort.cu makes, and embedding.cu sums. */
#pragma once
#include "vectors.cuh"

/* Row of token t's id, counted from this rank's first; -1 where it is another rank's, or none. */
RM_DEVICE i64 own_row(const int *ids, i64 t, i64 V, i64 start) {
  const i64 row = (i64)ids[t] - start;
  return row >= 0 && row < V ? row : -1;
}

/* Places of a row's tokens in the sorted list. */
struct token_range {
  int from, to;
  RM_CALL token_range(const int *ends, i64 row) : from(row ? ends[row - 1] : 0), to(ends[row]) {}
};
