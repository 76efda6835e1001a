import { InternalError } from "../../../../shared/errors.ts";
import type { Kernels } from "../../kernels.ts";
import type { Launch, Launcher } from "../launcher.ts";
import { addKernels } from "./add-n.ts";
import { biasKernels } from "./bias.ts";
import { blocksOf, STREAM_THREADS } from "./blocks.ts";

type Elementwise =
  | "unary"
  | "unaryGrad"
  | "binary"
  | "scale"
  | "swiglu"
  | "swigluDa"
  | "swigluDb"
  | "swigluGrad"
  | "round"
  | "widen"
  | keyof ReturnType<typeof biasKernels>
  | keyof ReturnType<typeof addKernels>;

/** Elements of one thread, as in map_elements.cuh and the casts of movement.cu. */
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
  const gate = (name: string, kinds: string): Launch =>
    l.kernel("swiglu", `rm_swiglu${name}_${suffix}`, kinds);
  const values = UNARY.map((name) => kernel(name, "aan"));
  const slopes = UNARY.map((name) => kernel(`${name}_grad`, "aaan"));
  const binaries = BINARY.map((name) => kernel(name, "aaan"));
  const scale = kernel("scale", "aand");
  const swiglu = gate("", "aaan");
  const swigluDa = gate("_da", "aaaan");
  const swigluDb = gate("_db", "aaan");
  const swigluGrad = gate("_grad", "aaaaan");
  const round = l.kernel("movement", "rm_round", "aan");
  const widen = l.kernel("movement", "rm_widen", "aan");
  const blocks = (n: number): number => blocksOf(n, ELEMENTS);

  return {
    ...biasKernels(l, suffix),
    ...addKernels(l, suffix),
    unary: (op, x, y, n) => at(values, op)(blocks(n), STREAM_THREADS, 0, x, y, n),
    unaryGrad: (op, dy, x, dx, n) => at(slopes, op)(blocks(n), STREAM_THREADS, 0, dy, x, dx, n),
    binary: (op, a, b, y, n) => at(binaries, op)(blocks(n), STREAM_THREADS, 0, a, b, y, n),
    scale: (x, y, n, factor) => scale(blocks(n), STREAM_THREADS, 0, x, y, n, factor),
    swiglu: (a, b, y, n) => swiglu(blocks(n), STREAM_THREADS, 0, a, b, y, n),
    swigluDa: (dy, a, b, da, n) => swigluDa(blocks(n), STREAM_THREADS, 0, dy, a, b, da, n),
    swigluDb: (dy, a, db, n) => swigluDb(blocks(n), STREAM_THREADS, 0, dy, a, db, n),
    swigluGrad: (dy, a, b, da, db, n) =>
      swigluGrad(blocks(n), STREAM_THREADS, 0, dy, a, b, da, db, n),
    round: (x, y, n) => round(blocks(n), STREAM_THREADS, 0, x, y, n),
    widen: (x, y, n) => widen(blocks(n), STREAM_THREADS, 0, x, y, n),
  };
}

function at(launches: readonly Launch[], code: number): Launch {
  const launch = launches[code];
  if (launch === undefined) throw new InternalError(`no elementwise op has code ${code}`);
  return launch;
}
