import { wireBytes } from "../../shared/collective/algorithm.ts";
import type { Mesh } from "../../shared/mesh/mesh.ts";
import {
  type Collective,
  type CollectiveOp,
  dtypeBytes,
  type Program,
} from "../../shared/program/program.ts";
import type { CollectiveBuffers, CollectiveKey } from "../../worker/collective/collective.ts";
import {
  PeerCollectiveGroup,
  type PeerCollectiveGroupOptions,
} from "../../worker/collective/collective-group.ts";
import {
  MemoryNetwork,
  type MemoryNetworkOptions,
} from "../../worker/collective/memory-transport.ts";

export type DescriptorFields = Partial<Collective> & { readonly op: CollectiveOp };

/** A descriptor over all axes of `size` ranks, with what a compiler would fill in. */
export function descriptor(size: number, fields: DescriptorFields): Collective {
  const { op, outer = 1, chunkElements = 4, dtype = "float32", algorithm = "ring" } = fields;
  const elementBytes = dtypeBytes(dtype);
  const payloadBytes = outer * chunkElements * elementBytes * (op === "allReduce" ? 1 : size);
  return {
    axes: [0],
    inputSlot: 0,
    outputSlot: 0,
    segmentBytes: 1024,
    payloadBytes,
    wireBytes: wireBytes(op, algorithm, payloadBytes, size, elementBytes),
    sameInputs: false,
    label: "t",
    from: "P",
    to: "R",
    phase: "forward",
    ...fields,
    outer,
    chunkElements,
    dtype,
    algorithm,
  };
}

export function lineMesh(size: number): Mesh {
  return { axes: [{ name: "a", size }] };
}

export interface Ranks {
  readonly network: MemoryNetwork;
  readonly groups: readonly PeerCollectiveGroup[];
  readonly program: Pick<Program, "mesh" | "collectives">;
}

/** One group object per rank, joined by memory. */
export function ranksInMemory(
  mesh: Mesh,
  collectives: readonly Collective[],
  network: MemoryNetworkOptions = {},
  options: Partial<PeerCollectiveGroupOptions> = {},
): Ranks {
  const program = { mesh, collectives };
  const size = mesh.axes.reduce((product, axis) => product * axis.size, 1);
  const joined = new MemoryNetwork(size, network);
  const groups = joined.transports.map(
    (transport, rank) =>
      new PeerCollectiveGroup({ program, rank, transport, timeoutMs: 5000, ...options }),
  );
  return { network: joined, groups, program };
}

export function bytesOf(values: ArrayLike<number>): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}

export function floatsOf(bytes: Uint8Array): number[] {
  return [...new Float32Array(bytes.slice().buffer)];
}

/**
 * Buffers of one rank for a collective whose full tensor is `full`: for allGather the input is the rank's chunk.
 * In place, allReduce has one buffer for both, and an allGather of one row reads its chunk of the output.
 */
export function buffersFor(
  collective: Collective,
  size: number,
  index: number,
  full: ArrayLike<number>,
  inPlace: boolean,
): CollectiveBuffers {
  const { op, outer, chunkElements } = collective;
  const whole = bytesOf(full);
  if (op === "allReduce") {
    return { input: whole, output: inPlace ? whole : new Uint8Array(whole.length).fill(0xee) };
  }
  const chunk = outer * chunkElements * 4;
  if (op === "reduceScatter") return { input: whole, output: new Uint8Array(chunk).fill(0xee) };
  const output = new Uint8Array(whole.length).fill(0xee);
  const input = bytesOf(chunkOf(collective, size, index, full));
  if (!inPlace || outer !== 1) return { input, output };
  output.set(input, index * chunk);
  return { input: output.subarray(index * chunk, (index + 1) * chunk), output };
}

/** Chunk `index` of a full tensor [outer, size, chunkElements]. */
export function chunkOf(
  { outer, chunkElements }: Collective,
  size: number,
  index: number,
  full: ArrayLike<number>,
): number[] {
  const values: number[] = [];
  for (let row = 0; row < outer; row++) {
    for (let i = 0; i < chunkElements; i++) {
      values.push(full[(row * size + index) * chunkElements + i] ?? Number.NaN);
    }
  }
  return values;
}

export function key(collective = 0, step = 0, microbatch = 0): CollectiveKey {
  return { step, microbatch, collective };
}
