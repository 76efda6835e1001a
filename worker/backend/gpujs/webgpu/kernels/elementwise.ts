import { InternalError } from "../../../../../shared/errors.ts";
import { type Address, type Kernels, NULL } from "../../../kernels.ts";
import { ELEMENTWISE, type ElementwiseKernel, type ElementwiseName } from "../../elementwise.ts";
import { elementwiseKernels } from "../../elementwise-kernels.ts";
import { gpujs } from "../../library.ts";
import type { LaunchOperand } from "../bind-operands.ts";
import { WORKSPACE, WORKSPACE_BYTES } from "../device-memory.ts";
import type { Launcher } from "../launcher.ts";
import type { WgslKernel } from "../wgsl-kernel.ts";

/**
 * gpu.js in its WebGPU mode: its compiler makes the kernels, this backend binds and queues them. Run by gpu.js itself a kernel
 * would take operands of its own buffers and leave its result in another: three copies a call, and no result in place.
 */
export function elementwise(launcher: Launcher): ReturnType<typeof elementwiseKernels> {
  return elementwiseKernels((name, operands, y, n) => {
    const { kernel, names } = compiled(name);
    const given: Record<string, LaunchOperand> = { result: [y, n] };
    const params: Record<string, number> = {};
    ELEMENTWISE[name].operands.forEach((kind, i) => {
      const [argument = "", value = 0] = [names[i], operands[i]];
      if (kind === "number") params[`user_${argument}`] = value;
      else given[argument] = [value, kind === "each" ? n : 1];
    });
    launcher.launch(kernel, { operands: given, params, n });
  });
}

/** Shaders of gpu.js by kernel: they are the same for every device. */
const KNOWN = new Map<ElementwiseName, { kernel: WgslKernel; names: readonly string[] }>();

function compiled(name: ElementwiseName): { kernel: WgslKernel; names: readonly string[] } {
  const known = KNOWN.get(name) ?? compile(name);
  KNOWN.set(name, known);
  return known;
}

/** What this backend reads of a kernel that gpu.js has translated. */
interface Translated {
  readonly argumentNames: readonly string[];
  readonly translatedBody: string;
  readonly translatedFunctions: string;
  build(...args: unknown[]): unknown;
}

/** Operands like those that a kernel gets: gpu.js takes types from them. A whole number would be an integer to it. */
const EXAMPLES = { each: new Float32Array(2), one: new Float32Array(1), number: 0.5 } as const;

function compile(name: ElementwiseName): { kernel: WgslKernel; names: readonly string[] } {
  const { source, operands }: ElementwiseKernel = ELEMENTWISE[name];
  const { WebGPUKernel } = gpujs() as unknown as {
    WebGPUKernel: new (source: string, settings: object) => Translated;
  };
  // Without a device of its own: the translation is all that is wanted.
  class Translation extends WebGPUKernel {
    _buildAsync(): Promise<void> {
      return Promise.resolve();
    }
  }
  const translation = new Translation(source, { output: [2] });
  translation.build(...operands.map((kind) => EXAMPLES[kind]));
  const { argumentNames: names, translatedBody: body, translatedFunctions } = translation;
  if (names.length !== operands.length || !body.includes("result[data_index]")) {
    throw new InternalError(`gpu.js translated ${name} to something else: ${body}`);
  }
  const tensors = names.filter((_, i) => operands[i] !== "number");
  const numbers = names.filter((_, i) => operands[i] === "number");
  return {
    names,
    kernel: {
      name,
      operands: Object.fromEntries([...tensors, "result"].map((tensor) => [tensor, "f32"])),
      params: Object.fromEntries(numbers.map((number) => [`user_${number}`, "f32"])),
      by: "each",
      code: `
        var<private> threadGid: vec3<u32>;
        ${tensors.map((tensor) => `fn get_user_${tensor}(plane: i32, row: i32, at: i32) -> f32 { return ${tensor}(u32(at)); }`).join("\n")}
        ${translatedFunctions}
        fn run(i: u32) {
          threadGid = vec3<u32>(i, 0u, 0u);
          let result = &MEMORY_result;
          let data_index = params.at_result + i;
          ${body}
        }`,
    },
  };
}

