/* What attention's forward pass and its gradients share. */
#ifndef RANKMESH_ATTENTION_H
#define RANKMESH_ATTENTION_H

#include <math.h>

#include "vector_math.h"

#define LOG2_E 1.44269504088896340736

/* Queries of a panel. */
#define WIDE 2
#define PANEL (WIDE * VL)
/* Keys of a tile. */
#define KEYS 64

/* q, o, their gradients (B,T,H,features); k, v and theirs (B,T,KV,features); lse(B,T,H). */
typedef struct {
  const float *q, *k, *v, *o, *lse, *d_out;
  float *out, *statistics, *dq, *dk, *dv;
  long B, T, H, KV, features, group, shift;
  int causal;
  float scale, scale2; /* of scores, and of their logarithms to base 2 */
  long panels, tiles;
} attention_args;

/*
 * A tile of keys against a panel of queries. Under a causal mask the last keys are seen by the
 * panel's upper half alone: the first `whole` of `n` keys meet all queries, the others that half.
 */
typedef struct {
  long first, n, whole;
} key_tile;

/* s(keys, PANEL) = a(keys, features) panel(features, PANEL), rows of a `stride` apart. */
void rm_times_panel(const float *a, long stride, const key_tile *t, const float *panel,
                    long features, float *s);

/* panel(features, PANEL) (+)= a^T s for a(keys, features), s(keys, PANEL). */
void rm_transposed_times_tile(const float *a, long stride, long features, const float *s,
                              const key_tile *t, float *panel, int add);

/* out(keys, features) += s rows for s(keys, PANEL), rows(queries, features) of `padded` floats, a
 * multiple of VL; rows of out are `stride` apart. */
void rm_tile_gradient(const float *s, const key_tile *t, const float *rows, long padded,
                      long queries, float *out, long stride, long features);

/* panel(columns, PANEL) = factor * x^T for n rows x `stride` apart; queries that are not there are
 * zeros. */
void rm_pack_panel(const float *x, long stride, long n, long columns, float factor, float *panel);

/* The inverse: n rows x(columns), `stride` apart, each query's times its factor. */
void rm_unpack_panel(const float *panel, const vf *factor, float *x, long stride, long n,
                     long columns);

/* Scores of keys with the queries before them become minus infinity, where the mask is causal. */
void rm_hide_tile(const attention_args *a, long q0, const key_tile *t, float *s);

RM_INLINE vf load_upto(const float *p, long n) { return n >= VL ? vload(p) : vload_part(p, n); }
RM_INLINE void store_upto(float *p, vf x, long n) {
  if (n >= VL)
    vstore(p, x);
  else
    vstore_part(p, x, n);
}

/* Keys that the panel of queries from q0 on sees, all queries together. */
RM_INLINE long keys_seen(const attention_args *a, long q0) {
  return a->causal ? min_long(a->T, q0 + PANEL) : a->T;
}

/* The tile of keys from `first` on, `n` of them. */
RM_INLINE key_tile tile_of(const attention_args *a, long q0, long first, long n) {
  const long whole = a->causal ? max_long(0, min_long(n, q0 + VL - first)) : n;
  return (key_tile){first, n, whole};
}

RM_INLINE void set_attention_sizes(attention_args *a, uint64_t B, uint64_t T, uint64_t H,
                                   uint64_t KV, uint64_t features, uint64_t group, uint64_t shift,
                                   int causal) {
  a->B = (long)B, a->T = (long)T, a->H = (long)H, a->KV = (long)KV;
  a->features = (long)features, a->group = (long)group, a->shift = (long)shift;
  a->causal = causal;
  a->scale = (float)(1 / sqrt((double)features));
  a->scale2 = (float)(LOG2_E / sqrt((double)features));
  a->panels = ceil_div(a->T, PANEL);
  a->tiles = ceil_div(a->T, KEYS);
}

#endif
