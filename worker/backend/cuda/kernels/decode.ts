import type { Kernels } from "../../kernels.ts";
import type { Launcher } from "../launcher.ts";

/** As in decode.cu: warps of a block, positions of a warp at a time, features of values that a block sums. */
const WARPS = 4;
const TILE = 32;
const PART = 128;
/** Tiles of a split, at least: two for each warp, or splits would spend their time being merged. */
const SPLIT_TILES = 2 * WARPS;
/** Blocks for each multiprocessor that are enough to read at full rate. */
const ENOUGH_BLOCKS = 4;
const MERGE_THREADS = 128;
const SAMPLE_THREADS = 1024;

export function decodeKernels(l: Launcher): Pick<Kernels, "attentionCached" | "sampleToken"> {
  const attend = (G: number, name: string) => ({
    G,
    launch: l.kernel("decode", `rm_attention_cached_${name}`, "aaaaaaaat"),
  });
  const [one, four, eight] = [attend(1, "1"), attend(4, "4"), attend(8, "8")];
  const any = attend(1, "any");
  const merge = l.kernel("decode", "rm_attention_merge", "aaaiii");
  const sample = l.kernel("decode", "rm_sample_token", "andnda");

  return {
    attentionCached(q, k, v, keys, values, o, H, KV, headDim, group, shift, position) {
      const isVector = headDim % 4 === 0 && [k, v, keys, values].every((at) => at % 16 === 0);
      const { G, launch } = !isVector ? any : group === 1 ? one : group <= 4 ? four : eight;
      const chunks = Math.ceil(group / G);
      const parts = Math.ceil(headDim / PART);
      const across = KV * chunks * parts;
      const tiles = Math.ceil((position + 1) / TILE);
      const splitBytes = 4 * H * (headDim + 2);
      const splits = Math.min(
        Math.ceil(tiles / SPLIT_TILES),
        Math.ceil((ENOUGH_BLOCKS * l.multiprocessors) / across),
        Math.floor(l.scratch.bytes / splitBytes),
      );
      const splitTiles = Math.ceil(tiles / Math.max(1, splits));
      const used = Math.ceil(tiles / splitTiles);
      const stats = l.scratch.address;
      const sums = stats + 4 * 2 * used * H;
      const padded = 4 * Math.ceil(headDim / 4);
      const shared = 4 * G * (WARPS * TILE + Math.max(padded, WARPS * PART));
      const counts = [H, KV, headDim, group, shift, position, splitTiles, chunks, parts];
      const sizes = Int32Array.from(counts);
      launch([across, used, 1], 32 * WARPS, shared, q, k, v, keys, values, o, stats, sums, sizes);
      if (used > 1) merge(H, MERGE_THREADS, 0, stats, sums, o, H, headDim, used);
    },

    sampleToken(z, V, temperature, topK, u, id) {
      const threads = Math.min(SAMPLE_THREADS, 32 * Math.ceil(V / 32));
      sample(1, threads, 0, z, V, temperature, topK === 0 ? V : topK, u, id);
    },
  };
}
