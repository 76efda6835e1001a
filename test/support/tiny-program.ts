import { crc32 } from "node:zlib";
import { wireBytes } from "../../shared/collective/algorithm.ts";
import type { Instruction, Program, Slot } from "../../shared/program/program.ts";

export const ROWS = 2;
export const WIDTH = 4;
/** Weight rows of one rank. */
export const WEIGHT_ROWS = 2;

export interface TinyOptions {
  readonly ranks: number;
  readonly microbatches?: number;
  /** Put before the first instruction of the body. */
  readonly prelude?: readonly Instruction[];
  /** Rows of the batch. @default ROWS */
  readonly rows?: number;
  /** Weight rows of one rank. @default WEIGHT_ROWS */
  readonly weightRows?: number;
  /** Whether it has a section that gives the loss of a batch without an update. */
  readonly evaluation?: boolean;
}

/**
 * A program by hand, for the fake backend: loss = sum over ranks of x . w (all rows with all rows), all-reduced;
 * then every weight grows by 1. In whole numbers, so that results are exact.
 */
export function tinyProgram(options: TinyOptions): Program {
  const { ranks, microbatches = 1, prelude = [], rows = ROWS, weightRows = WEIGHT_ROWS } = options;
  const slots: Slot[] = [];
  let offsetBytes = 0;
  const slot = (name: string, ...shape: number[]): number => {
    const sizeBytes = 4 * shape.reduce((product, dim) => product * dim, 1);
    slots.push({ name, dtype: "float32", shape, offsetBytes, sizeBytes });
    offsetBytes += sizeBytes;
    return slots.length - 1;
  };
  const w = slot("w", weightRows, WIDTH);
  const moment = slot("w.moment1", weightRows, WIDTH);
  const x = slot("x", rows, WIDTH);
  const part = slot("part");
  const loss = slot("loss");
  const sharded = ranks > 1;
  const body: Instruction[] = [
    ...prelude,
    { kind: "compute", op: "dotRows", inputs: [x, w], outputs: [sharded ? part : loss], attrs: {} },
    ...(sharded
      ? ([
          { kind: "start", collective: 0 },
          { kind: "wait", collective: 0 },
        ] as const)
      : []),
  ];
  const evaluation = { body, epilogue: [], lossSlot: loss };
  return {
    ...(options.evaluation === true ? { evaluation } : {}),
    formatVersion: 1,
    name: "tiny",
    mesh: { axes: [{ name: "t", size: ranks }] },
    arenaBytes: offsetBytes,
    memoryByKind: {
      weights: weightRows * WIDTH * 4,
      optimizer: weightRows * WIDTH * 4,
      inputs: rows * WIDTH * 4,
      activations: 8,
    },
    slots,
    stored: [
      {
        name: "w",
        role: "parameter",
        globalShape: [weightRows * ranks, WIDTH],
        layout: ["S0"],
        slot: w,
        init: { kind: "uniform", bound: 1 },
      },
      {
        name: "w",
        role: "moment1",
        globalShape: [weightRows * ranks, WIDTH],
        layout: ["S0"],
        slot: moment,
        init: { kind: "constant", value: 7 },
      },
    ],
    inputs: [{ name: "x", dtype: "float32", globalShape: [rows, WIDTH], layout: ["R"], slot: x }],
    microbatches,
    body,
    epilogue: [
      { kind: "compute", op: "addConstant", inputs: [w], outputs: [w], attrs: { value: 1 } },
    ],
    collectives: sharded
      ? [
          {
            op: "allReduce",
            axes: [0],
            inputSlot: part,
            outputSlot: loss,
            dtype: "float32",
            outer: 1,
            chunkElements: 1,
            algorithm: "direct",
            segmentBytes: 1024,
            payloadBytes: 4,
            wireBytes: wireBytes("allReduce", "direct", 4, ranks, 4),
            sameInputs: true,
            label: "loss",
            from: "P",
            to: "R",
            phase: "forward",
          },
        ]
      : [],
    lossSlot: loss,
    gradNormSlot: -1,
    optimizer: { kind: "sgd", lr: 1, momentum: 0 },
    schedule: { kind: "constant" },
  };
}

/** The batch of a step: element i is step + i mod 5. */
export function tinyBatch(
  step: number,
  rows = ROWS,
): { readonly bytes: Uint8Array; readonly hash: number } {
  const floats = Float32Array.from({ length: rows * WIDTH }, (_, i) => step + (i % 5));
  const bytes = new Uint8Array(floats.buffer);
  return { bytes, hash: crc32(bytes) };
}

/** The loss of a step, when rank r's weights started at `start(r)`. */
export function tinyLoss(
  step: number,
  ranks: number,
  start: (rank: number) => number,
  rows = ROWS,
): number {
  const floats = Array.from({ length: rows * WIDTH }, (_, i) => step + (i % 5));
  const sum = floats.reduce((total, value) => total + value, 0);
  return Array.from(
    { length: ranks },
    (_, rank) => sum * WEIGHT_ROWS * (start(rank) + step),
  ).reduce((total, value) => total + value, 0);
}
