/*
 * Text, token by token: attention of one token over the keys and values kept so far, and the draw of the next token. Attention
 * reads the caches once, bound by memory: the query heads of a key-value head are one block's, and positions are split over
 * blocks, whose sums are then merged.
 */
#include "vectors.cuh"

/* ---- attention over caches ---- */

#define WARPS 4
/* Positions of a warp at a time: one for each lane's weight. */
#define TILE 32
/* Lanes that share a position's scores. */
#define SHARE 8
/* Features of values that a block sums, at most: four for each lane. */
#define PART 128

struct cached_sizes {
  int H, KV, features, group, shift, position;
  /* Of a split, in tiles; and into how many blocks heads of a group and features are cut. */
  int tiles, chunks, parts;
};

/* Four features from p on, `left` of which there are: all or none where they are read as one vector. */
template <bool VECTOR>
RM_DEVICE float4 load_features(const float *p, int left) {
  if (left <= 0) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  if constexpr (VECTOR) return load4(p);
  return make_float4(p[0], left > 1 ? p[1] : 0.0f, left > 2 ? p[2] : 0.0f, left > 3 ? p[3] : 0.0f);
}

/* What a thread knows of its block: which key-value head, which query heads of it, which positions. */
struct cached_block {
  int head, first, heads, part, split, begin, end;
  RM_CALL cached_block(const cached_sizes &n, int G) {
    const int across = blockIdx.x / n.parts;
    part = blockIdx.x - across * n.parts;
    head = across / n.chunks;
    const int chunk = across - head * n.chunks, lowest = head * n.group - n.shift;
    first = max(lowest + chunk * G, 0);
    heads = min(min(lowest + (chunk + 1) * G, lowest + n.group), n.H) - first;
    split = blockIdx.y;
    begin = split * n.tiles * TILE;
    end = min(begin + n.tiles * TILE, n.position + 1);
  }
};

/* The running softmax of G heads in one warp: largest score, sum of weights (a lane's own), weighted values of four features. */
template <int G>
struct warp_softmax {
  float max[G], sum[G];
  float4 values[G];
};

RM_DEVICE void add_scaled(float4 &to, float by, float4 v) {
  to.x += by * v.x;
  to.y += by * v.y;
  to.z += by * v.z;
  to.w += by * v.w;
}

/* scores[g][s] of `count` positions from `first` on; -infinity behind them. SHARE lanes have a position. */
template <int G, bool VECTOR>
RM_DEVICE void tile_scores(const float *q, const float *k, const float *keys, float (*scores)[TILE],
                           const cached_sizes &n, i64 head, int heads, int first, int count) {
  const int lane = threadIdx.x & 31, mine = lane & (SHARE - 1);
  const float scale = 1.0f / sqrtf((float)n.features);
  const i64 stride = (i64)n.KV * n.features;
#pragma unroll(VECTOR ? 2 : 1)
  for (int s = lane / SHARE; s < TILE; s += 32 / SHARE) {
    const int at = first + s;
    const float *key = at == n.position ? k + head : keys + at * stride + head;
    float dots[G] = {};
    if (s < count) {
#pragma unroll(VECTOR ? 4 : 1)
      for (int f = 4 * mine; f < n.features; f += 4 * SHARE) {
        const float4 x = load_features<VECTOR>(key + f, n.features - f);
#pragma unroll
        for (int g = 0; g < G; g++) {
          if (g >= heads) continue;
          const float4 y = load4(q + g * ((n.features + 3) & ~3) + f);
          dots[g] += (x.x * y.x + x.y * y.y) + (x.z * y.z + x.w * y.w);
        }
      }
    }
#pragma unroll
    for (int g = 0; g < G; g++) {
      if (g >= heads) continue;
#pragma unroll
      for (int o = SHARE / 2; o > 0; o >>= 1) dots[g] += __shfl_xor_sync(0xffffffffu, dots[g], o);
      if (mine == g % SHARE) scores[g][s] = s < count ? scale * dots[g] : -INFINITY;
    }
  }
}

