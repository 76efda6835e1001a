import type { Precision } from "../../../../shared/program/program.ts";
import type { Address, Kernels } from "../../kernels.ts";
import { NULL } from "../../kernels.ts";
import type { Launch, Launcher } from "../launcher.ts";
import { wordBytes } from "./blocks.ts";
import { updateKernels } from "./update.ts";

type FromFactors = "linearDw" | "adamwFromFactors" | "sgdFromFactors" | "sumSquaresFromFactors";

const THREADS = 256;

/**
 * Rows up to which an element's gradient is formed from the factors where it is used. At 48 rows that is a third of the time
 * that AdamW's 24 bytes an element take on an H100.
 */
const FEW_ROWS = 48;
/** Storing the gradient alone moves 4 bytes an element; a product of cuBLAS passes the kernel's a little above these rows. */
const FEW_STORED_ROWS = 16;

/** Of a block of factors.cu: columns, the steps of its rows, most rows and most bytes of its part of the factors. */
const BAND_COLUMNS = 128;
const ROW_STEP = 32;
const MOST_ROWS = 256;
const FACTOR_BYTES = 48 << 10;
/** Blocks that a multiprocessor works off, at least: two at a time. */
const BLOCKS_EACH = 8;

/** Of product_tile.cuh. */
const TILE = 128;
/**
 * A weight of fewer tiles would leave multiprocessors idle. cuBLAS, which may cut the sums, then forms its whole gradient in the
 * scratch tile, where that is large enough: at most some MB, which stay in the L2 cache.
 */
const FUSED_TILES = 128;
/** A tile's kernel: on tensor cores (compute capability 8.0 and later) and without. */
const HALF_TILE = { threads: 128, sharedBytes: 4 * 2 * 32 * (TILE + 8) * 2 };
const PLAIN_TILE = { threads: 256, sharedBytes: 0 };

/** Gram matrices: rows of a tile, columns of a chunk at least, and blocks that are enough for a device. */
const GRAM = 32;
const GRAM_CHUNK = 256;
const GRAM_BLOCKS = 512;
const GRAM_TILE_BYTES = GRAM * GRAM * 8;

/** Gradients of weights as their factors dy and x, of float32. */
export function factorKernels(l: Launcher): Pick<Kernels, FromFactors> {
  return fromFactors(l, "float32");
}

/** The same of bfloat16 factors. Gradients, weights and moments are float32. */
export function factorHalfKernels(l: Launcher): Pick<Kernels, FromFactors> {
  return fromFactors(l, "bfloat16");
}

interface Update {
  readonly dy: Address;
  readonly x: Address;
  readonly w: Address;
  readonly m: Address;
  readonly v: Address;
  readonly M: number;
  readonly O: number;
  readonly I: number;
  readonly factor: Address;
  readonly scalars: Address;
}

function fromFactors(l: Launcher, precision: Precision): Pick<Kernels, FromFactors> {
  const [suffix, bytes] = precision === "float32" ? ["f32", 4] : ["bf16", 2];
  const { adamw, sgd } = updateKernels(l);
  const launches = (module: string, name: string, kinds: string): readonly [Launch, Launch] => [
    l.kernel(module, `rm_${name}_${suffix}_odd`, kinds),
    l.kernel(module, `rm_${name}_${suffix}`, kinds),
  ];
  const ROWS = "aaaaainnaai";
  const storeRows = launches("factors", "rows_store", ROWS);
  const tiling = precision === "float32" ? "factor_tiles" : "factor_tiles_half";
  const kinds = (name: string) => ({
    rows: launches("factors", `rows_${name}`, ROWS),
    tile: launches(tiling, `tile_${name}`, "aaaaannnaa"),
  });
  const [byAdamw, bySgd, byMomentum] = ["adamw", "sgd", "sgd_momentum"].map(kinds) as [
    Kind,
    Kind,
    Kind,
  ];
  const tensorCores = precision === "bfloat16" && l.computeCapability >= 80;
  const { threads, sharedBytes } = tensorCores ? HALF_TILE : PLAIN_TILE;
  const tiles = (O: number, I: number): number => Math.ceil(O / TILE) * Math.ceil(I / TILE);
  const gradient = (dy: Address, x: Address, c: Address, M: number, O: number, I: number): void => {
    l.blas.multiply({
      ...{ m: O, n: I, k: M, a: dy, transposeA: true, b: x, transposeB: false, c },
      ...{ inputs: precision, output: "float32" },
    });
  };

  const byRows = ([odd, vectors]: readonly [Launch, Launch], u: Update): void => {
    const { dy, x, w, m, v, M, O, I, factor, scalars } = u;
    const across = Math.ceil(I / BAND_COLUMNS);
    const most = Math.min(MOST_ROWS, FACTOR_BYTES / 4 / M - BAND_COLUMNS);
    const share = (O * across) / (BLOCKS_EACH * l.multiprocessors);
    const rows = ROW_STEP * Math.max(1, Math.floor(Math.min(most, share) / ROW_STEP));
    const launch = wordBytes(w, m, v, 4 * I) === 16 ? vectors : odd;
    const [blocks, shared] = [across * Math.ceil(O / rows), 4 * M * (BAND_COLUMNS + rows)];
    launch(blocks, THREADS, shared, dy, x, w, m, v, M, O, I, factor, scalars, rows);
  };

  /** @returns whether the gradient is in the scratch now, and not used yet */
  const update = (kind: Kind, u: Update, scratch: Address, tileRows: number): boolean => {
    const { dy, x, w, m, v, M, O, I, factor, scalars } = u;
    if (O === 0 || I === 0) return false;
    if (M <= FEW_ROWS) {
      byRows(kind.rows, u);
      return false;
    }
    if (tileRows >= O && tiles(O, I) < FUSED_TILES) {
      gradient(dy, x, scratch, M, O, I);
      return true;
    }
    const [odd, vectors] = kind.tile;
    const launch = wordBytes(dy, x, w, m, v, O * bytes, I * bytes) === 16 ? vectors : odd;
    launch(tiles(O, I), threads, sharedBytes, dy, x, w, m, v, M, O, I, factor, scalars);
    return false;
  };

  return {
    linearDw(dy, x, dw, M, O, I) {
      if (O === 0 || I === 0) return;
      if (M > FEW_STORED_ROWS) gradient(dy, x, dw, M, O, I);
      else {
        const none = { m: NULL, v: NULL, factor: NULL, scalars: NULL };
        byRows(storeRows, { dy, x, w: dw, M, O, I, ...none });
      }
    },

    adamwFromFactors(dy, x, w, m, v, M, O, I, factor, scalars, scratch, tileRows) {
      const u = { dy, x, w, m, v, M, O, I, factor, scalars };
      if (update(byAdamw, u, scratch, tileRows)) adamw(w, scratch, m, v, O * I, factor, scalars);
    },

    sgdFromFactors(dy, x, w, m, M, O, I, factor, scalars, scratch, tileRows) {
      const u = { dy, x, w, m, v: NULL, M, O, I, factor, scalars };
      const kind = m === NULL ? bySgd : byMomentum;
      if (update(kind, u, scratch, tileRows)) sgd(w, scratch, m, O * I, factor, scalars);
    },

    sumSquaresFromFactors: squares(l, precision, { threads, sharedBytes, tiles }),
  };
}

