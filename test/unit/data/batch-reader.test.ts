import { crc32 } from "node:zlib";
import { expect } from "chai";
import { BatchReader } from "../../../coordinator/data/batch-reader.ts";
import type { DataInput, RowSource } from "../../../coordinator/data/data-source.ts";
import { StreamSource } from "../../../coordinator/data/stream-source.ts";
import { CancelledError, DataLossError } from "../../../shared/errors.ts";
import { type Mesh, worldSize } from "../../../shared/mesh/mesh.ts";
import { type Layout, shardIntervals } from "../../../shared/mesh/placement.ts";
import type { Program } from "../../../shared/program/program.ts";
import { caught } from "../../support/caught.ts";
import { floats } from "../../support/data.ts";

const BATCH = 12;
const DIMS: Readonly<Record<string, readonly number[]>> = { x: [4, 6], y: [] };
const INPUTS: DataInput[] = Object.entries(DIMS).map(([name, dims]) => ({
  name,
  dims,
  dtype: "float32",
}));
const MESH_2x2: Mesh = {
  axes: [
    { name: "a", size: 2 },
    { name: "b", size: 2 },
  ],
};

function program(
  mesh: Mesh,
  layouts: Readonly<Record<string, Layout>>,
): Pick<Program, "inputs" | "mesh"> {
  const inputs = INPUTS.map((input, slot) => ({
    name: input.name,
    dtype: input.dtype,
    globalShape: [BATCH, ...input.dims],
    layout: layouts[input.name] ?? [],
    slot,
  }));
  return { mesh, inputs };
}

/** Rows whose elements tell where they are from: input * 1e6 + row * 100 + element of the row. */
function value(input: number, row: number, element: number): number {
  return input * 1e6 + row * 100 + element;
}

function rowLength(input: DataInput): number {
  return input.dims.reduce((product, dim) => product * dim, 1);
}

class CountingRows implements RowSource {
  readonly kind = "rows";
  readonly inputs = INPUTS;
  readonly rows = 30;
  reads: number[][] = [];
  closed = 0;

  readRows(index: number, rows: readonly number[]): Promise<Uint8Array> {
    this.reads.push([...rows]);
    const input = INPUTS[index];
    if (input === undefined) throw new Error(`no input ${index}`);
    const values = rows.flatMap((row) =>
      Array.from({ length: rowLength(input) }, (_, element) => value(index, row, element)),
    );
    return Promise.resolve(new Uint8Array(Float32Array.from(values).buffer));
  }

  close(): Promise<void> {
    this.closed += 1;
    return Promise.resolve();
  }
}

/** What `rank` must get, element by element from the definition. */
function expected(mesh: Mesh, index: number, layout: Layout, rank: number, step: number): number[] {
  const input = INPUTS[index];
  if (input === undefined) throw new Error(`no input ${index}`);
  const shape = [BATCH, ...input.dims];
  const intervals = shardIntervals(shape, layout, mesh, rank);
  const result: number[] = [];
  const length = shape.reduce((product, size) => product * size, 1);
  for (let flat = 0; flat < length; flat++) {
    let rest = flat;
    const place = shape.map(() => 0);
    for (let dim = shape.length - 1; dim >= 0; dim--) {
      place[dim] = rest % (shape[dim] ?? 1);
      rest = Math.floor(rest / (shape[dim] ?? 1));
    }
    const inside = intervals.every(
      ({ start, end }, dim) => start <= (place[dim] ?? 0) && (place[dim] ?? 0) < end,
    );
    const row = (step * BATCH + (place[0] ?? 0)) % 30;
    if (inside) result.push(value(index, row, flat % rowLength(input)));
  }
  return result;
}

const OPTIONS = { batchSize: BATCH, shuffleSeed: undefined };

