/**
 * float64 in integers, since WGSL has none: a number is its IEEE bits as vec2(low word, high word). Every operation rounds
 * to nearest even, so results are those of a processor, bit for bit, on any adapter.
 *
 * Operations work on a significand of 56 bits, three below the last one that is kept: guard, round and a sticky bit.
 */
export const FLOAT64 = /* wgsl */ `
alias f64 = vec2<u32>;

// A sign bit, a biased exponent, and 56 bits of significand with the leading one at bit 55 (bit 23 of .y).
struct Parts { sign: u32, exponent: i32, m: vec2<u32> }

fn f64_is_zero(a: f64) -> bool { return (a.x | (a.y & 0x7fffffffu)) == 0u; }
fn f64_exponent(a: f64) -> u32 { return (a.y >> 20u) & 0x7ffu; }
fn f64_negative(a: f64) -> f64 { return vec2<u32>(a.x, a.y ^ 0x80000000u); }

fn u64_shift_left(a: vec2<u32>, n: u32) -> vec2<u32> {
  if (n == 0u) { return a; }
  if (n >= 32u) { return vec2<u32>(0u, a.x << (n - 32u)); }
  return vec2<u32>(a.x << n, (a.y << n) | (a.x >> (32u - n)));
}

// Bits that leave at the right are kept as one in the last.
fn u64_shift_right_sticky(a: vec2<u32>, n: u32) -> vec2<u32> {
  if (n == 0u) { return a; }
  if (n >= 64u) { return vec2<u32>(select(0u, 1u, (a.x | a.y) != 0u), 0u); }
  if (n == 32u) { return vec2<u32>(a.y | select(0u, 1u, a.x != 0u), 0u); }
  if (n > 32u) {
    let lost = a.x | (a.y << (64u - n));
    return vec2<u32>((a.y >> (n - 32u)) | select(0u, 1u, lost != 0u), 0u);
  }
  let lost = a.x << (32u - n);
  return vec2<u32>((a.x >> n) | (a.y << (32u - n)) | select(0u, 1u, lost != 0u), a.y >> n);
}

fn u64_add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = a.x + b.x;
  return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}
fn u64_sub(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}
fn u64_less(a: vec2<u32>, b: vec2<u32>) -> bool {
  return a.y < b.y || (a.y == b.y && a.x < b.x);
}
fn u64_leading_zeros(a: vec2<u32>) -> u32 {
  return select(countLeadingZeros(a.y), 32u + countLeadingZeros(a.x), a.y == 0u);
}

fn u32_wide_product(a: u32, b: u32) -> vec2<u32> {
  let a0 = a & 0xffffu; let a1 = a >> 16u;
  let b0 = b & 0xffffu; let b1 = b >> 16u;
  let low = a0 * b0;
  let middle = a1 * b0 + (low >> 16u);
  let other = a0 * b1 + (middle & 0xffffu);
  return vec2<u32>((other << 16u) | (low & 0xffffu), a1 * b1 + (middle >> 16u) + (other >> 16u));
}

fn f64_unpack(a: f64) -> Parts {
  let biased = f64_exponent(a);
  var m = u64_shift_left(vec2<u32>(a.x, a.y & 0xfffffu), 3u);
  if (biased != 0u) {
    m.y |= 1u << 23u;
    return Parts(a.y & 0x80000000u, i32(biased), m);
  }
  let shift = u64_leading_zeros(m) - 8u;
  return Parts(a.y & 0x80000000u, 1 - i32(shift), u64_shift_left(m, shift));
}

// The significand's leading one is at bit 55, or it is subnormal and the exponent 1, or zero.
fn f64_pack(sign: u32, exponent_in: i32, m_in: vec2<u32>) -> f64 {
  var exponent = exponent_in;
  var m = m_in;
  if (exponent < 1) {
    m = u64_shift_right_sticky(m, u32(1 - exponent));
    exponent = 1;
  }
  let rest = m.x & 7u;
  m = vec2<u32>((m.x >> 3u) | (m.y << 29u), m.y >> 3u);
  if (rest > 4u || (rest == 4u && (m.x & 1u) == 1u)) { m = u64_add(m, vec2<u32>(1u, 0u)); }
  if ((m.y >> 21u) != 0u) {
    m = vec2<u32>((m.x >> 1u) | (m.y << 31u), m.y >> 1u);
    exponent += 1;
  }
  if (exponent >= 2047) { return vec2<u32>(0u, sign | 0x7ff00000u); }
  let biased = select(0u, u32(exponent), (m.y >> 20u) != 0u);
  return vec2<u32>(m.x, sign | (biased << 20u) | (m.y & 0xfffffu));
}

const F64_NAN = vec2<u32>(0u, 0x7ff80000u);

fn f64_add(left: f64, right: f64) -> f64 {
  // a is the larger in magnitude; of not-a-numbers it is one.
  let swap = u64_less(vec2<u32>(left.x, left.y & 0x7fffffffu), vec2<u32>(right.x, right.y & 0x7fffffffu));
  let a = select(left, right, swap);
  let b = select(right, left, swap);
  if (f64_exponent(a) == 2047u) {
    let opposite = ((a.y ^ b.y) >> 31u) == 1u;
    if (f64_exponent(b) == 2047u && opposite) { return F64_NAN; }
    return a;
  }
  if (f64_is_zero(b)) {
    if (f64_is_zero(a)) { return vec2<u32>(0u, a.y & b.y); }
    return a;
  }
  let p = f64_unpack(a);
  let q = f64_unpack(b);
  let n = u64_shift_right_sticky(q.m, u32(p.exponent - q.exponent));
  if (p.sign == q.sign) {
    let sum = u64_add(p.m, n);
    if ((sum.y >> 24u) == 0u) { return f64_pack(p.sign, p.exponent, sum); }
    return f64_pack(p.sign, p.exponent + 1, u64_shift_right_sticky(sum, 1u));
  }
  let difference = u64_sub(p.m, n);
  if ((difference.x | difference.y) == 0u) { return vec2<u32>(0u, 0u); }
  let shift = u64_leading_zeros(difference) - 8u;
  return f64_pack(p.sign, p.exponent - i32(shift), u64_shift_left(difference, shift));
}

fn f64_mul(a: f64, b: f64) -> f64 {
  let sign = (a.y ^ b.y) & 0x80000000u;
  if (f64_exponent(a) == 2047u || f64_exponent(b) == 2047u) {
    let odd = f64_is_zero(a) || f64_is_zero(b) || f64_is_nan(a) || f64_is_nan(b);
    if (odd) { return F64_NAN; }
    return vec2<u32>(0u, sign | 0x7ff00000u);
  }
  if (f64_is_zero(a) || f64_is_zero(b)) { return vec2<u32>(0u, sign); }
  let p = f64_unpack(a);
  let q = f64_unpack(b);
  // 53 bits each: the product's 106 lie in four words.
  let s = vec2<u32>((p.m.x >> 3u) | (p.m.y << 29u), p.m.y >> 3u);
  let t = vec2<u32>((q.m.x >> 3u) | (q.m.y << 29u), q.m.y >> 3u);
  let low = u32_wide_product(s.x, t.x);
  let cross = u64_add(u32_wide_product(s.x, t.y), u32_wide_product(s.y, t.x));
  let high = u32_wide_product(s.y, t.y);
  let middle = u64_add(cross, vec2<u32>(low.y, 0u));
  let top = u64_add(high, vec2<u32>(middle.y, 0u));
  // Bits 49 and up: 55 is the leading one, or 56.
  var m = vec2<u32>((middle.x >> 17u) | (top.x << 15u), (top.x >> 17u) | (top.y << 15u));
  if (((middle.x & 0x1ffffu) | low.x) != 0u) { m.x |= 1u; }
  var exponent = p.exponent + q.exponent - 1023;
  if ((m.y >> 24u) != 0u) {
    m = u64_shift_right_sticky(m, 1u);
    exponent += 1;
  }
  return f64_pack(sign, exponent, m);
}

fn f64_is_nan(a: f64) -> bool {
  return f64_exponent(a) == 2047u && ((a.y & 0xfffffu) | a.x) != 0u;
}

fn f64_div(a: f64, b: f64) -> f64 {
  let sign = (a.y ^ b.y) & 0x80000000u;
  if (f64_is_nan(a) || f64_is_nan(b)) { return F64_NAN; }
  let infinite_a = f64_exponent(a) == 2047u;
  let infinite_b = f64_exponent(b) == 2047u;
  if ((infinite_a && infinite_b) || (f64_is_zero(a) && f64_is_zero(b))) { return F64_NAN; }
  if (infinite_a || f64_is_zero(b)) { return vec2<u32>(0u, sign | 0x7ff00000u); }
  if (infinite_b || f64_is_zero(a)) { return vec2<u32>(0u, sign); }
  let p = f64_unpack(a);
  let q = f64_unpack(b);
  var exponent = p.exponent - q.exponent + 1023;
  var rest = p.m;
  if (u64_less(rest, q.m)) {
    rest = u64_shift_left(rest, 1u);
    exponent -= 1;
  }
  // One bit of the quotient at a time, 56 of them.
  var m = vec2<u32>(0u, 0u);
  for (var i = 0u; i < 56u; i++) {
    m = u64_shift_left(m, 1u);
    if (!u64_less(rest, q.m)) {
      rest = u64_sub(rest, q.m);
      m.x |= 1u;
    }
    rest = u64_shift_left(rest, 1u);
  }
  if ((rest.x | rest.y) != 0u) { m.x |= 1u; }
  return f64_pack(sign, exponent, m);
}

fn f64_sqrt(a: f64) -> f64 {
  if (f64_is_zero(a)) { return a; }
  if ((a.y >> 31u) == 1u || f64_is_nan(a)) { return F64_NAN; }
  if (f64_exponent(a) == 2047u) { return a; }
  let p = f64_unpack(a);
  // An even exponent: the radicand is the significand, with a bit more where it was odd.
  let unbiased = p.exponent - 1023;
  var radicand = u64_shift_left(p.m, 7u + select(0u, 1u, (unbiased & 1) != 0));
  // Two bits of the radicand give one of the root, 56 of them.
  var rest = vec2<u32>(0u, 0u);
  var root = vec2<u32>(0u, 0u);
  for (var i = 0u; i < 56u; i++) {
    rest = u64_shift_left(rest, 2u);
    rest.x |= radicand.y >> 30u;
    radicand = u64_shift_left(radicand, 2u);
    let trial = u64_add(u64_shift_left(root, 2u), vec2<u32>(1u, 0u));
    root = u64_shift_left(root, 1u);
    if (!u64_less(rest, trial)) {
      rest = u64_sub(rest, trial);
      root.x |= 1u;
    }
  }
  if ((rest.x | rest.y) != 0u) { root.x |= 1u; }
  return f64_pack(0u, (unbiased >> 1u) + 1023, root);
}

fn f64_from_f32(x: f32) -> f64 {
  let bits = bitcast<u32>(x);
  let sign = bits & 0x80000000u;
  var exponent = (bits >> 23u) & 0xffu;
  var m = bits & 0x7fffffu;
  if (exponent == 255u) { return vec2<u32>(m << 29u, sign | 0x7ff00000u | (m >> 3u)); }
  if (exponent == 0u) {
    if (m == 0u) { return vec2<u32>(0u, sign); }
    let shift = countLeadingZeros(m) - 8u;
    m = (m << shift) & 0x7fffffu;
    // 1 - shift, in the bias of float64.
    return vec2<u32>(m << 29u, sign | ((897u - shift) << 20u) | (m >> 3u));
  }
  return vec2<u32>(m << 29u, sign | ((exponent + 896u) << 20u) | (m >> 3u));
}

fn f64_to_f32(a: f64) -> f32 {
  let sign = a.y & 0x80000000u;
  if (f64_exponent(a) == 2047u) {
    let nan = select(0u, 0x400000u, f64_is_nan(a));
    return f32_from_bits(sign | 0x7f800000u | nan);
  }
  if (f64_exponent(a) < 850u) { return f32_from_bits(sign); }
  let p = f64_unpack(a);
  // 24 bits stay of the 56; subnormals keep fewer.
  var exponent = p.exponent - 896;
  var m = u64_shift_right_sticky(p.m, 29u + u32(max(0, 1 - exponent)));
  exponent = max(exponent, 1);
  let rest = m.x & 7u;
  var kept = m.x >> 3u;
  if (rest > 4u || (rest == 4u && (kept & 1u) == 1u)) { kept += 1u; }
  if ((kept >> 24u) != 0u) {
    kept = kept >> 1u;
    exponent += 1;
  }
  if (exponent >= 255) { return f32_from_bits(sign | 0x7f800000u); }
  let biased = select(0u, u32(exponent), (kept >> 23u) != 0u);
  return f32_from_bits(sign | (biased << 23u) | (kept & 0x7fffffu));
}
`;
