/* One vector of an optimizer update. */
#ifndef RANKMESH_UPDATE_H
#define RANKMESH_UPDATE_H

#include "rankmesh_cpu.h"

/* Scalars of one step, rounded to float once by the caller. */
typedef struct {
  float one_minus_beta1, beta2, one_minus_beta2, decay, step_size, root_scale, eps, momentum;
} step_scalars;

/* STORE writes the gradient itself (linearDw). */
enum kind { ADAMW, SGD, SGD_MOMENTUM, STORE };

/* Updates VL elements with gradient g. `n` < VL only in the last vector of a row. */
RM_INLINE void update_vector(vf g, float *w, float *m, float *v, const step_scalars *s, long n,
                             const enum kind kind) {
#define LOAD(p) (n == VL ? vload(p) : vload_part(p, n))
#define STORE_TO(p, x) (n == VL ? vstore(p, x) : vstore_part(p, x, n))
  if (kind == STORE) {
    STORE_TO(w, g);
  } else if (kind == SGD) {
    STORE_TO(w, LOAD(w) - s->step_size * g);
  } else if (kind == SGD_MOMENTUM) {
    const vf mi = s->momentum * LOAD(m) + g;
    STORE_TO(m, mi);
    STORE_TO(w, LOAD(w) - s->step_size * mi);
  } else {
    vf mi = LOAD(m), vi = LOAD(v);
    mi += (g - mi) * s->one_minus_beta1;
    vi = s->beta2 * vi + s->one_minus_beta2 * g * g;
    STORE_TO(m, mi);
    STORE_TO(v, vi);
    STORE_TO(w, LOAD(w) * s->decay - s->step_size * mi / (vsqrt(vi) * s->root_scale + s->eps));
  }
#undef LOAD
#undef STORE_TO
}

#endif