describe("the parts of a batch", () => {
  const cases: readonly [string, Readonly<Record<string, Layout>>][] = [
    ["replicated", { x: ["R", "R"], y: ["R", "R"] }],
    ["rows split over one axis", { x: ["S0", "R"], y: ["S0", "R"] }],
    ["rows split over both axes", { x: ["S0", "S0"], y: ["S0", "S0"] }],
    ["rows and the last dim split", { x: ["S0", "S2"], y: ["S0", "R"] }],
    ["inner dims split", { x: ["S1", "S2"], y: ["R", "R"] }],
    ["rows and the middle dim split", { x: ["S1", "S0"], y: ["R", "S0"] }],
  ];
  for (const [what, layouts] of cases) {
    for (const kind of ["rows", "batches"] as const) {
      it(`are each rank's block of the step's rows, ${what}, from a source of ${kind}`, async () => {
        const rows = new CountingRows();
        const source =
          kind === "rows"
            ? rows
            : new StreamSource(INPUTS, {
                batchSize: BATCH,
                steps: 4,
                maxQueuedBatches: 4,
                timeoutMs: 1000,
              });
        if (source instanceof StreamSource) {
          for (let step = 0; step < 4; step++) {
            const ids = Array.from({ length: BATCH }, (_, j) => (step * BATCH + j) % 30);
            const tensors = await Promise.all(
              INPUTS.map(async ({ name, dtype, dims }, i) => ({
                name,
                dtype,
                dims: [BATCH, ...dims],
                data: await rows.readRows(i, ids),
              })),
            );
            await source.push(tensors, new AbortController().signal);
          }
        }
        const reader = new BatchReader(source, program(MESH_2x2, layouts), OPTIONS);
        for (let step = 0; step < 4; step++) {
          for (let rank = 0; rank < worldSize(MESH_2x2); rank++) {
            const part = await reader.read(step, rank);
            part.inputs.forEach((bytes, i) => {
              const layout = layouts[INPUTS[i]?.name ?? ""] ?? [];
              expect(floats(bytes)).to.deep.equal(expected(MESH_2x2, i, layout, rank, step));
            });
            expect(part.hash).to.equal(crc32(Buffer.concat(part.inputs)));
          }
        }
        await reader.close();
      });
    }
  }

  it("are read once for ranks that get the same, and shared between them", async () => {
    const source = new CountingRows();
    const layouts: Record<string, Layout> = { x: ["S0", "R"], y: ["S0", "R"] };
    const reader = new BatchReader(source, program(MESH_2x2, layouts), OPTIONS);
    const parts = await Promise.all([0, 1, 2, 3].map((rank) => reader.read(1, rank)));
    expect(parts[1]).to.equal(parts[0]);
    expect(parts[3]).to.equal(parts[2]);
    expect(parts[2]?.hash).to.not.equal(parts[0]?.hash);
    const [top, bottom] = [
      [12, 13, 14, 15, 16, 17],
      [18, 19, 20, 21, 22, 23],
    ];
    expect(source.reads).to.have.deep.members([top, top, bottom, bottom]);
  });

  it("come in the same order on every mesh when shuffled", async () => {
    const options = { batchSize: BATCH, shuffleSeed: 9 };
    const whole = new BatchReader(new CountingRows(), program({ axes: [] }, {}), options);
    const split = new BatchReader(
      new CountingRows(),
      program(MESH_2x2, { x: ["S0", "R"], y: ["S0", "R"] }),
      options,
    );
    for (let step = 0; step < 6; step++) {
      const one = await whole.read(step, 0);
      const top = await split.read(step, 0);
      const bottom = await split.read(step, 2);
      one.inputs.forEach((bytes, i) => {
        const parts = [top.inputs[i] ?? [], bottom.inputs[i] ?? []];
        expect(floats(bytes)).to.deep.equal(parts.flatMap((part) => floats(Uint8Array.from(part))));
      });
    }
    const first = await whole.read(6, 0);
    expect(floats(first.inputs[1] ?? new Uint8Array())).to.not.deep.equal(
      Array.from({ length: BATCH }, (_, j) => value(1, (72 + j) % 30, 0)),
    );
  });

  it("carry the source's error to every rank that asks", async () => {
    class BrokenRows extends CountingRows {
      override readRows(): Promise<Uint8Array> {
        return Promise.reject(new DataLossError("d.safetensors: the file shrank"));
      }
    }
    const layouts: Record<string, Layout> = { x: ["R", "R"], y: ["R", "R"] };
    const reader = new BatchReader(new BrokenRows(), program(MESH_2x2, layouts), OPTIONS);
    for (const rank of [0, 1]) {
      expect(await caught(reader.read(0, rank))).to.be.instanceOf(DataLossError);
    }
  });

  it("end with CancelledError when the reader is closed, waiting or not", async () => {
    const source = new StreamSource(INPUTS, {
      batchSize: BATCH,
      steps: 4,
      maxQueuedBatches: 1,
      timeoutMs: 60_000,
    });
    const layouts: Record<string, Layout> = { x: ["R", "R"], y: ["R", "R"] };
    const reader = new BatchReader(source, program(MESH_2x2, layouts), OPTIONS);
    const waiting = caught(reader.read(0, 0));
    await reader.close();
    expect(await waiting).to.be.instanceOf(CancelledError);
    expect(await caught(reader.read(0, 1))).to.be.instanceOf(CancelledError);
  });

  it("hold nothing back: a program without inputs has empty parts", async () => {
    const reader = new BatchReader(new CountingRows(), { mesh: MESH_2x2, inputs: [] }, OPTIONS);
    expect(await reader.read(0, 3)).to.deep.equal({ inputs: [], hash: 0 });
  });
});