interface Kind {
  readonly rows: readonly [odd: Launch, vectors: Launch];
  readonly tile: readonly [odd: Launch, vectors: Launch];
}

/**
 * Through Gram matrices, dots in double: M^2 (O + I) / 2 products in place of the gradient's M O I. For many rows of bfloat16
 * the gradient's tiles on tensor cores are cheaper by far; their elements are float32 sums, and the squares are summed in double.
 */
function squares(
  l: Launcher,
  precision: Precision,
  tile: {
    readonly threads: number;
    readonly sharedBytes: number;
    readonly tiles: (O: number, I: number) => number;
  },
): Kernels["sumSquaresFromFactors"] {
  const [suffix, bytes] = precision === "float32" ? ["f32", 4] : ["bf16", 2];
  const parts = l.kernel("factors", `rm_gram_parts_${suffix}`, "aaannnnnn");
  const combine = l.kernel("factors", "rm_gram_combine", "aannnn");
  const products = l.kernel("factors", `rm_gram_products_${suffix}`, "aaannn");
  const sum = l.kernel("factors", "rm_sum_doubles", "ana");
  const squareTile = l.kernel("factor_tiles_half", "rm_tile_squares_bf16", "aaannn");
  const squareOdd = l.kernel("factor_tiles_half", "rm_tile_squares_bf16_odd", "aaannn");
  const scratch = l.scratch.address;

  return (dy, x, M, O, I, s) => {
    if (M === 0 || O === 0 || I === 0) {
      l.zero(s, 8);
      return;
    }
    if (precision === "bfloat16" && M > FEW_ROWS) {
      const launch = wordBytes(dy, x, O * bytes, I * bytes) === 16 ? squareTile : squareOdd;
      const count = tile.tiles(O, I);
      launch(count, tile.threads, tile.sharedBytes, dy, x, scratch, M, O, I);
      sum(1, THREADS, 0, scratch, count, s);
      return;
    }
    const side = Math.ceil(M / GRAM);
    const pairs = (side * (side + 1)) / 2;
    const most = Math.floor(GRAM_BLOCKS / pairs);
    if (most < 2) {
      products(pairs, THREADS, 0, dy, x, scratch, M, O, I);
      sum(1, THREADS, 0, scratch, pairs, s);
      return;
    }
    const chunk = Math.max(GRAM_CHUNK, GRAM * Math.ceil((O + I) / most / GRAM));
    const [ofDy, ofX] = [Math.ceil(O / chunk), Math.ceil(I / chunk)];
    const blocks = (ofDy + ofX) * pairs;
    parts(blocks, THREADS, 0, dy, x, scratch, M, O, I, pairs, chunk, ofDy);
    const totals = pairs === 1 ? s : scratch + blocks * GRAM_TILE_BYTES;
    combine(pairs, THREADS, 0, scratch, totals, M, pairs, ofDy, ofX);
    if (pairs > 1) sum(1, THREADS, 0, totals, pairs, s);
  };
}
