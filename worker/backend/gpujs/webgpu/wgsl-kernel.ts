import { FLOAT64 } from "./wgsl/float64.ts";
import { MATH } from "./wgsl/math.ts";
import { PHILOX } from "./wgsl/philox.ts";

const LIBRARIES = { float64: FLOAT64, philox: PHILOX } as const;

/** A kernel in WGSL, apart from how its operands are bound. */
export interface WgslKernel {
  readonly name: string;
  /** Operands by name. In the code `x(i)` reads element i of operand x, `set_x(i, value)` writes it, `has_x` says whether it is given. */
  readonly operands: Readonly<Record<string, ElementType>>;
  /** What `params` holds beside `n`, `width` and `zero`. */
  readonly params?: Readonly<Record<string, "u32" | "i32" | "f32">>;
  /** Length of `params.table`, of four words each. */
  readonly table?: { readonly of: "vec4<u32>" | "vec4<f32>"; readonly length: number };
  readonly libraries?: readonly (keyof typeof LIBRARIES)[];
  /**
   * `each`: the code has `fn run(i: u32)`, called for each i below params.n. `group`: it has `fn run(group: u32, lane: u32)`,
   * called by all THREADS lanes of each of params.n groups.
   */
  readonly by: "each" | "group";
  /** Threads of a workgroup. @default 64 */
  readonly threads?: number;
  /** `MEMORY_x` in it becomes the array that holds operand x, from `params.at_x` on. */
  readonly code: string;
}

/** `f64` takes two words and is read as vec2<u32>. */
export type ElementType = "f32" | "i32" | "u32" | "f64";

const THREADS = 64;

/** Threads of a workgroup. */
export function threadsOf({ threads }: WgslKernel): number {
  return threads ?? THREADS;
}

/** Which of a dispatch's bindings holds each operand, in the kernel's order; -1: it is left out. */
export type BindingPattern = readonly number[];

/** What a dispatch gives a kernel beside its operands, and by which a pipeline is built for it. */
export type Constants = Readonly<Record<string, number | boolean>>;

const WGSL_TYPE: Readonly<Record<ElementType, string>> = {
  f32: "f32",
  i32: "i32",
  u32: "u32",
  f64: "vec2<u32>",
};

/** Fields of `params`, in order: those that all kernels have, the kernel's own, and offset in elements of each operand. */
export function parameterNames(kernel: WgslKernel): string[] {
  const offsets = Object.keys(kernel.operands).map((name) => `at_${name}`);
  return ["n", "width", "zero", ...Object.keys(kernel.params ?? {}), ...offsets];
}

/** The shader for one pattern of bindings. @param constants of integers or truth values, by name */
export function assembleShader(
  kernel: WgslKernel,
  pattern: BindingPattern,
  constants: Constants,
): string {
  const names = Object.keys(kernel.operands);
  const numBindings = Math.max(-1, ...pattern) + 1;
  const types = Array.from({ length: numBindings }, (_, binding) => {
    const held = new Set(
      names.filter((_, i) => pattern[i] === binding).map((name) => wordOf(kernel, name)),
    );
    return held.size === 1 ? ([...held][0] ?? "u32") : "u32";
  });
  const lines = [
    ...structure(kernel),
    "@group(0) @binding(0) var<uniform> params: Params;",
    ...types.map(
      (type, i) =>
        `@group(0) @binding(${i + 1}) var<storage, read_write> memory${i}: array<${type}>;`,
    ),
    `const THREADS = ${threadsOf(kernel)}u;`,
    ...Object.entries(constants).map(([name, value]) =>
      typeof value === "boolean" ? `const ${name} = ${value};` : `const ${name} = ${value}u;`,
    ),
    ...names.flatMap((name, i) => accessors(kernel, name, pattern[i] ?? -1, types)),
    MATH,
    ...(kernel.libraries ?? []).map((library) => LIBRARIES[library]),
    kernel.code.replaceAll(/\bMEMORY_(\w+)/g, (_, name: string) => {
      return `memory${pattern[names.indexOf(name)] ?? -1}`;
    }),
    kernel.by === "each" ? ENTRY_EACH : ENTRY_GROUP,
  ];
  return lines.join("\n");
}

const ENTRY_EACH = `
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = (group.x + group.y * params.width) * THREADS + lane;
  if (i < params.n) { run(i); }
}`;

const ENTRY_GROUP = `
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let g = group.x + group.y * params.width;
  if (g < params.n) { run(g, lane); }
}`;

function structure({ params = {}, table, operands }: WgslKernel): string[] {
  const offsets = Object.keys(operands).map((name): [string, string] => [`at_${name}`, "u32"]);
  const fields = [
    ["n", "u32"],
    ["width", "u32"],
    ["zero", "u32"],
    ...Object.entries(params),
    ...offsets,
  ];
  const tables = table === undefined ? [] : [`  table: array<${table.of}, ${table.length}>,`];
  return [
    "struct Params {",
    ...tables,
    ...fields.map(([name, type]) => `  ${name}: ${type},`),
    "}",
  ];
}

/** A float64 lies in memory as two words. */
function wordOf({ operands }: WgslKernel, name: string): string {
  const type = operands[name] ?? "u32";
  return type === "f64" ? "u32" : type;
}

function accessors(
  kernel: WgslKernel,
  name: string,
  binding: number,
  types: readonly string[],
): string[] {
  const type = kernel.operands[name] ?? "u32";
  const wgsl = WGSL_TYPE[type];
  if (binding < 0) {
    return [
      `const has_${name} = false;`,
      `fn ${name}(i: u32) -> ${wgsl} { return ${wgsl}(); }`,
      `fn set_${name}(i: u32, value: ${wgsl}) {}`,
    ];
  }
  const memory = `memory${binding}`;
  const at = `params.at_${name} + i`;
  if (type === "f64") {
    return [
      `const has_${name} = true;`,
      `fn ${name}(i: u32) -> vec2<u32> { let at = params.at_${name} + 2u * i; return vec2<u32>(${memory}[at], ${memory}[at + 1u]); }`,
      `fn set_${name}(i: u32, value: vec2<u32>) { let at = params.at_${name} + 2u * i; ${memory}[at] = value.x; ${memory}[at + 1u] = value.y; }`,
    ];
  }
  const [load, store] =
    types[binding] === wgsl
      ? [`${memory}[${at}]`, "value"]
      : [`bitcast<${wgsl}>(${memory}[${at}])`, "bitcast<u32>(value)"];
  return [
    `const has_${name} = true;`,
    `fn ${name}(i: u32) -> ${wgsl} { return ${load}; }`,
    `fn set_${name}(i: u32, value: ${wgsl}) { ${memory}[${at}] = ${store}; }`,
  ];
}
