import { InternalError } from "../../../../shared/errors.ts";
import type { Kernels } from "../../kernels.ts";
import type { Launch, Launcher } from "../launcher.ts";
import { blocksOf, STREAM_THREADS } from "./blocks.ts";

type Elementwise = "unary" | "unaryGrad" | "binary" | "scale";

/** Elements of one thread, as in elementwise.cu. */
const ELEMENTS = 8;

/** Names by code, as in worker/backend/cpu/native/elementwise.c. */
const UNARY = ["silu", "relu", "gelu", "tanh", "sigmoid", "gelu_tanh"];
const BINARY = ["mul", "add", "sub"];

export function elementwiseKernels(l: Launcher): Pick<Kernels, Elementwise> {
  return elementwise(l, "f32");
}

export function elementwiseHalfKernels(l: Launcher): Pick<Kernels, Elementwise> {
  return elementwise(l, "bf16");
}

function elementwise(l: Launcher, suffix: "f32" | "bf16"): Pick<Kernels, Elementwise> {
  const kernel = (name: string, kinds: string): Launch =>
    l.kernel("elementwise", `rm_${name}_${suffix}`, kinds);
  const values = UNARY.map((name) => kernel(name, "aan"));
  const slopes = UNARY.map((name) => kernel(`${name}_grad`, "aaan"));
  const binaries = BINARY.map((name) => kernel(name, "aaan"));
  const scale = kernel("scale", "aand");
  const blocks = (n: number): number => blocksOf(n, ELEMENTS);

  return {
    unary: (op, x, y, n) => at(values, op)(blocks(n), STREAM_THREADS, 0, x, y, n),
    unaryGrad: (op, dy, x, dx, n) => at(slopes, op)(blocks(n), STREAM_THREADS, 0, dy, x, dx, n),
    binary: (op, a, b, y, n) => at(binaries, op)(blocks(n), STREAM_THREADS, 0, a, b, y, n),
    scale: (x, y, n, factor) => scale(blocks(n), STREAM_THREADS, 0, x, y, n, factor),
  };
}

function at(launches: readonly Launch[], code: number): Launch {
  const launch = launches[code];
  if (launch === undefined) throw new InternalError(`no elementwise op has code ${code}`);
  return launch;
}
