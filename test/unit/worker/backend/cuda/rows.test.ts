import { expect } from "chai";
import { CudaBackend } from "../../../../../worker/backend/cuda/cuda-backend.ts";
import { CudaLauncher } from "../../../../../worker/backend/cuda/cuda-launcher.ts";
import { findDevice } from "../../../../../worker/backend/cuda/device.ts";
import { bindDriver } from "../../../../../worker/backend/cuda/driver.ts";
import {
  crossEntropyHalfKernels,
  crossEntropyKernels,
} from "../../../../../worker/backend/cuda/kernels/cross-entropy.ts";
import { decodeKernels } from "../../../../../worker/backend/cuda/kernels/decode.ts";
import { embeddingKernels } from "../../../../../worker/backend/cuda/kernels/embedding.ts";
import { normHalfKernels, normKernels } from "../../../../../worker/backend/cuda/kernels/norm.ts";
import { ropeHalfKernels, ropeKernels } from "../../../../../worker/backend/cuda/kernels/rope.ts";
import type { Launcher } from "../../../../../worker/backend/cuda/launcher.ts";
import { openCudaLibraries } from "../../../../../worker/backend/cuda/libraries.ts";
import { Modules } from "../../../../../worker/backend/cuda/modules.ts";
import { hostTable } from "../../../../../worker/backend/kernels.ts";
import { runOp, type Tensor } from "../../../../support/conformance.ts";
import { ok } from "../../../../support/cuda-calls.ts";
import { lookAlike } from "../../../../support/look-alike.ts";
import { LookAlikeDevice } from "../../../../support/look-alike-device.ts";

lookAlike();

const blas: Launcher["blas"] = {
  multiply() {
    throw new Error("kernels of rows multiply by themselves");
  },
};

/** A launcher that keeps the names of what it would launch. */
function recorder(): { names: string[]; launcher: Launcher } {
  const names: string[] = [];
  const launcher: Launcher = {
    ...{ computeCapability: 90, multiprocessors: 132, maxSharedBytes: 232448, blas, scalars: 0 },
    kernel: (_module, name, kinds) => {
      return (_grid, threads, _sharedBytes, ...args) => {
        expect(args.length, name).to.equal(kinds.length);
        expect(threads % 32, name).to.equal(0);
        names.push(name);
      };
    },
    scratch: { address: 1 << 20, bytes: 16 << 20 },
    copy: () => undefined,
    zero: () => undefined,
  };
  return { names, launcher };
}

/** Addresses as in compiled programs, and one between vectors. */
const [AT, BETWEEN] = [512, 516];

