import type { Address } from "../../kernels.ts";
import type { Launcher } from "../launcher.ts";

/** As in token_sort.cu: rows that one block adds up, tokens of a long row, threads of a block that collects one. */
const SCAN_THREADS = 256;
const SCANNED_ROWS = 4096;
const LONG_ROW = 4096;
const COLLECT_THREADS = 1024;
/** Of other blocks. */
const THREADS = 256;

/** Which tokens, and where to write what: int32 all of it. */
export interface TokenSort {
  /** M of them. */
  readonly ids: Address;
  readonly M: number;
  /** Rows `start` to `start + V` are sorted by; at least one. */
  readonly V: number;
  readonly start: number;
  /** V places: where each row's tokens end. */
  readonly ends: Address;
  /** M tokens. */
  readonly order: Address;
}

/**
 * Sorts tokens by row, in token order within it; as few as fit into `work` beside one integer for every 4096 rows fast, more
 * of them slowly.
 */
export function tokenSort(l: Launcher): (sort: TokenSort, work: Address, bytes: number) => void {
  const count = l.kernel("token_sort", "rm_tokens_count", "aannn");
  const sums = l.kernel("token_sort", "rm_tokens_sums", "aan");
  const scan = l.kernel("token_sort", "rm_tokens_scan", "aan");
  const place = l.kernel("token_sort", "rm_tokens_place", "aaannn");
  const orderRows = l.kernel("token_sort", "rm_tokens_order", "aaaann");
  const collect = l.kernel("token_sort", "rm_tokens_collect", "aaaannn");
  const collectRows = l.kernel("token_sort", "rm_tokens_collect_rows", "aaann");

  return ({ ids, M, V, start, ends, order }, work, bytes) => {
    l.zero(ends, 4 * V);
    if (M === 0) return;
    const blocks = Math.ceil(M / THREADS);
    const scans = Math.ceil(V / SCANNED_ROWS);
    count(blocks, THREADS, 0, ids, ends, M, V, start);
    if (scans > 1) sums(scans, SCAN_THREADS, 0, ends, work, V);
    scan(scans, SCAN_THREADS, 0, ends, work, V);
    const unordered = work + 4 * scans;
    if (4 * (scans + M) > bytes) {
      place(blocks, THREADS, 0, ids, ends, order, M, V, start);
      collectRows(V, COLLECT_THREADS, 0, ids, ends, order, M, start);
      return;
    }
    place(blocks, THREADS, 0, ids, ends, unordered, M, V, start);
    orderRows(blocks, THREADS, 0, ids, ends, unordered, order, V, start);
    if (M > LONG_ROW) {
      const candidates = Math.ceil(M / LONG_ROW);
      collect(candidates, COLLECT_THREADS, 0, ids, ends, unordered, order, M, V, start);
    }
  };
}
