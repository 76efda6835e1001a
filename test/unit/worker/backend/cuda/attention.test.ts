import { expect } from "chai";
import { CudaBackend } from "../../../../../worker/backend/cuda/cuda-backend.ts";
import { CudaLauncher } from "../../../../../worker/backend/cuda/cuda-launcher.ts";
import { findDevice } from "../../../../../worker/backend/cuda/device.ts";
import { bindDriver } from "../../../../../worker/backend/cuda/driver.ts";
import {
  attentionHalfKernels,
  attentionKernels,
} from "../../../../../worker/backend/cuda/kernels/attention.ts";
import type { Launcher } from "../../../../../worker/backend/cuda/launcher.ts";
import { openCudaLibraries } from "../../../../../worker/backend/cuda/libraries.ts";
import { Modules } from "../../../../../worker/backend/cuda/modules.ts";
import type { HeadSizes } from "../../../../../worker/backend/kernels.ts";
import { pseudoRandom, runOp, type Tensor } from "../../../../support/conformance.ts";
import { ok } from "../../../../support/cuda-calls.ts";
import { lookAlike } from "../../../../support/look-alike.ts";
import { LookAlikeDevice } from "../../../../support/look-alike-device.ts";

lookAlike();

const blas: Launcher["blas"] = {
  multiply() {
    throw new Error("attention multiplies by itself");
  },
};

/** A launcher that keeps the names of what it would launch. */
function recorder(computeCapability: number, maxSharedBytes: number) {
  const names: string[] = [];
  const launcher: Launcher = {
    computeCapability,
    multiprocessors: 1,
    maxSharedBytes,
    kernel: (module, name, kinds) => {
      return (_grid, _threads, sharedBytes, ...args) => {
        expect(args.length, name).to.equal(kinds.length);
        expect(sharedBytes, name).to.be.at.most(maxSharedBytes);
        names.push(`${module} ${name}`);
      };
    },
    blas,
    scratch: { address: 256, bytes: 1 << 20 },
    scalars: 0,
    copy: () => undefined,
    zero: () => undefined,
  };
  return { names, launcher };
}

const KIB = 1024;

