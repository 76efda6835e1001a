import type { Address } from "../../kernels.ts";
import { NULL } from "../../kernels.ts";
import { type Bound, bindOperands, type LaunchOperand } from "./bind-operands.ts";
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

/** What stays the same when a kernel is launched again on the same operands. */
interface Prepared extends Bound {
  readonly pipeline: number;
}

const MOST_KNOWN = 20_000;

export interface Launch<K extends WgslKernel = WgslKernel> {
  readonly operands: { readonly [name in keyof K["operands"]]: LaunchOperand };
  readonly params?: { readonly [name in keyof K["params"]]: number };
  readonly table?: Uint32Array | Float32Array;
  readonly constants?: Constants;
  /** Elements of a kernel by each, groups of one by group. */
  readonly n: number;
}

/** Queues kernels on a device. Shaders are built when first needed and stay. */
export class Launcher {
  readonly #link: DeviceLink;
  readonly #memory: DeviceMemory;
  /** By kernel, constants and pattern of bindings. */
  readonly #pipelines: Map<string, number>;
  /** By kernel, constants and operands. */
  readonly #known = new Map<string, Prepared>();

  /** @param pipelines of the device: kept from program to program */
  constructor(link: DeviceLink, memory: DeviceMemory, pipelines: Map<string, number>) {
    this.#link = link;
    this.#memory = memory;
    this.#pipelines = pipelines;
  }

  /** Nothing happens where n is 0. */
  launch<K extends WgslKernel>(kernel: K, launch: Launch<K>): void {
    if (launch.n === 0) return;
    const { pipeline, bindings, offsets } = this.#prepared(kernel, launch);
    const groups = kernel.by === "each" ? Math.ceil(launch.n / threadsOf(kernel)) : launch.n;
    const groupsY = Math.ceil(groups / this.#link.adapter.maxGroupsPerDim);
    const groupsX = Math.ceil(groups / groupsY);
    const parameters = parametersOf(kernel, launch, groupsX, offsets);
    this.#link.dispatch({ pipeline, groupsX, groupsY, bindings, parameters });
  }

  /** Steps launch the same kernels on the same operands again and again. */
  #prepared(kernel: WgslKernel, { operands, constants }: Launch): Prepared {
    let key = kernel.name;
    for (const name in constants) key += ` ${constants[name]}`;
    for (const name in operands) {
      const [at, elements] = operands[name] ?? [NULL, 0];
      key += `,${at}:${elements}`;
    }
    let prepared = this.#known.get(key);
    if (prepared === undefined) {
      const locate = (address: Address) => this.#memory.locate(address);
      const bound = bindOperands(kernel, operands, locate, this.#link.adapter);
      prepared = { ...bound, pipeline: this.#pipeline(kernel, bound.pattern, constants ?? {}) };
      // Decoders bind more of their caches at every position.
      if (this.#known.size >= MOST_KNOWN) this.#known.clear();
      this.#known.set(key, prepared);
    }
    return prepared;
  }

  #pipeline(kernel: WgslKernel, pattern: BindingPattern, constants: Constants): number {
    const key = [kernel.name, ...Object.values(constants), ":", ...pattern].join(" ");
    const known = this.#pipelines.get(key);
    if (known !== undefined) return known;
    const code = assembleShader(kernel, pattern, constants);
    const pipeline = this.#link.addPipeline(key, code, Math.max(-1, ...pattern) + 1);
    this.#pipelines.set(key, pipeline);
    return pipeline;
  }
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
