import { expect } from "chai";
import { wireBytes } from "../../../../shared/collective/algorithm.ts";
import type { Collective, CollectiveOp } from "../../../../shared/program/program.ts";
import type { CollectiveBuffers } from "../../../../worker/collective/collective.ts";
import {
  buffersFor,
  bytesOf,
  chunkOf,
  descriptor,
  floatsOf,
  key,
  lineMesh,
  ranksInMemory,
} from "../../../support/collectives.ts";

const SIZES = [1, 2, 3, 4, 5, 7, 8];
const OPS: readonly CollectiveOp[] = ["allReduce", "allGather", "reduceScatter"];
const ALGORITHMS = ["ring", "direct"] as const;

/** Rank r's full tensor: small integers, so that every order of adding gives the same float. */
function integers(rank: number, elements: number): number[] {
  return Array.from({ length: elements }, (_, i) => ((i * 7 + rank * 13) % 101) - 50);
}

function fullElements({ op, outer, chunkElements }: Collective, size: number): number {
  return outer * chunkElements * (op === "allReduce" ? 1 : size);
}

/** Sum of all ranks' tensors. */
function totalOf(inputs: readonly (readonly number[])[]): number[] {
  return (inputs[0] ?? []).map((_, i) =>
    inputs.reduce((total, values) => total + (values[i] ?? 0), 0),
  );
}

/** What rank `index` must hold after `collective`, computed on one machine. */
function expected(
  collective: Collective,
  size: number,
  index: number,
  inputs: number[][],
  total = totalOf(inputs),
): number[] {
  if (collective.op === "allGather") return inputs[0] ?? [];
  return collective.op === "allReduce" ? total : chunkOf(collective, size, index, total);
}

/** deep.equal, which is slow on thousands of long arrays, only to say what differs. */
function expectSame(bytes: Uint8Array, wanted: readonly number[], where: string): void {
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const same = values.length === wanted.length && values.every((value, i) => value === wanted[i]);
  if (!same) expect([...values], where).to.deep.equal(wanted);
}

interface Outcome {
  readonly outputs: Uint8Array[];
  readonly buffers: CollectiveBuffers[];
  readonly sent: number[];
  readonly received: number[];
}

async function runAll(
  collective: Collective,
  size: number,
  inputs: number[][],
  inPlace: boolean,
  network = {},
  options = {},
): Promise<Outcome> {
  const { groups } = ranksInMemory(lineMesh(size), [collective], network, options);
  const buffers = groups.map((_, rank) =>
    buffersFor(collective, size, rank, inputs[rank] ?? [], inPlace),
  );
  await Promise.all(
    groups.map((group, rank) => {
      const own = buffers[rank];
      if (own === undefined) throw new Error("no buffers");
      return group.run(collective, key(), own, 0);
    }),
  );
  return {
    outputs: buffers.map(({ output }) => output),
    buffers,
    sent: groups.map((group) => group.sentBytes),
    received: groups.map((group) => group.receivedBytes),
  };
}

