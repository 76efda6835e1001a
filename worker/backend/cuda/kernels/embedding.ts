import { type Address, type Kernels, NULL } from "../../kernels.ts";
import type { Launch, Launcher } from "../launcher.ts";
import { type TokenSort, tokenSort } from "./token-sort.ts";

// Legend: V local rows of a table, from global row `start` on; D features; M tokens.

type Embedding =
  | "embedding"
  | "embeddingDw"
  | "adamwFromRows"
  | "sgdFromRows"
  | "sumSquaresFromRows";

/** As in embedding.cu: vectors of a thread that copies, tokens summed as one chain, threads that sum chunks of so many. */
const COPIED = 4;
const CHUNK = 128;
const CHUNK_THREADS = 128;
/** Of other blocks, at most. */
const THREADS = 256;
/** Blocks that square rows, at most; their sums stand at the scratch's beginning. */
const SQUARES_BLOCKS = 1024;
const SQUARES_BYTES = 8 * SQUARES_BLOCKS;
/** What a token or row may take of the scratch where both are sorted a part at a time. */
const PART_BYTES = 16;

/** Sorted tokens of the rows of a table, and what kernels read instead of the rows of frequent ones: sums of chunks, or NULL. */
interface Sorted extends TokenSort {
  readonly sums: Address;
}

/** How a table's rows are shared out: `width` vectors of one row to a block of which there are `pieces`, or several rows. */
interface Shape {
  readonly blocks: number;
  readonly threads: number;
  readonly width: number;
  readonly pieces: number;
}