/* Turns scores into weights and adds the tile to the running softmax. */
template <int G, bool VECTOR>
RM_DEVICE void add_tile(warp_softmax<G> &own, const float *v, const float *values,
                        float (*scores)[TILE], const cached_sizes &n, const cached_block &block,
                        i64 head, int first, int count) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int g = 0; g < G; g++) {
    if (g >= block.heads) continue;
    const float score = scores[g][lane], max = fmaxf(own.max[g], warp_max(score));
    const float back = expf(own.max[g] - max), weight = expf(score - max);
    own.max[g] = max;
    own.sum[g] = own.sum[g] * back + weight;
    const float4 old = own.values[g];
    own.values[g] = make_float4(old.x * back, old.y * back, old.z * back, old.w * back);
    scores[g][lane] = weight;
  }
  __syncwarp();
  /* Lanes lie along the features; where a row needs few of them, the others take further positions. */
  const int offset = block.part * PART, width = min(n.features - offset, PART);
  int across = 32;
  while (across > 1 && across * 2 >= width) across >>= 1;
  const int f = 4 * (lane & (across - 1)), rows = 32 / across;
  const i64 stride = (i64)n.KV * n.features;
#pragma unroll(VECTOR ? 4 : 1)
  for (int s = lane / across; s < count; s += rows) {
    const int at = first + s;
    const float *row = at == n.position ? v + head : values + at * stride + head;
    const float4 x = load_features<VECTOR>(row + offset + f, width - f);
#pragma unroll
    for (int g = 0; g < G; g++)
      if (g < block.heads) add_scaled(own.values[g], scores[g][s], x);
  }
  __syncwarp();
}

/*
 * The splits' softmaxes: their largest scores and sums in stats(splits,H,2), weighted values in sums(splits,H,features). A lone
 * split writes o(H,features) instead. The last split also writes k and v to the caches, which nobody reads there.
 *
 * Dynamic shared memory: scores of the warps, and behind them the queries, later the warps' weighted values. What is static is a
 * multiple of 16 bytes, so that both lie on such.
 */
