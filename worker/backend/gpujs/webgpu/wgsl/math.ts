/**
 * Functions in float32, to about 2 ulp: WGSL's own may be far off, and differ from adapter to adapter. Declared under the names of the
 * built-in ones, they are what kernels made by gpu.js call too. Coefficients as in vector_math.h (Cephes).
 *
 * A compiler may reorder float operations as if they were exact. `opaque` hides a value's origin from it where the order is
 * the point: the parameter that it mixes in is always 0.
 */
export const MATH = /* wgsl */ `
fn opaque(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) ^ params.zero); }

// Not a constant expression: those must not be infinite or not a number.
fn f32_from_bits(bits: u32) -> f32 { return bitcast<f32>(bits ^ params.zero); }

fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }

// 2^n for -127 < n < 128.
fn power2(n: i32) -> f32 { return bitcast<f32>(u32(n + 127) << 23u); }

fn exp(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  if (x > 88.8f) { return f32_from_bits(0x7f800000u); }
  if (x < -104.0f) { return 0.0f; }
  let n = floor(x * 1.44269504088896341f + 0.5f);
  // ln 2 in two parts; the first has few enough bits for n times it to be exact.
  let r = opaque(x - n * 0.693359375f) + n * 2.12194440e-4f;
  var q = 1.9875691500e-4f;
  q = q * r + 1.3981999507e-3f;
  q = q * r + 8.3334519073e-3f;
  q = q * r + 4.1665795894e-2f;
  q = q * r + 1.6666665459e-1f;
  q = q * r + 5.0000001201e-1f;
  q = q * r * r + r + 1.0f;
  let k = i32(n);
  let half = k >> 1u;
  return opaque(q * power2(half)) * power2(k - half);
}

// The same of four numbers, of at most 0: what is too small becomes 0.
fn exp_each(x: vec4<f32>) -> vec4<f32> {
  let c = max(x, vec4<f32>(-88.0f));
  let n = floor(c * 1.44269504088896341f + 0.5f);
  let rough = c - n * 0.693359375f;
  let r = vec4<f32>(opaque(rough.x), opaque(rough.y), opaque(rough.z), opaque(rough.w)) + n * 2.12194440e-4f;
  var q = r * 1.9875691500e-4f + 1.3981999507e-3f;
  q = q * r + 8.3334519073e-3f;
  q = q * r + 4.1665795894e-2f;
  q = q * r + 1.6666665459e-1f;
  q = q * r + 5.0000001201e-1f;
  q = q * r * r + r + 1.0f;
  let power = bitcast<vec4<f32>>(vec4<u32>(vec4<i32>(n) + 127) << vec4<u32>(23u));
  return select(q * power, vec4<f32>(0.0f), x < vec4<f32>(-87.0f));
}

// log(x) for normal positive x; of 0 minus infinity.
fn log(x: f32) -> f32 {
  if (is_nan(x) || x < 0.0f) { return f32_from_bits(0x7fc00000u); }
  if (x == 0.0f) { return f32_from_bits(0xff800000u); }
  let bits = bitcast<u32>(x);
  if (bits >= 0x7f800000u) { return x; }
  // x = 2^e m, m from sqrt(1/2) to sqrt(2).
  var e = i32(bits >> 23u) - 126;
  var m = bitcast<f32>((bits & 0x7fffffu) | 0x3f000000u);
  if (m < 0.70710678f) {
    e -= 1;
    m = m + m;
  }
  let y = opaque(m - 1.0f);
  let z = y * y;
  let n = f32(e);
  var q = 7.0376836292e-2f;
  q = q * y - 1.1514610310e-1f;
  q = q * y + 1.1676998740e-1f;
  q = q * y - 1.2420140846e-1f;
  q = q * y + 1.4249322787e-1f;
  q = q * y - 1.6668057665e-1f;
  q = q * y + 2.0000714765e-1f;
  q = q * y - 2.4999993993e-1f;
  q = q * y + 3.3333331174e-1f;
  q = opaque(q * y * z - 2.12194440e-4f * n) - 0.5f * z;
  return opaque(y + q) + 0.693359375f * n;
}

fn tanh(x: f32) -> f32 {
  let a = abs(x);
  if (a < 0.625f) {
    let z = x * x;
    var q = -5.70498872745e-3f;
    q = q * z + 2.06390887954e-2f;
    q = q * z - 5.37397155531e-2f;
    q = q * z + 1.33314422036e-1f;
    q = q * z - 3.33332819422e-1f;
    return q * z * x + x;
  }
  let large = 1.0f - 2.0f / (exp(a + a) + 1.0f);
  return select(large, -large, x < 0.0f);
}

// The sum and what its rounding lost, exactly.
fn two_sum(a: f32, b: f32) -> vec2<f32> {
  let s = opaque(a + b);
  let t = opaque(s - a);
  return vec2<f32>(s, opaque(a - opaque(s - t)) + opaque(b - t));
}

// A sum in two parts, plus one more term.
fn add_term(sum: vec2<f32>, x: f32) -> vec2<f32> {
  let s = two_sum(sum.x, x);
  return vec2<f32>(s.x, sum.y + s.y);
}
`;