describe("collective group", () => {
  for (const op of OPS) {
    for (const algorithm of ALGORITHMS) {
      for (const size of SIZES) {
        it(`${op} by ${algorithm} over ${size} ranks is exact for every length, segment and aliasing, and sends what wireBytes says`, async () => {
          for (const elements of [0, 1, 2, 5, 8, 63, 1000]) {
            for (const segmentBytes of [4, 24, 1000, 4096]) {
              if (segmentBytes === 4 && elements > 63) continue;
              for (const inPlace of [false, true]) {
                const outer = op === "allReduce" ? 1 : 1 + (elements % 3);
                const collective = descriptor(size, {
                  op,
                  algorithm,
                  outer,
                  chunkElements: elements,
                  segmentBytes,
                });
                const whole = fullElements(collective, size);
                const inputs = Array.from({ length: size }, (_, rank) =>
                  integers(op === "allGather" ? 0 : rank, whole),
                );
                const { outputs, buffers, sent, received } = await runAll(
                  collective,
                  size,
                  inputs,
                  inPlace,
                );
                const total = totalOf(inputs);
                for (let rank = 0; rank < size; rank++) {
                  const where = `rank ${rank}, ${elements} elements, segments of ${segmentBytes}, in place ${inPlace}`;
                  const output = outputs[rank] ?? new Uint8Array();
                  expectSame(output, expected(collective, size, rank, inputs, total), where);
                  const input = buffers[rank]?.input ?? new Uint8Array();
                  const written = input === output || op === "allGather";
                  if (!written) expectSame(input, inputs[rank] ?? [], where);
                }
                expect(Math.max(...sent)).to.equal(wireBytes(op, algorithm, whole * 4, size, 4));
                expect(sum(received)).to.equal(sum(sent));
              }
            }
          }
        });
      }
    }
  }

  for (const algorithm of ALGORITHMS) {
    for (const size of [2, 3, 4, 8]) {
      it(`allReduce by ${algorithm} gives ${size} ranks identical bytes of rounded sums, in every run`, async () => {
        const elements = 777;
        const inputs = Array.from({ length: size }, (_, rank) =>
          Array.from(
            { length: elements },
            (_, i) => Math.sin(i * 1.7 + rank * 0.3) * 10 ** ((i + rank) % 9),
          ),
        );
        const collective = descriptor(size, {
          op: "allReduce",
          algorithm,
          chunkElements: elements,
          segmentBytes: 256,
        });
        const first = await runAll(collective, size, inputs, true, {
          seed: 1,
          maxDelayTurns: 3,
          backpressure: 0.3,
        });
        const second = await runAll(collective, size, inputs, false, {
          seed: 2,
          maxDelayTurns: 5,
          backpressure: 0.6,
        });
        for (const output of [...first.outputs, ...second.outputs]) {
          expect(Buffer.compare(output, first.outputs[0] ?? new Uint8Array())).to.equal(0);
        }
        const exact = expected(collective, size, 0, inputs);
        floatsOf(first.outputs[0] ?? new Uint8Array()).forEach((value, i) => {
          expect(value).to.be.closeTo(exact[i] ?? 0, 1e3 * size);
        });
      });
    }
  }

  it("reduces each chunk exactly once under random delays, backpressure and pacing", async () => {
    for (let seed = 1; seed <= 40; seed++) {
      const size = 2 + (seed % 6);
      const op = OPS[seed % 3] ?? "allReduce";
      const algorithm = seed % 2 === 0 ? "ring" : "direct";
      const outer = op === "allReduce" ? 1 : 1 + (seed % 4);
      const collective = descriptor(size, {
        op,
        algorithm,
        outer,
        chunkElements: 60 + seed,
        segmentBytes: 32,
      });
      const whole = fullElements(collective, size);
      const inputs = Array.from({ length: size }, (_, rank) =>
        integers(op === "allGather" ? 0 : rank, whole),
      );
      const network = { seed, maxDelayTurns: seed % 4, backpressure: (seed % 5) / 5 };
      const { outputs } = await runAll(collective, size, inputs, seed % 3 === 0, network, {
        paceFrames: 1 + (seed % 3),
      });
      outputs.forEach((output, rank) => {
        expect(floatsOf(output), `seed ${seed} rank ${rank}`).to.deep.equal(
          expected(collective, size, rank, inputs),
        );
      });
    }
  });

  it("adds float64 and int32", async () => {
    for (const dtype of ["float64", "int32"] as const) {
      for (const algorithm of ALGORITHMS) {
        const collective = descriptor(3, {
          op: "allReduce",
          algorithm,
          chunkElements: 5,
          dtype,
          segmentBytes: 16,
        });
        const typed = (values: number[]) =>
          dtype === "float64" ? new Float64Array(values) : new Int32Array(values);
        const { groups } = ranksInMemory(lineMesh(3), [collective]);
        const values = groups.map((_, rank) => typed([1, 2 ** 30, 3, -4, 5].map((v) => v + rank)));
        await Promise.all(
          groups.map((group, rank) => {
            const buffer = new Uint8Array((values[rank] ?? typed([])).buffer);
            return group.run(collective, key(), { input: buffer, output: buffer }, 0);
          }),
        );
        const wanted = [
          6,
          dtype === "float64" ? 3 * 2 ** 30 + 3 : (3 * 2 ** 30 + 3) | 0,
          12,
          -9,
          18,
        ];
        for (const own of values) expect([...own]).to.deep.equal(wanted);
      }
    }
  });

  it("runs several collectives at once, over different axes, steps apart", async () => {
    const mesh = {
      axes: [
        { name: "a", size: 2 },
        { name: "b", size: 3 },
      ],
    };
    const collectives = [
      {
        ...descriptor(2, {
          op: "allReduce",
          algorithm: "direct",
          chunkElements: 50,
          segmentBytes: 40,
        }),
        axes: [0],
      },
      {
        ...descriptor(3, { op: "reduceScatter", outer: 3, chunkElements: 7, segmentBytes: 24 }),
        axes: [1],
      },
      { ...descriptor(6, { op: "allReduce", chunkElements: 31, segmentBytes: 16 }), axes: [0, 1] },
      {
        ...descriptor(3, { op: "allGather", outer: 2, chunkElements: 9, segmentBytes: 20 }),
        axes: [1],
      },
    ];
    const sizes = [2, 3, 6, 3];
    for (let seed = 1; seed <= 8; seed++) {
      const { groups } = ranksInMemory(mesh, collectives, {
        seed,
        maxDelayTurns: seed % 5,
        backpressure: 0.3,
      });
      const one = async (rank: number): Promise<number[][][]> => {
        const steps: number[][][] = [];
        for (let step = 0; step < 3; step++) {
          const running = collectives.map(async (collective, index) => {
            const size = sizes[index] ?? 0;
            const whole =
              collective.outer *
              collective.chunkElements *
              (collective.op === "allReduce" ? 1 : size);
            const place = index === 0 ? Math.floor(rank / 3) : index === 2 ? rank : rank % 3;
            const source = collective.op === "allGather" ? 0 : rank;
            const own = buffersFor(collective, size, place, integers(source + step, whole), false);
            await groups[rank]?.run(collective, key(index, step), own, 0);
            return floatsOf(own.output);
          });
          steps.push(await Promise.all(running));
        }
        return steps;
      };
      const results = await Promise.all(groups.map((_, rank) => one(rank)));
      for (let step = 0; step < 3; step++) {
        const total = (ranks: readonly number[], whole: number): number[] =>
          Array.from({ length: whole }, (_, i) =>
            sum(ranks.map((rank) => integers(rank + step, whole)[i] ?? 0)),
          );
        expect(results[0]?.[step]?.[0]).to.deep.equal(total([0, 3], 50));
        expect(results[5]?.[step]?.[2]).to.deep.equal(total([0, 1, 2, 3, 4, 5], 31));
        const reduced = total([0, 1, 2], 63);
        for (const rank of [0, 1, 2]) {
          const mine =
            collectives[1] === undefined ? [] : chunkOf(collectives[1], 3, rank, reduced);
          expect(results[rank]?.[step]?.[1]).to.deep.equal(mine);
        }
        expect(results[4]?.[step]?.[3]).to.deep.equal(integers(step, 54));
      }
    }
  });

  it("ends at once in a group of one, copying out of place", async () => {
    const collective = descriptor(1, { op: "allReduce", chunkElements: 3 });
    const { groups } = ranksInMemory(lineMesh(1), [collective]);
    const output = new Uint8Array(12);
    await groups[0]?.run(collective, key(), { input: bytesOf([1, 2, 3]), output }, 0);
    expect(floatsOf(output)).to.deep.equal([1, 2, 3]);
  });
});

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