template <int G, bool VECTOR>
RM_DEVICE void attend(const float *q, const float *k, const float *v, float *keys, float *values,
                      float *o, float *stats, float *sums, const cached_sizes &n) {
  extern __shared__ float dyn_smem[];
  __shared__ float warp_max_of[WARPS][G], warp_sum_of[WARPS][G];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const cached_block block(n, G);
  const i64 head = (i64)block.head * n.features;
  if (block.end == n.position + 1 && blockIdx.x % (n.parts * n.chunks) == 0) {
    const i64 row = (i64)n.position * n.KV * n.features + head;
    for (int f = threadIdx.x; f < n.features; f += 32 * WARPS) {
      keys[row + f] = k[head + f];
      values[row + f] = v[head + f];
    }
  }
  if (block.heads <= 0) return;
  float(*scores)[TILE] = (float(*)[TILE])dyn_smem + warp * G;
  float *queries = dyn_smem + WARPS * G * TILE;
  const int padded = (n.features + 3) & ~3;
  for (int g = 0; g < block.heads; g++)
    for (int f = threadIdx.x; f < padded; f += 32 * WARPS)
      queries[g * padded + f] =
          f < n.features ? q[(i64)(block.first + g) * n.features + f] : 0.0f;
  __syncthreads();

  warp_softmax<G> own;
#pragma unroll
  for (int g = 0; g < G; g++) {
    own.max[g] = -INFINITY;
    own.sum[g] = 0.0f;
    own.values[g] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  for (int first = block.begin + warp * TILE; first < block.end; first += WARPS * TILE) {
    const int count = min(TILE, block.end - first);
    tile_scores<G, VECTOR>(queries, k, keys, scores, n, head, block.heads, first, count);
    __syncwarp();
    add_tile<G, VECTOR>(own, v, values, scores, n, block, head, first, count);
  }

  /* Lanes that have the same features, then warps. */
  const int offset = block.part * PART, width = min(n.features - offset, PART);
  int across = 32;
  while (across > 1 && across * 2 >= width) across >>= 1;
#pragma unroll
  for (int g = 0; g < G; g++) {
    if (g >= block.heads) continue;
    for (int bit = across; bit < 32; bit <<= 1) {
      own.values[g].x += __shfl_xor_sync(0xffffffffu, own.values[g].x, bit);
      own.values[g].y += __shfl_xor_sync(0xffffffffu, own.values[g].y, bit);
      own.values[g].z += __shfl_xor_sync(0xffffffffu, own.values[g].z, bit);
      own.values[g].w += __shfl_xor_sync(0xffffffffu, own.values[g].w, bit);
    }
    own.sum[g] = warp_sum(own.sum[g]);
  }
  __syncthreads();
  float *gathered = queries; /* [WARPS][G][PART] */
#pragma unroll
  for (int g = 0; g < G; g++) {
    if (lane == 0) {
      warp_max_of[warp][g] = own.max[g];
      warp_sum_of[warp][g] = own.sum[g];
    }
    if (lane < across) store4(gathered + (warp * G + g) * PART + 4 * lane, own.values[g]);
  }
  __syncthreads();
  for (int g = 0; g < block.heads; g++) {
    float max = warp_max_of[0][g], total = 0.0f, by[WARPS];
    for (int w = 1; w < WARPS; w++) max = fmaxf(max, warp_max_of[w][g]);
    for (int w = 0; w < WARPS; w++) {
      by[w] = expf(warp_max_of[w][g] - max);
      total += warp_sum_of[w][g] * by[w];
    }
    const i64 h = block.first + g, at = (i64)block.split * n.H + h;
    for (int f = threadIdx.x; f < width; f += 32 * WARPS) {
      float sum = 0.0f;
      for (int w = 0; w < WARPS; w++) sum += gathered[(w * G + g) * PART + f] * by[w];
      if (gridDim.y == 1)
        o[h * n.features + offset + f] = sum / total;
      else
        sums[at * n.features + offset + f] = sum;
    }
    if (gridDim.y > 1 && block.part == 0 && threadIdx.x == 0) {
      stats[2 * at] = max;
      stats[2 * at + 1] = total;
    }
  }
}

/* o(H,features) from the splits' softmaxes. One block for a head. */
RM_KERNEL rm_attention_merge(const float *stats, const float *sums, float *o, int H, int features,
                             int splits) {
  const i64 h = blockIdx.x;
  float max = stats[2 * h];
  for (int s = 1; s < splits; s++) max = fmaxf(max, stats[2 * (s * (i64)H + h)]);
  for (int f = threadIdx.x; f < features; f += blockDim.x) {
    float sum = 0.0f, total = 0.0f;
#pragma unroll 4
    for (int s = 0; s < splits; s++) {
      const i64 at = s * (i64)H + h;
      const float by = expf(stats[2 * at] - max);
      total += stats[2 * at + 1] * by;
      sum += sums[at * features + f] * by;
    }
    o[h * features + f] = sum / total;
  }
}

#define CACHED(NAME, G, VECTOR)                                                                    \
  RM_KERNEL __launch_bounds__(32 * WARPS, 4) rm_attention_cached_##NAME(                           \
      const float *q, const float *k, const float *v, float *keys, float *values, float *o,        \
      float *stats, float *sums, const cached_sizes sizes) {                                       \
    attend<G, VECTOR>(q, k, v, keys, values, o, stats, sums, sizes);                               \
  }
CACHED(1, 1, true)
CACHED(4, 4, true)
CACHED(8, 8, true)
CACHED(any, 1, false)