export function embeddingKernels(l: Launcher): Pick<Kernels, Embedding> {
  const embed = byColumns(l, "rm_embedding", "aaannnnii");
  const chunks = byColumns(l, "rm_rows_chunks", "aaaaannni");
  const store = byColumns(l, "rm_rows_store", "aaaaanniii");
  const squares = byColumns(l, "rm_rows_squares", "aaaaaannn");
  const updates = {
    adamw: byColumns(l, "rm_rows_adamw", "aaaaaaanniiaa"),
    sgd: byColumns(l, "rm_rows_sgd", "aaaaaaanniiaa"),
    momentum: byColumns(l, "rm_rows_sgd_momentum", "aaaaaaanniiaa"),
  };
  const squaresSum = l.kernel("embedding", "rm_rows_squares_sum", "ana");
  const sortTokens = tokenSort(l);
  const partial = l.scratch.address;

  /** @param from where in the scratch there is room for work */
  const sorted = (sort: TokenSort, dy: Address, D: number, W: 1 | 4, from: number): Sorted => {
    const [work, bytes] = [partial + from, l.scratch.bytes - from];
    sortTokens(sort, work, bytes);
    const { ids, M, V, start, ends, order } = sort;
    // Once the tokens are sorted the room is free.
    const slots = 2 * Math.ceil(M / CHUNK);
    if (M <= CHUNK || 4 * slots * D > bytes) return { ...sort, sums: NULL };
    const pieces = Math.ceil(D / W / CHUNK_THREADS);
    chunks[W](slots * pieces, CHUNK_THREADS, 0, dy, ids, ends, order, work, V, D, start, pieces);
    return { ...sort, sums: work };
  };

  const update = (
    launches: Readonly<Record<1 | 4, Launch>>,
    dy: Address,
    sort: TokenSort,
    D: number,
    [w, m, v]: readonly [w: Address, m: Address, v: Address],
    ...scalars: readonly [factor: Address, scalars: Address]
  ): void => {
    const { V } = sort;
    if (D === 0 || V === 0) return;
    const W = columnsOf(D, dy, w, m, v);
    const { ends, order, sums } = sorted(sort, dy, D, W, SQUARES_BYTES);
    const { blocks, threads, width, pieces } = shapeOf(V, D / W, 1);
    const tensors = [dy, ends, order, sums, w, m, v];
    launches[W](blocks, threads, 0, ...tensors, V, D, width, pieces, ...scalars);
  };

  return {
    embedding(ids, w, y, M, V, D, start) {
      if (D === 0) return;
      const W = columnsOf(D, w, y);
      const { blocks, threads, width, pieces } = shapeOf(M, D / W, COPIED);
      embed[W](blocks, threads, 0, ids, w, y, M, V, D, start, width, pieces);
    },

    embeddingDw(dy, ids, dw, M, V, D, start) {
      if (D === 0) return;
      const W = columnsOf(D, dy, dw);
      // The scratch holds the sorted tokens here. Tables and batches that are too large for it go through in parts.
      const most = Math.floor((l.scratch.bytes - SQUARES_BYTES) / PART_BYTES);
      for (let row = 0; row < V; row += most) {
        const rows = Math.min(most, V - row);
        for (let token = 0; token === 0 || token < M; token += most) {
          const tokens = Math.min(most, M - token);
          const ends = partial + SQUARES_BYTES;
          const order = ends + 4 * rows;
          const work = 16 * Math.ceil((SQUARES_BYTES + 4 * (rows + tokens)) / 16);
          const [part, to] = [dy + 4 * token * D, dw + 4 * row * D];
          const sort = {
            ...{ ids: ids + 4 * token, M: tokens, V: rows, start: start + row },
            ...{ ends, order },
          };
          const { sums } = sorted(sort, part, D, W, work);
          const { blocks, threads, width, pieces } = shapeOf(rows, D / W, 1);
          const sizes = [rows, D, width, pieces, token > 0 ? 1 : 0];
          store[W](blocks, threads, 0, part, ends, order, sums, to, ...sizes);
        }
      }
    },

    adamwFromRows(dy, ids, w, m, v, M, V, D, start, factor, scalars, scratch) {
      const sort = sortInto(scratch, ids, M, V, start);
      update(updates.adamw, dy, sort, D, [w, m, v], factor, scalars);
    },

    sgdFromRows(dy, ids, w, m, M, V, D, start, factor, scalars, scratch) {
      const sort = sortInto(scratch, ids, M, V, start);
      const launches = m === NULL ? updates.sgd : updates.momentum;
      update(launches, dy, sort, D, [w, m, NULL], factor, scalars);
    },

    sumSquaresFromRows(dy, ids, M, V, D, start, scratch, s) {
      if (D === 0 || V === 0 || M === 0) {
        l.zero(s, 8);
        return;
      }
      const W = columnsOf(D, dy);
      const sort = sortInto(scratch, ids, M, V, start);
      const { ends, order, sums } = sorted(sort, dy, D, W, SQUARES_BYTES);
      const blocks = Math.min(SQUARES_BLOCKS, M);
      const threads = Math.min(THREADS, 32 * Math.ceil(D / W / 32));
      squares[W](blocks, threads, 0, dy, ids, ends, order, sums, partial, V, D, start);
      squaresSum(1, THREADS, 0, partial, blocks, s);
    },
  };
}

/** The operand that is there for it holds V + 1 + M integers. */
function sortInto(scratch: Address, ids: Address, M: number, V: number, start: number): TokenSort {
  return { ids, M, V, start, ends: scratch, order: scratch + 4 * (V + 1) };
}

/** A kernel that there is for vectors of 4 columns and for single ones. */
function byColumns(l: Launcher, name: string, kinds: string): Readonly<Record<1 | 4, Launch>> {
  const kernel = (W: 1 | 4): Launch => l.kernel("embedding", `${name}_${W}`, kinds);
  return { 1: kernel(1), 4: kernel(4) };
}

function columnsOf(D: number, ...tensors: readonly Address[]): 1 | 4 {
  return D % 4 === 0 && tensors.every((address) => address % 16 === 0) ? 4 : 1;
}

/** @param perThread vectors of a row that a thread has, at most */
function shapeOf(rows: number, vectors: number, perThread: number): Shape {
  // Neighbouring threads lie along a row: a warp's worth of them before any has a second vector.
  const wanted = Math.max(Math.min(32, vectors), Math.ceil(vectors / perThread));
  const pieces = Math.ceil(wanted / THREADS);
  const width = Math.ceil(wanted / pieces);
  const height = Math.floor(THREADS / width);
  const threads = 32 * Math.ceil((width * height) / 32);
  return { blocks: Math.ceil(rows / height) * pieces, threads, width, pieces };
}