describe("kernels of rows of the cuda backend", () => {
  describe("keep a norm's rows in registers where they are whole vectors", () => {
    for (const [D, address, float32, bfloat16] of [
      [64, AT, "warp8", "warp8"],
      [1024, AT, "warp32", "warp32"],
      [4096, AT, "block16", "block16"],
      [16384, AT, "block32", "block32"],
      [16392, AT, "any", "any"],
      [1028, AT, "block16", "any"],
      [1023, AT, "any", "any"],
      [4096, BETWEEN, "any", "any"],
    ] as const) {
      it(`${D} features at ${address}: ${float32}, of bfloat16 ${bfloat16}`, () => {
        const { names, launcher } = recorder();
        for (const { norm, normGrad } of [normKernels(launcher), normHalfKernels(launcher)]) {
          norm(AT, AT, 0, address, 3, D, 1e-5);
          normGrad(0, AT, address, AT, AT, 0, 3, D, 1e-5);
        }
        expect(names).to.deep.equal([
          `rm_norm_${float32}_f32`,
          `rm_norm_grad_${float32}_f32`,
          `rm_norm_${bfloat16}_bf16`,
          `rm_norm_grad_${bfloat16}_bf16`,
        ]);
      });
    }
  });

  it("sum a gain's gradient in two stages, of a few rows in one", () => {
    const { names, launcher } = recorder();
    const { normGrad } = normKernels(launcher);
    normGrad(0, AT, AT, AT, AT, AT, 4096, 4096, 1e-5);
    normGrad(0, AT, AT, AT, AT, AT, 3, 4096, 1e-5);
    expect(names).to.deep.equal([
      "rm_norm_grad_block16_f32",
      "rm_norm_columns",
      "rm_norm_grad_block16_f32",
    ]);
  });

  it("turn whole vectors of pairs where heads and addresses are such", () => {
    const { names, launcher } = recorder();
    for (const { rope } of [ropeKernels(launcher), ropeHalfKernels(launcher)]) {
      for (const [headDim, x] of [
        [128, AT],
        [4, AT],
        [128, BETWEEN],
      ] as const) {
        rope(x, hostTable(new Float32Array(headDim / 2)), AT, 1, 5, 2 * headDim, headDim, 0, 1);
      }
    }
    expect(names.map((name) => name.replace("rm_rope_", ""))).to.deep.equal([
      "vector_f32",
      "vector_f32",
      "pairs_f32",
      "vector_bf16",
      "pairs_bf16",
      "pairs_bf16",
    ]);
  });

  it("give wide rows of logits a block, others a warp", () => {
    const { names, launcher } = recorder();
    for (const kernels of [crossEntropyKernels(launcher), crossEntropyHalfKernels(launcher)]) {
      for (const V of [1024, 1025]) {
        kernels.ceStats(AT, AT, AT, 7, V, 0);
        kernels.ceGrad(AT, AT, AT, AT, AT, 7, V, 0, 7);
      }
    }
    expect(names.map((name) => name.replace("rm_ce_", ""))).to.deep.equal(
      ["f32", "bf16"].flatMap((suffix) =>
        ["warp", "block"].flatMap((rows) => [`stats_${rows}_${suffix}`, `grad_${rows}_${suffix}`]),
      ),
    );
  });

  it("attend to caches by groups of heads, where features are whole vectors", () => {
    const { names, launcher } = recorder();
    const { attentionCached } = decodeKernels(launcher);
    for (const [H, n, at] of [
      [8, 128, AT],
      [32, 128, AT],
      [64, 128, AT],
      [32, 126, AT],
      [32, 128, BETWEEN],
    ] as const) {
      attentionCached(AT, AT, AT, AT, at, AT, H, 8, n, H / 8, 0, 5);
    }
    expect(names.map((name) => name.replace("rm_attention_cached_", ""))).to.deep.equal([
      "1",
      "4",
      "8",
      "any",
      "any",
    ]);
  });

  describe("of an embedding's gradient, with little scratch", () => {
    let device: LookAlikeDevice;
    beforeEach(() => {
      device = new LookAlikeDevice();
    });
    afterEach(() => device.close());

    // Whole numbers: sums are exact in any order.
    const [M, V, D, start] = [900, 24, 8, 5];
    const ids = Int32Array.from({ length: M }, (_, t) => (t % 3 === 0 ? 9 : (t * t) % 31));
    const dy = Float32Array.from({ length: M * D }, (_, i) => (i % 17) - 8);
    const expected = new Float32Array(V * D);
    dy.forEach((x, i) => {
      const row = (ids[Math.floor(i / D)] ?? -1) - start;
      const at = row * D + (i % D);
      if (row >= 0 && row < V) expected[at] = (expected[at] ?? 0) + x;
    });

    for (const [title, bytes] of [
      ["room for 10 rows and tokens at a time", 8192 + 16 * 10],
      ["room for 200", 8192 + 16 * 200],
      ["room for all", 1 << 20],
    ] as const) {
      it(`sum the same gradient, use it up and square it: ${title}`, () => {
        const driver = bindDriver(openCudaLibraries().driver);
        const found = findDevice(driver, "");
        const stream = device.stream();
        const modules = new Modules(driver, found.computeCapability);
        const launcher = new CudaLauncher({
          ...{ driver, device: found, modules, stream: Number(stream), blas, scalars: 0 },
          scratch: { address: Number(device.alloc(bytes)), bytes },
        });
        const kernels = embeddingKernels(launcher);
        const [dw, w] = [
          device.alloc(4 * V * D),
          device.upload(new Float32Array(V * D).fill(1000)),
        ];
        const [dyAt, idsAt] = [Number(device.upload(dy)), Number(device.upload(ids))];
        const sort = Number(device.alloc(4 * (V + 1 + M)));
        const squares = device.alloc(8);
        // Of the step's scalars plain SGD reads the fifth, its step size.
        const scalars = Number(device.upload(Float32Array.of(0, 0, 0, 1, 1, 0, 0, 0, 0, 0)));
        kernels.embeddingDw(dyAt, idsAt, Number(dw), M, V, D, start);
        kernels.sgdFromRows(dyAt, idsAt, Number(w), 0, M, V, D, start, 0, scalars, sort);
        kernels.sumSquaresFromRows(dyAt, idsAt, M, V, D, start, sort, Number(squares));
        ok(device.cuda.cuStreamSynchronize(stream));
        expect([...device.floats(dw, V * D)]).to.deep.equal([...expected]);
        expect([...device.floats(w, V * D)]).to.deep.equal([...expected].map((g) => 1000 - g));
        expect(new Float64Array(device.ints(squares, 2).buffer)[0]).to.equal(
          expected.reduce((sum, g) => sum + g * g, 0),
        );
        modules.dispose();
      });
    }
  });

  for (const dtype of ["float32", "bfloat16"] as const) {
    it(`tell a row of ${dtype} logits with one that is no number, and take classes at minus infinity`, () => {
      const backend = new CudaBackend();
      try {
        const V = 1500;
        const values = (i: number): number => {
          if (i % 2 === 0) return i === 8 ? Number.NaN : Number.NEGATIVE_INFINITY;
          return i < 2 * V ? 1 : Number.NEGATIVE_INFINITY;
        };
        const z: Tensor = { shape: [3, V], dtype, values };
        const [s = []] = runOp(backend, {
          ...{ op: "ceStats", title: "", tolerance: 0 },
          inputs: [z, { shape: [3], dtype: "int32", values: () => 7 }],
          outputs: [{ shape: [3, 3] }],
          attrs: { classes: V, classAxes: 0 },
        });
        expect(s[1]).to.be.NaN;
        expect([...s].slice(3, 6)).to.deep.equal([1, 750, 1]);
        expect([...s].slice(7)).to.deep.equal([0, Number.NEGATIVE_INFINITY]);
      } finally {
        backend.close();
      }
    });
  }
});