/* ---- the next token ---- */

/* An unsigned integer that grows with x, equal for 0 and -0; and back. */
RM_DEVICE unsigned ordered(float x) {
  const unsigned bits = x == 0.0f ? 0u : __float_as_uint(x);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
RM_DEVICE float unordered(unsigned key) {
  return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
}

struct choice {
  float max;
  int best;
  bool odd;
  RM_CALL void take(float other, int id) {
    if (other > max || (other == max && id < best)) max = other, best = id;
  }
};

/* The largest logit and the lowest id that has it, in every thread; and whether any logit is no number. */
RM_DEVICE choice likeliest(const float *z, int V) {
  __shared__ float maxima[32];
  __shared__ int ids[32];
  const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  choice own = {-INFINITY, 0x7fffffff, false};
  for (int i = threadIdx.x; i < V; i += blockDim.x) {
    own.odd |= z[i] != z[i];
    own.take(z[i], i);
  }
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    const float max = __shfl_xor_sync(0xffffffffu, own.max, o);
    own.take(max, __shfl_xor_sync(0xffffffffu, own.best, o));
  }
  if (lane == 0) {
    maxima[threadIdx.x >> 5] = own.max;
    ids[threadIdx.x >> 5] = own.best;
  }
  own.odd = __syncthreads_or(own.odd);
  for (int w = 0; w < warps; w++) own.take(maxima[w], ids[w]);
  return own;
}

/*
 * The k-th largest of V values in the order of `ordered`, byte by byte from the top; *ties: how many of those equal to it are
 * among the k largest. Each lane counts in a column of its own: logits share their upper bytes, and would queue up at one counter.
 */
RM_DEVICE unsigned kth_largest(const float *z, int V, int k, int *ties) {
  __shared__ int counts[256][32];
  __shared__ int bins[256];
  __shared__ unsigned found[2];
  const int lane = threadIdx.x & 31;
  unsigned prefix = 0, mask = 0;
  for (int byte = 24; byte >= 0; byte -= 8) {
    for (int i = threadIdx.x; i < 256 * 32; i += blockDim.x) counts[i >> 5][i & 31] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < V; i += blockDim.x) {
      const unsigned key = ordered(z[i]);
      if ((key & mask) == prefix) atomicAdd(&counts[key >> byte & 255][lane], 1);
    }
    __syncthreads();
    for (int b = threadIdx.x; b < 256; b += blockDim.x) {
      int sum = 0;
      for (int i = 0; i < 32; i++) sum += counts[b][(i + b) & 31];
      bins[b] = sum;
    }
    __syncthreads();
    /* Of one warp each lane has 8 bins, from the top down. */
    if (threadIdx.x < 32) {
      const int top = 255 - 8 * lane;
      int own = 0;
      for (int b = 0; b < 8; b++) own += bins[top - b];
      int sum = own;
#pragma unroll
      for (int o = 1; o < 32; o <<= 1) {
        const int other = __shfl_up_sync(0xffffffffu, sum, o);
        if (lane >= o) sum += other;
      }
      int left = k - (sum - own);
      if (left > 0 && left <= own) {
        int bin = top;
        for (; bins[bin] < left; bin--) left -= bins[bin];
        found[0] = bin;
        found[1] = left;
      }
    }
    __syncthreads();
    prefix |= found[0] << byte;
    mask |= 255u << byte;
    k = found[1];
    __syncthreads();
  }
  *ties = k;
  return prefix;
}

/* Which ids may be drawn, and their weights: keys above `least`, and the first `ties` of those equal to it. */
struct distribution {
  const float *z;
  int V;
  double max, temperature;
  unsigned least;
  RM_CALL double weight(float x) const { return exp(((double)x - max) / temperature); }
};

/*
 * The id at which the running sum of weights, in the order of ids, passes u of their total. Every warp adds up ids of its own,
 * one after another; the one where the sum passes looks at its ids again, 32 at a time.
 */
