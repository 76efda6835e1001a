/* Transcendental functions on float vectors, to about 2 ulp. Coefficients from Cephes (Moshier,
 * expf, tanhf, ndtrf). */
#ifndef RANKMESH_VECTOR_MATH_H
#define RANKMESH_VECTOR_MATH_H

#include "rankmesh_cpu.h"

RM_INLINE vf vselect(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }
RM_INLINE vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }
/* The magnitude of x with the sign of s. */
RM_INLINE vf vcopysign(vf x, vf s) {
  return (vf)(((vi)x & 0x7fffffff) | ((vi)s & (int32_t)0x80000000));
}

/* 2^n for -127 < n < 128. */
RM_INLINE vf vpower2(vi n) { return (vf)((n + 127) << 23); }

/* exp(x). Subnormal results are kept, overflow is infinity, NaN stays NaN. */
RM_INLINE vf vexp(vf x) {
  vf c = vselect(x > 89.0f, vset(89.0f), x);
  c = vselect(x < -104.0f, vset(-104.0f), c);
  /* Adding and taking away 1.5 * 2^23 rounds to an integer. */
  const vf shifted = c * 1.44269504088896341f + 12582912.0f;
  const vf n = shifted - 12582912.0f;
  /* ln 2 in two parts; the first has few enough bits for n times it to be exact. */
  vf r = c - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  vf p = vset(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
#if defined(__AVX512F__)
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  /* In two factors, since 2^k alone may lie outside the range of normal numbers. */
  const vi k = (vi)shifted - 0x4b400000, half = k >> 1;
  return p * vpower2(half) * vpower2(k - half);
#endif
}

/* Constants of vexp2_down, which a loop keeps in registers: GCC would load them for every vector. */
typedef struct {
  vf least, magic, p5, p4, p3, p2, p1, one;
} exp2_constants;

RM_INLINE exp2_constants vexp2_constants(void) {
  /* The polynomial of least relative error on [-1/2, 1/2] with 2^0 = 1, so that 2^-127 has the bits
   * of 0. */
  exp2_constants c = {vset(-127.0f),
                      vset(12582912.0f),
                      vset(1.326472731307149e-3f),
                      vset(9.671512991189957e-3f),
                      vset(5.550733581185341e-2f),
                      vset(2.4022242426872253e-1f),
                      vset(6.931470036506653e-1f),
                      vset(1.0f)};
  KEEP(c.least);
  KEEP(c.magic);
  KEEP(c.p5);
  KEEP(c.p4);
  KEEP(c.p3);
  KEEP(c.p2);
  KEEP(c.p1);
  KEEP(c.one);
  return c;
}

/* 2^x for x of at most 0 (up to 127 in fact), to about 2 ulp: half the work of exp(x). 2^-127 and
 * below are 0, NaN stays NaN. */
RM_INLINE vf vexp2_down(vf x, const exp2_constants *c) {
  x = vmax(c->least, x);
  /* Adding 1.5 * 2^23 rounds to an integer, which stands in the low bits; the others leave at the
   * top. */
  const vf shifted = x + c->magic;
  const vf r = x - (shifted - c->magic);
  const vf p = ((((c->p5 * r + c->p4) * r + c->p3) * r + c->p2) * r + c->p1) * r + c->one;
  return (vf)((vi)p + ((vi)shifted << 23));
}

/* log(x) for normal positive x. NaN stays NaN. Coefficients from Cephes (logf). */
RM_INLINE vf vlog(vf x) {
  /* x = 2^e m, m from sqrt(1/2) to sqrt(2). */
  const vi high = (((vi)x & 0x007fffff) | 0x3f000000) < 0x3f3504f3;
  vi e = ((vi)x >> 23) - 126 + high;
  const vf half = (vf)(((vi)x & 0x007fffff) | 0x3f000000);
  const vf m = half + vselect(high, half, (vf){0}) - 1.0f;
  const vf z = m * m, n = __builtin_convertvector(e, vf);
  vf p = vset(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  p = p * m * z - 2.12194440e-4f * n - 0.5f * z;
  return vselect(x != x, x, m + p + 0.693359375f * n);
}

RM_INLINE vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }

/* Derivative of the sigmoid, without the cancellation of s (1 - s) at large |x|. */
RM_INLINE vf vsigmoid_slope(vf x) {
  const vf e = vexp(-vabs(x)), d = 1.0f + e;
  return e / (d * d);
}

RM_INLINE vf vtanh(vf x) {
  const vf a = vabs(x), z = x * x;
  vf p = vset(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const vf small = p * z * x + x;
  const vf large = 1.0f - 2.0f / (vexp(a + a) + 1.0f);
  return vselect(a < 0.625f, small, vcopysign(large, x));
}

/* 1 - tanh(x)^2 = 4 e / (1 + e)^2 with e = exp(-2|x|). */
RM_INLINE vf vtanh_slope(vf x) {
  const vf e = vexp(-2.0f * vabs(x)), d = 1.0f + e;
  return 4.0f * e / (d * d);
}

/* Distribution function of the normal distribution, relative accuracy kept in the lower tail. */
RM_INLINE vf vnormal_cdf(vf x) {
  const vf z = x * 0.70710678118654752f, a = vabs(z), zz = z * z;
  /* |z| < 1: erf(z) = z T(z^2). */
  vf t = vset(7.853861353153693e-5f);
  t = t * zz - 8.010193625184903e-4f;
  t = t * zz + 5.188327685732524e-3f;
  t = t * zz - 2.685381193529856e-2f;
  t = t * zz + 1.128358514861418e-1f;
  t = t * zz - 3.761262582423300e-1f;
  t = t * zz + 1.128379165726710e+0f;
  const vf inner = 0.5f + 0.5f * z * t;
  /* Beyond: erfc(a) = exp(-a^2) / a * P(1 / a^2), one polynomial below 2 and one above. */
  const vf q = 1.0f / vselect(a < 1.0f, vset(1.0f), a), y = q * q;
  vf p = vset(2.326819970068386e-2f);
  p = p * y - 1.387039388740657e-1f;
  p = p * y + 3.687424674597105e-1f;
  p = p * y - 5.824733027278666e-1f;
  p = p * y + 6.210004621745983e-1f;
  p = p * y - 4.944515323274145e-1f;
  p = p * y + 3.404879937665872e-1f;
  p = p * y - 2.741127028184656e-1f;
  p = p * y + 5.638259427386472e-1f;
  vf r = vset(-1.047766399936249e+1f);
  r = r * y + 1.297719955372516e+1f;
  r = r * y - 7.495518717768503e+0f;
  r = r * y + 2.921019019210786e+0f;
  r = r * y - 1.015265279202700e+0f;
  r = r * y + 4.218463358204948e-1f;
  r = r * y - 2.820767439740514e-1f;
  r = r * y + 5.641895067754075e-1f;
  const vf tail = 0.5f * vexp(-0.5f * x * x) * q * vselect(a < 2.0f, p, r);
  const vf outer = vselect(x < 0.0f, tail, 1.0f - tail);
  return vselect(x != x, x, vselect(a < 1.0f, inner, outer));
}

RM_INLINE vf vnormal_pdf(vf x) { return 0.39894228040143268f * vexp(-0.5f * x * x); }

/* Sine and cosine to about 1e-15 for |x| below 1e6. Coefficients from fdlibm (Sun Microsystems). */
RM_INLINE void vsincos(vd x, vd *sine, vd *cosine) {
  /* x = n pi / 2 + r, |r| <= pi / 4. The first two parts of pi / 2 have 33 bits, so that n times
   * them is exact. Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits. */
  const vd shifted = x * 0.63661977236758134308 + 6755399441055744.0;
  const vd n = shifted - 6755399441055744.0;
  vd r = x - n * 1.57079632673412561417;
  r = r - n * 6.07710050630396597660e-11;
  r = r - n * 2.02226624879595063154e-21;
  const vd z = r * r;
  vd s = z * 1.58969099521155010221e-10 - 2.50507602534068634195e-08;
  s = s * z + 2.75573137070700676789e-06;
  s = s * z - 1.98412698298579493134e-04;
  s = s * z + 8.33333333332248946124e-03;
  s = s * z - 1.66666666666666324348e-01;
  s = s * z * r + r;
  vd c = 2.08757232129817482790e-09 - z * 1.13596475577881948265e-11;
  c = c * z - 2.75573143513906633035e-07;
  c = c * z + 2.48015872894767294178e-05;
  c = c * z - 1.38888888888741095749e-03;
  c = c * z + 4.16666666666666019037e-02;
  c = c * z * z - 0.5 * z + 1.0;
  /* Odd quadrants swap the two; the sine is negative in quadrants 2 and 3, the cosine in 1 and 2. */
  const vl quadrant = (vl)shifted;
  const vl swap = -(quadrant & 1);
  *sine = (vd)((((vl)s & ~swap) | ((vl)c & swap)) ^ ((quadrant & 2) << 62));
  *cosine = (vd)((((vl)c & ~swap) | ((vl)s & swap)) ^ (((quadrant + 1) & 2) << 62));
}

#endif