describe("attention of the cuda backend", () => {
  describe("takes tensor cores for bfloat16 where device, heads and addresses are made for them", () => {
    for (const [title, capability, n, address, kernel] of [
      ["heads of 64", 80, 64, 512, "attention_tensor rm_attention_tensor_64"],
      ["heads of 16", 90, 16, 512, "attention_tensor rm_attention_tensor_64"],
      ["heads of 80", 90, 80, 512, "attention_tensor rm_attention_tensor_128"],
      ["heads of 128", 120, 128, 512, "attention_tensor rm_attention_tensor_128"],
      ["heads of 144", 90, 144, 512, "attention rm_attention_256_bf16"],
      ["heads of 24", 90, 24, 512, "attention rm_attention_64_bf16"],
      ["operands between vectors", 90, 64, 520, "attention rm_attention_64_bf16"],
      ["a device before them", 75, 128, 512, "attention rm_attention_128_bf16"],
    ] as const) {
      it(`${title}: ${kernel}`, () => {
        const { names, launcher } = recorder(capability, 96 * KIB);
        const kernels = attentionHalfKernels(launcher);
        kernels.attention(512, 512, address, 512, 0, 1, 3, 1, 1, n, 1, 0, 1);
        expect(names).to.deep.equal([kernel]);
      });
    }
  });

  it("keeps to the shared memory of a Turing, in smaller tiles if need be", () => {
    const { names, launcher } = recorder(75, 64 * KIB);
    const kernels = attentionKernels(launcher);
    for (const n of [1, 64, 65, 128, 129, 256, 257, 512]) {
      kernels.attention(512, 512, 512, 512, 0, 1, 3, 1, 1, n, 1, 0, 1);
      kernels.attentionGrad(512, 512, 512, 512, 512, 512, 512, 512, 512, 1, 3, 1, 1, n, 1, 0, 1);
    }
    const dq = names.filter((name) => name.includes("_dq_"));
    expect(dq.map((name) => /_(\d+)_f32/.exec(name)?.[1])).to.deep.equal([
      "64",
      "64",
      "128",
      "256",
      "256",
      "256",
      "512",
      "512",
    ]);
  });

  it("forms no D where only the gradient of values is asked for", () => {
    const { names, launcher } = recorder(90, 96 * KIB);
    attentionKernels(launcher).attentionGrad(1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 3, 1, 1, 8, 1, 0, 1);
    expect(names).to.deep.equal(["attention_grad rm_attention_dkv_64_f32"]);
  });

  it("says how much one key-value head needs where even that is too much", () => {
    const { launcher } = recorder(90, 96 * KIB);
    const kernels = attentionKernels(launcher);
    const sizes: HeadSizes = [1, 2 ** 18, 4, 1, 8, 4, 0, 1];
    expect(() => kernels.attentionGrad(4, 4, 4, 4, 4, 4, 4, 4, 4, ...sizes)).to.throw(
      "cuda backend: attentionGrad over 262144 tokens and 4 query heads to a key-value head keeps 4194304 bytes where 1048576 are; use shorter sequences",
    );
  });

  describe("on the look-alike", () => {
    let device: LookAlikeDevice;
    beforeEach(() => {
      device = new LookAlikeDevice();
    });
    afterEach(() => device.close());

    for (const [precision, kernelsOf] of [
      ["float32", attentionKernels],
      ["bfloat16", attentionHalfKernels],
    ] as const) {
      it(`has the same ${precision} gradients by key-value heads as of all of them at once`, () => {
        // Query heads 2 to 7 of groups of 4: two of the first key-value head, four of the second.
        const sizes: HeadSizes = [2, 35, 6, 2, 16, 4, 2, 1];
        const [B, T, H, KV, n] = sizes;
        const bytes = precision === "float32" ? 4 : 2;
        const values = (count: number, salt: number): bigint => {
          const x = Float32Array.from({ length: count }, (_, i) => pseudoRandom(i, salt));
          return device.upload(
            bytes === 4 ? x : new Uint16Array(x.buffer).filter((_, i) => i % 2 === 1),
          );
        };
        const [queries, keys] = [B * T * H * n, B * T * KV * n];
        const [dOut, q, o] = [values(queries, 1), values(queries, 2), values(queries, 3)];
        const [k, v] = [values(keys, 4), values(keys, 5)];
        const lse = device.upload(new Float32Array(B * T * H).fill(3));
        const all = gradients(4 * B * T * H);
        expect(all.some((word) => word !== 0)).to.equal(true);
        // D of four heads of one batch, and not of two.
        expect(gradients(4 * T * 4)).to.deep.equal(all);

        function gradients(scratchBytes: number): number[] {
          const libraries = openCudaLibraries();
          const driver = bindDriver(libraries.driver);
          const found = findDevice(driver, "");
          const stream = device.stream();
          const modules = new Modules(driver, found.computeCapability);
          const launcher = new CudaLauncher({
            driver,
            device: found,
            modules,
            stream: Number(stream),
            blas,
            scratch: { address: Number(device.alloc(scratchBytes)), bytes: scratchBytes },
            scalars: 0,
          });
          const outputs = [queries, keys, keys].map((count) => device.alloc(count * bytes));
          const [dq = 0n, dk = 0n, dv = 0n] = outputs;
          const operands = [dOut, q, k, v, o, lse, dq, dk, dv].map(Number);
          kernelsOf(launcher).attentionGrad(...(operands as Operands), ...sizes);
          ok(device.cuda.cuStreamSynchronize(stream));
          const words = outputs.flatMap((output, i) => [
            ...device.ints(output, ((i === 0 ? queries : keys) * bytes) / 4),
          ]);
          modules.dispose();
          return words;
        }
      });
    }
  });

  describe("on the look-alike, with a key that is not a number", () => {
    for (const [title, dtype, maxCapability] of [
      ["float32", "float32", 75],
      ["bfloat16", "bfloat16", 75],
      ["bfloat16 on tensor cores", "bfloat16", 90],
    ] as const) {
      it(`lets it reach the queries that see it, and no others, in ${title}`, () => {
        const backend = new CudaBackend({ maxCapability });
        try {
          const [T, n, bad] = [150, 16, 71];
          const plain: Tensor = { shape: [1, T, n], dtype, values: (i) => pseudoRandom(i) };
          const keys: Tensor = {
            ...plain,
            values: (i) => (i === n * bad ? Number.NaN : pseudoRandom(i, 1)),
          };
          const [o = [], lse = []] = runOp(backend, {
            ...{ op: "attentionWithStats", title: "", tolerance: 0, alignment: 256 },
            inputs: [plain, keys, plain],
            outputs: [plain, { shape: [1, T, 1] }],
            attrs: { heads: 1, kvHeads: 1, headDim: n, causal: 1, headAxes: 0, kvHeadAxes: 0 },
          });
          const seeing = Array.from({ length: T }, (_, t) => t >= bad);
          expect([...lse].map(Number.isNaN)).to.deep.equal(seeing);
          expect([...o].map(Number.isNaN)).to.deep.equal(
            seeing.flatMap((sees) => Array.from({ length: n }, () => sees)),
          );
        } finally {
          backend.close();
        }
      });
    }
  });
});

type Operands = [number, number, number, number, number, number, number, number, number];