RM_DEVICE void draw(const distribution &d, int ties, double u, float *id) {
  __shared__ double sums[32];
  __shared__ int equals[32];
  __shared__ struct {
    double before, target;
    int warp, ties;
  } passing;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const int each = (d.V + blockDim.x - 1) / blockDim.x * 32;
  const int begin = warp * each, end = min(begin + each, d.V);
  double sum = 0.0;
  int equal = 0;
  for (int i = begin + lane; i < end; i += 32) {
    const float x = d.z[i];
    const unsigned key = ordered(x);
    if (key > d.least) sum += d.weight(x);
    equal += key == d.least;
  }
  sum = warp_sum(sum);
  equal = warp_sum(equal);
  if (lane == 0) {
    sums[warp] = sum;
    equals[warp] = equal;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const double weight = d.weight(unordered(d.least));
    double total = 0.0, before = 0.0;
    int left = ties;
    for (int w = 0; w < warps; w++) {
      const int taken = min(left, equals[w]);
      if (taken > 0) sums[w] += taken * weight;
      left -= taken;
      total += sums[w];
    }
    const double target = u * total;
    left = ties;
    for (int w = 0; w < warps; w++) {
      if (sums[w] > 0.0) {
        passing.before = before;
        passing.warp = w;
        passing.ties = left;
        if (before + sums[w] > target) break;
      }
      before += sums[w];
      left -= min(left, equals[w]);
    }
    passing.target = target;
  }
  __syncthreads();
  if (warp != passing.warp) return;
  double before = passing.before;
  int left = passing.ties, last = -1;
  for (int first = begin; first < end; first += 32) {
    const int i = first + lane;
    const unsigned key = i < end ? ordered(d.z[i]) : 0u;
    const bool ties_here = i < end && key == d.least;
    const unsigned tied = __ballot_sync(0xffffffffu, ties_here);
    const bool allowed = i < end && (key > d.least ||
                                     (ties_here && __popc(tied & ((1u << lane) - 1)) < left));
    left -= min(left, __popc(tied));
    const double weight = allowed ? d.weight(d.z[i]) : 0.0;
    double running = weight;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      const double other = __shfl_up_sync(0xffffffffu, running, o);
      if (lane >= o) running += other;
    }
    running += before;
    const unsigned passes =
        __ballot_sync(0xffffffffu, weight > 0.0 && running > passing.target);
    const unsigned possible = __ballot_sync(0xffffffffu, weight > 0.0);
    if (passes) {
      last = first + __ffs(passes) - 1;
      break;
    }
    /* Only rounding keeps the sum below the target to the end: then it is the last id that may be drawn. */
    if (possible) last = first + 31 - __clz(possible);
    before = __shfl_sync(0xffffffffu, running, 31);
  }
  if (lane == 0) *id = (float)last;
}

/*
 * *id = a token drawn from V logits with u uniform on [0, 1): among the top_k likeliest (V: all; of equal ones the lower ids),
 * with probabilities exp(z / temperature). Temperature 0: the likeliest, the lowest id of several. NaN where logits are NaN or
 * none is finite. One block: the logits of a token are few, and stay in cache.
 */
RM_KERNEL __launch_bounds__(1024)
rm_sample_token(const float *z, i64 V, double temperature, i64 top_k, double u, float *id) {
  const choice best = likeliest(z, (int)V);
  if (best.odd || !(fabsf(best.max) < INFINITY)) {
    if (threadIdx.x == 0) *id = NAN;
    return;
  }
  if (temperature == 0.0) {
    if (threadIdx.x == 0) *id = (float)best.best;
    return;
  }
  int ties = (int)V;
  const unsigned least = top_k >= V ? 0u : kth_largest(z, (int)V, (int)top_k, &ties);
  draw({z, (int)V, (double)best.max, temperature, least}, ties, u, id);
}
