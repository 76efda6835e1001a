import { InternalError } from "../errors.ts";
import type { Collective, CollectiveOp } from "../program/program.ts";

/**
 * How a collective is carried out, and what it costs on the wire. Pure: both are functions of sizes alone, fixed
 * when a program is compiled, so that traffic is exact and the order of sums never changes between runs.
 * docs/algorithms.md has the table of steps and bytes.
 */

export type Algorithm = Collective["algorithm"];

/** An algorithm and the largest payload of one frame, in bytes. */
export interface AlgorithmChoice {
  readonly algorithm: Algorithm;
  readonly segmentBytes: number;
}

/**
 * Largest full tensor that more than two ranks all-reduce by direct exchange: beyond, its (N-1) * b bytes cost
 * more than the messages and latencies that a ring has more.
 */
const DIRECT_ALL_REDUCE_BYTES = 64 * 1024;

/** The same for allGather and reduceScatter, whose bytes are those of a ring: a ring is kinder to slow links. */
const DIRECT_CHUNKS_BYTES = 256 * 1024;

/** Smallest cut of a longer chunk: below, handling a message costs more than its bytes. */
const MIN_SEGMENT_BYTES = 512 * 1024;

/** Largest frame: a longer one fills the pipeline later and saves nothing. */
const MAX_SEGMENT_BYTES = 1024 * 1024;

/**
 * Algorithm and segment size of a collective over `groupSize` ranks whose full tensor has `payloadBytes`.
 * Two ranks always exchange directly: the bytes are those of a ring, in one latency instead of two.
 */
export function chooseAlgorithm(
  op: CollectiveOp,
  payloadBytes: number,
  groupSize: number,
): AlgorithmChoice {
  const direct =
    op === "allToAll" ||
    groupSize <= 2 ||
    payloadBytes <= (op === "allReduce" ? DIRECT_ALL_REDUCE_BYTES : DIRECT_CHUNKS_BYTES);
  const algorithm: Algorithm = direct ? "direct" : "ring";
  // What a rank sends to one peer; four segments of it keep a pipeline busy.
  const whole = direct && op === "allReduce" ? payloadBytes : payloadBytes / Math.max(1, groupSize);
  const quarter = Math.ceil(whole / 4 / 4096) * 4096;
  return {
    algorithm,
    segmentBytes: Math.min(MAX_SEGMENT_BYTES, Math.max(MIN_SEGMENT_BYTES, quarter)),
  };
}

/**
 * Payload bytes that a rank sends, headers not counted; where chunks are ragged, the largest over the ranks.
 * `fullBytes` is the full tensor: the input of allReduce and reduceScatter, the output of allGather.
 * Ring all-reduce: 2(N-1)/N * full. Direct all-reduce: (N-1) * full. All-gather, reduce-scatter, all-to-all: (N-1)/N * full.
 * @throws InternalError when allGather or reduceScatter does not divide into equal chunks of whole elements.
 */
export function wireBytes(
  op: CollectiveOp,
  algorithm: Algorithm,
  fullBytes: number,
  groupSize: number,
  elementBytes: number,
): number {
  if (groupSize <= 1 || fullBytes === 0) return 0;
  if (op !== "allReduce") {
    if (fullBytes % (groupSize * elementBytes) !== 0) {
      throw new InternalError(
        `${op} of ${fullBytes} bytes over ${groupSize} ranks leaves ragged chunks of ${elementBytes}-byte elements`,
      );
    }
    return (fullBytes / groupSize) * (groupSize - 1);
  }
  if (algorithm === "direct") return fullBytes * (groupSize - 1);
  const elements = fullBytes / elementBytes;
  let most = 0;
  for (let index = 0; index < groupSize; index++) {
    most = Math.max(most, ringAllReduceElements(elements, groupSize, index));
  }
  return most * elementBytes;
}

/** Elements that rank `index` of a ring all-reduce sends: every chunk twice, but for the two that it only receives. */
export function ringAllReduceElements(elements: number, groupSize: number, index: number): number {
  const next = chunkLength(elements, groupSize, (index + 1) % groupSize);
  const second = chunkLength(elements, groupSize, (index + 2) % groupSize);
  return 2 * elements - next - second;
}

/** First element of chunk `index` of `elements` cut into `parts`: the first `elements % parts` chunks hold one more. */
export function chunkStart(elements: number, parts: number, index: number): number {
  return Math.floor(elements / parts) * index + Math.min(index, elements % parts);
}

/** Elements of chunk `index`; 0 when there are fewer elements than parts before it. */
export function chunkLength(elements: number, parts: number, index: number): number {
  return Math.floor(elements / parts) + (index < elements % parts ? 1 : 0);
}
