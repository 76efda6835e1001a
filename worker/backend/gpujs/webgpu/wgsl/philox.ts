/** Philox4x32-10 (Salmon et al. 2011), as in shared/random; and where a slice's element lies in the whole tensor. Needs FLOAT64. */
export const PHILOX = /* wgsl */ `
// Key in parameters key0, key1.
fn philox(counter: vec4<u32>) -> vec4<u32> {
  var c = counter;
  var k = vec2<u32>(params.key0, params.key1);
  for (var round = 0u; round < 10u; round++) {
    let p = u32_wide_product(c.x, 0xD2511F53u);
    let q = u32_wide_product(c.z, 0xCD9E8D57u);
    c = vec4<u32>(q.y ^ c.y ^ k.x, q.x, p.y ^ c.w ^ k.y, p.x);
    k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}

// Number in the global tensor, in two words, of element i of the slice that the table's sizes, starts and lengths tell.
fn global_index(i: u32) -> vec2<u32> {
  var rest = i;
  var at = vec2<u32>(0u, 0u);
  var stride = vec2<u32>(1u, 0u);
  for (var d = i32(params.dims) - 1; d >= 0; d--) {
    let dim = params.table[d];
    let position = dim.y + rest % dim.z;
    rest /= dim.z;
    let low = u32_wide_product(stride.x, position);
    at = u64_add(at, vec2<u32>(low.x, low.y + stride.y * position));
    let grown = u32_wide_product(stride.x, dim.x);
    stride = vec2<u32>(grown.x, grown.y + stride.y * dim.x);
  }
  return at;
}
`;
