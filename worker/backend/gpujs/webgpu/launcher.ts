import { InternalError } from "../../../../shared/errors.ts";
import type { Address } from "../../kernels.ts";
import { NULL } from "../../kernels.ts";
import type { DeviceLink } from "./device-link.ts";
import type { DeviceMemory } from "./device-memory.ts";
import {
  assembleShader,
  type BindingPattern,
  type Constants,
  parameterNames,
  threadsOf,
  type WgslKernel,
} from "./wgsl-kernel.ts";

/** One operand of a launch: where it begins and how many elements it has. NULL: left out. */
export type LaunchOperand = readonly [at: Address, elements: number];

export interface Launch<K extends WgslKernel = WgslKernel> {
  readonly operands: { readonly [name in keyof K["operands"]]: LaunchOperand };
  readonly params?: { readonly [name in keyof K["params"]]: number };
  readonly table?: Uint32Array | Float32Array;
  readonly constants?: Constants;
  /** Elements of a kernel by each, groups of one by group. */
  readonly n: number;
}

const BYTES = { f32: 4, i32: 4, u32: 4, f64: 8 } as const;

/** Queues kernels on a device. Shaders are built when first needed and stay. */
export class Launcher {
  readonly #link: DeviceLink;
  readonly #memory: DeviceMemory;
  /** By kernel, constants and pattern of bindings. */
  readonly #pipelines: Map<string, number>;

  /** @param pipelines of the device: kept from program to program */
  constructor(link: DeviceLink, memory: DeviceMemory, pipelines: Map<string, number>) {
    this.#link = link;
    this.#memory = memory;
    this.#pipelines = pipelines;
  }

  /** Nothing happens where n is 0. */
  launch<K extends WgslKernel>(kernel: K, launch: Launch<K>): void {
    if (launch.n === 0) return;
    const { pattern, bindings, offsets } = this.#bind(kernel, launch);
    const groups = kernel.by === "each" ? Math.ceil(launch.n / threadsOf(kernel)) : launch.n;
    const { maxGroupsPerDim } = this.#link.adapter;
    const groupsY = Math.ceil(groups / maxGroupsPerDim);
    const groupsX = Math.ceil(groups / groupsY);
    this.#link.dispatch({
      pipeline: this.#pipeline(kernel, pattern, launch.constants ?? {}),
      groupsX,
      groupsY,
      bindings,
      parameters: parametersOf(kernel, launch, groupsX, offsets),
    });
  }

  #pipeline(kernel: WgslKernel, pattern: BindingPattern, constants: Constants): number {
    const key = [kernel.name, ...Object.values(constants), ":", ...pattern].join(" ");
    const known = this.#pipelines.get(key);
    if (known !== undefined) return known;
    const numBindings = Math.max(-1, ...pattern) + 1;
    const code = assembleShader(kernel, pattern, constants);
    const pipeline = this.#link.addPipeline(key, code, numBindings);
    this.#pipelines.set(key, pipeline);
    return pipeline;
  }

  /**
   * Bindings of a dispatch must not overlap, since any may be written: operands whose ranges do, once extended to where a
   * binding may begin, share one.
   */
  #bind(
    kernel: WgslKernel,
    { operands }: Launch,
  ): { pattern: number[]; bindings: Uint32Array; offsets: number[] } {
    const { alignBytes, maxBindingBytes } = this.#link.adapter;
    const names = Object.keys(kernel.operands);
    const pattern = names.map(() => -1);
    const offsets = names.map(() => 0);
    const given = names.flatMap((name, index) => {
      const [at, elements] = operands[name] ?? [NULL, 0];
      if (at === NULL) return [];
      const width = BYTES[kernel.operands[name] ?? "f32"];
      const { buffer, offset } = this.#memory.locate(at);
      return [{ name, index, buffer, offset, end: offset + Math.max(1, elements) * width }];
    });
    const ranges: { buffer: number; start: number; end: number; members: typeof given }[] = [];
    for (const operand of given.toSorted((a, b) => a.buffer - b.buffer || a.offset - b.offset)) {
      const start = Math.floor(operand.offset / alignBytes) * alignBytes;
      const last = ranges.at(-1);
      if (last !== undefined && last.buffer === operand.buffer && start < last.end) {
        last.end = Math.max(last.end, operand.end);
        last.members.push(operand);
      } else {
        ranges.push({ buffer: operand.buffer, start, end: operand.end, members: [operand] });
      }
    }
    // Numbered by the first operand that each holds, so that one pipeline serves wherever operands lie.
    ranges.sort((a, b) => firstOf(a.members) - firstOf(b.members));
    const bindings = new Uint32Array(3 * ranges.length);
    ranges.forEach(({ buffer, start, end, members }, binding) => {
      if (end - start > maxBindingBytes) {
        throw new InternalError(
          `${kernel.name}: ${end - start} bytes in one binding of at most ${maxBindingBytes}`,
        );
      }
      bindings.set([buffer, start, end - start], 3 * binding);
      for (const { index, offset } of members) {
        pattern[index] = binding;
        offsets[index] = (offset - start) / 4;
      }
    });
    return { pattern, bindings, offsets };
  }
}

function firstOf(members: readonly { readonly index: number }[]): number {
  return Math.min(...members.map(({ index }) => index));
}

const fieldsOf = new WeakMap<WgslKernel, readonly string[]>();

function parametersOf(
  kernel: WgslKernel,
  { n, params = {}, table }: Launch,
  width: number,
  offsets: readonly number[],
): Uint32Array {
  let names = fieldsOf.get(kernel);
  if (names === undefined) {
    names = parameterNames(kernel);
    fieldsOf.set(kernel, names);
  }
  const tableWords = 4 * (kernel.table?.length ?? 0);
  const words = new Uint32Array(tableWords + names.length);
  const floats = new Float32Array(words.buffer);
  if (table !== undefined) words.set(new Uint32Array(table.buffer, table.byteOffset, table.length));
  const types: Readonly<Record<string, string>> = kernel.params ?? {};
  const values: Readonly<Record<string, number>> = params;
  const firstOffset = names.length - offsets.length;
  names.forEach((name, i) => {
    const at = tableWords + i;
    if (i >= firstOffset) words[at] = offsets[i - firstOffset] ?? 0;
    else if (types[name] === "f32") floats[at] = values[name] ?? 0;
    else words[at] = name === "n" ? n : name === "width" ? width : (values[name] ?? 0);
  });
  return words;
}