/** Elementwise kernels of several outputs, or of rows. */
const BIAS = {
  name: "bias",
  operands: { x: "f32", b: "f32", y: "f32" },
  params: { columns: "u32" },
  by: "each",
  code: "fn run(i: u32) { set_y(i, x(i) + b(i % params.columns)); }",
} as const satisfies WgslKernel;

const SWIGLU_GRAD = {
  name: "swigluGrad",
  operands: { dy: "f32", a: "f32", b: "f32", da: "f32", db: "f32" },
  by: "each",
  code: `
    fn run(i: u32) {
      let v = a(i); let g = dy(i); let other = b(i);
      let s = 1.0f / (1.0f + exp(-v));
      set_da(i, g * other * (s * (1.0f + v * (1.0f - s))));
      set_db(i, g * (v * s));
    }`,
} as const satisfies WgslKernel;

/** y = x[0] + x[1] (+ ...), from the left. A sum of more goes on from what is in y. */
const SUM_OF = {
  name: "addN",
  operands: { a: "f32", b: "f32", c: "f32", d: "f32", y: "f32" },
  by: "each",
  code: `
    fn run(i: u32) {
      var sum = a(i);
      if (has_b) { sum += b(i); }
      if (has_c) { sum += c(i); }
      if (has_d) { sum += d(i); }
      set_y(i, sum);
    }`,
} as const satisfies WgslKernel;

const ADD_DOUBLE = {
  name: "addNDouble",
  operands: { a: "f64", b: "f64", y: "f64" },
  libraries: ["float64"],
  by: "each",
  code: `
    fn run(i: u32) {
      if (has_b) { set_y(i, f64_add(a(i), b(i))); } else { set_y(i, a(i)); }
    }`,
} as const satisfies WgslKernel;

export function sums(
  launcher: Launcher,
): Pick<Kernels, "bias" | "swigluGrad" | "addN" | "addNDouble"> {
  return {
    bias(x, b, y, M, O) {
      const n = M * O;
      const operands = { x: [x, n], b: [b, O], y: [y, n] } as const;
      launcher.launch(BIAS, { operands, params: { columns: O }, n });
    },
    swigluGrad(dy, a, b, da, db, n) {
      const operands = { dy: [dy, n], a: [a, n], b: [b, n], da: [da, n], db: [db, n] } as const;
      launcher.launch(SWIGLU_GRAD, { operands, n });
    },
    addN({ values }, y, n) {
      addAll(values, y, n, 4, (a, others, to, count) => {
        const at = (i: number): LaunchOperand => [others[i] ?? NULL, count];
        const operands = { a: [a, count], b: at(0), c: at(1), d: at(2), y: [to, count] } as const;
        launcher.launch(SUM_OF, { operands, n: count });
      });
    },
    addNDouble({ values }, y, n) {
      addAll(values, y, n, 8, (a, others, to, count) => {
        others.forEach((b, i) => {
          const first = i === 0 ? a : to;
          const operands = { a: [first, count], b: [b, count], y: [to, count] } as const;
          launcher.launch(ADD_DOUBLE, { operands, n: count });
        });
        if (others.length > 0) return;
        launcher.launch(ADD_DOUBLE, {
          operands: { a: [a, count], b: [NULL, count], y: [to, count] },
          n: count,
        });
      });
    },
  };
}

/** Operands beside the first that are added at a time. */
const TOGETHER = 3;

/**
 * y = the sum of tensors of n elements, from the left, some of them at a time. y may be the bytes of any: where it is one that
 * is read only after a first sum has been written, sums are kept in the workspace until the last, piece by piece.
 */
function addAll(
  values: BigUint64Array,
  y: Address,
  n: number,
  width: number,
  add: (a: Address, others: readonly Address[], to: Address, count: number) => void,
): void {
  const addresses = Array.from(values, Number);
  const late = addresses.lastIndexOf(y) > (width === 4 ? TOGETHER : 1);
  const piece = late ? Math.floor(WORKSPACE_BYTES / width) : n;
  for (let first = 0; first < n; first += piece) {
    const [from, ...others] = addresses.map((address) => address + first * width);
    const count = Math.min(piece, n - first);
    const target = y + first * width;
    let sum = from ?? NULL;
    for (let i = 0; i === 0 || i < others.length; i += TOGETHER) {
      const to = late && i + TOGETHER < others.length ? WORKSPACE : target;
      add(sum, others.slice(i, i + TOGETHER), to, count);
      sum = to;
    }
  }
}
