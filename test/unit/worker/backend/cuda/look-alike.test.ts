import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import koffi from "koffi";
import { f32, i32, made, ok } from "../../../../support/cuda-calls.ts";
import { buildLookAlike, lookAlike } from "../../../../support/look-alike.ts";
import { LookAlikeDevice, ptx } from "../../../../support/look-alike-device.ts";

const [INVALID_VALUE, OUT_OF_MEMORY, NO_CONTEXT, NO_BINARY, INVALID_PTX, NEWER_PTX] = [
  1, 2, 201, 209, 218, 222,
];
const [INVALID_HANDLE, NOT_FOUND, LAUNCH_FAILED, LOST] = [400, 500, 719, 999];

const SOURCES = fileURLToPath(new URL("../../../../../../test/look-alike/", import.meta.url));
const PROBE = fileURLToPath(new URL("../../../../support/look-alike-probe.js", import.meta.url));

describe("the look-alike driver", () => {
  let device: LookAlikeDevice;
  before(buildLookAlike);
  beforeEach(() => {
    device = new LookAlikeDevice();
  });
  afterEach(() => device.close());

  describe("has memory that", () => {
    it("is NaN until somebody writes it, on the device and pinned", () => {
      expect([...device.floats(device.alloc(8), 2)]).to.deep.equal([Number.NaN, Number.NaN]);
      expect([...device.pinned(2).values]).to.deep.equal([Number.NaN, Number.NaN]);
    });

    it("is NaN again when it was freed, for kernels that come too late", () => {
      const { cuda } = device;
      const [x, y] = [device.upload(Float32Array.of(1)), device.upload(Float32Array.of(1))];
      ok(cuda.cuMemFree_v2(x));
      ok(device.launch("probe_axpy", [1, 1], [x, y, f32(1), 1n]));
      // The address is told, too: it is no memory any more.
      expect(cuda.cuCtxSynchronize()).to.equal(700);
      expect(lookAlike().heard().join()).to.match(/probe_axpy was given 0x.* as argument 0/);
    });

    it("is NaN in a block's shared memory, before each launch", () => {
      const [x, out] = [device.upload(new Float32Array(4)), device.alloc(48)];
      ok(device.launch("probe_async", [1, 1], [x, out, i32(2)], { shared: 48 }));
      expect(device.floats(out, 12)[11]).to.be.NaN;
    });

    it("is refused past its ends, to copies and fills", () => {
      const { cuda } = device;
      const x = device.alloc(16);
      const host = new Uint8Array(32);
      expect(cuda.cuMemcpyHtoD_v2(x, host, 17)).to.equal(INVALID_VALUE);
      expect(cuda.cuMemcpyHtoD_v2(x + 1n, host, 16)).to.equal(INVALID_VALUE);
      expect(cuda.cuMemcpyDtoH_v2(host, x - 1n, 4)).to.equal(INVALID_VALUE);
      expect(cuda.cuMemcpyDtoD_v2(x, x + 8n, 9)).to.equal(INVALID_VALUE);
      expect(cuda.cuMemcpyHtoDAsync_v2(x, host, 17, 0)).to.equal(INVALID_VALUE);
      expect(cuda.cuMemsetD8Async(x, 0, 17, 0)).to.equal(INVALID_VALUE);
      expect(cuda.cuMemsetD32Async(x, 0, 5, 0)).to.equal(INVALID_VALUE);
      expect(cuda.cuMemFree_v2(x + 8n)).to.equal(INVALID_VALUE);
      expect(cuda.cuMemAlloc_v2(new BigUint64Array(1), 0)).to.equal(INVALID_VALUE);
      ok(cuda.cuMemcpyHtoD_v2(x + 16n, host, 0));
      ok(cuda.cuMemFree_v2(x));
      expect(cuda.cuMemFree_v2(x)).to.equal(INVALID_VALUE);
      ok(cuda.cuMemFree_v2(0));
    });

    it("is 8 GiB, of which a context takes 300 MiB", () => {
      const { cuda } = device;
      const total = 2 ** 33;
      const used = (): number => {
        const [free, all] = [new BigUint64Array(1), new BigUint64Array(1)];
        ok(cuda.cuMemGetInfo_v2(free, all));
        expect(all[0]).to.equal(BigInt(total));
        return total - Number(free[0]);
      };
      expect(used()).to.equal(300 * 2 ** 20);
      const x = device.alloc(1000);
      // In pieces of 256 bytes.
      expect(used()).to.equal(300 * 2 ** 20 + 1024);
      expect(cuda.cuMemAlloc_v2(new BigUint64Array(1), total - 300 * 2 ** 20)).to.equal(
        OUT_OF_MEMORY,
      );
      ok(cuda.cuMemFree_v2(x));
      expect(used()).to.equal(300 * 2 ** 20);
    });
  });

  describe("answers on demand", () => {
    it("the n-th call of a function with a status, and only that", () => {
      const { fault, calls } = lookAlike();
      const before = calls("cuMemAlloc_v2");
      fault("cuMemAlloc_v2", 2, OUT_OF_MEMORY);
      const out = new BigUint64Array(1);
      const statuses = [1, 2, 3].map(() => device.cuda.cuMemAlloc_v2(out, 16));
      expect(statuses).to.deep.equal([0, OUT_OF_MEMORY, 0]);
      expect(calls("cuMemAlloc_v2") - before).to.equal(3);
    });

    it("the n-th call of any function", () => {
      const { cuda } = device;
      lookAlike().fault("*", 3, INVALID_VALUE);
      const out = new BigUint64Array(1);
      expect(cuda.cuStreamCreate(out, 1)).to.equal(0);
      expect(cuda.cuStreamSynchronize(out[0] ?? 0n)).to.equal(0);
      expect(cuda.cuStreamDestroy_v2(out[0] ?? 0n)).to.equal(INVALID_VALUE);
      expect(cuda.cuStreamDestroy_v2(out[0] ?? 0n)).to.equal(0);
    });

    it("all calls of a context after a fault that ends it, until the last one has released it", () => {
      const { cuda } = device;
      const x = device.alloc(16);
      lookAlike().fault("cuLaunchKernel", 1, LAUNCH_FAILED);
      expect(device.launch("probe_indices", [1, 1], [x])).to.equal(LAUNCH_FAILED);
      lookAlike().clear();
      expect(cuda.cuCtxSynchronize()).to.equal(LAUNCH_FAILED);
      expect(cuda.cuMemFree_v2(x)).to.equal(LAUNCH_FAILED);
      ok(cuda.cuDevicePrimaryCtxReset_v2(0));
      expect(cuda.cuMemFree_v2(x)).to.equal(INVALID_VALUE);
    });

    it("all calls, whatever their context, when the device is lost", () => {
      const { cuda } = device;
      lookAlike().fault("cuStreamCreate", 1, LOST);
      expect(cuda.cuStreamCreate(new BigUint64Array(1), 0)).to.equal(LOST);
      expect(cuda.cuDeviceGetCount(new Int32Array(1))).to.equal(LOST);
      expect(cuda.cuDevicePrimaryCtxReset_v2(0)).to.equal(LOST);
      // Until there is another in its place, on which nothing is.
      const before = lookAlike().leaks().length;
      lookAlike().clear();
      ok(cuda.cuDeviceGetCount(new Int32Array(1)));
      expect(before).to.be.above(0);
      expect(lookAlike().leaks()).to.deep.equal([]);
    });

    it("nothing more of pinned memory and handles that a context took with it", () => {
      const { cuda } = device;
      device.pinned(4);
      ok(cuda.cuMemHostAlloc(new BigUint64Array(1), 1 << 20, 0));
      ok(cuda.cuDevicePrimaryCtxReset_v2(0));
      expect(
        lookAlike()
          .leaks()
          .filter((line) => !line.startsWith("context")),
      ).to.deep.equal([]);
    });

    it("as the environment says: RANKMESH_LOOKALIKE_FAULTS", () => {
      // The process calls it twice before the four that it tells of.
      const faults = "cuMemAlloc_v2:3=2, cuMemAlloc_v2:5=lost";
      const { allocations } = probe({ RANKMESH_LOOKALIKE_FAULTS: faults });
      expect(allocations).to.deep.equal([OUT_OF_MEMORY, 0, LOST, LOST]);
    });
  });

  describe("lists what was not given back", () => {
    const added = (before: string[]): string[] => {
      const left = [...before];
      return lookAlike()
        .leaks()
        .filter((line) => {
          const at = left.indexOf(line);
          if (at >= 0) left.splice(at, 1);
          return at < 0;
        });
    };

    it("line by line, and nothing when all was", () => {
      const { cuda } = device;
      const before = lookAlike().leaks();
      const x = device.alloc(1000);
      const { address } = device.pinned(25);
      const [stream, event] = [device.stream(), device.event()];
      ok(cuda.cuStreamBeginCapture_v2(stream, 1));
      const graph = made((out) => cuda.cuStreamEndCapture(stream, out));
      const exec = made((out) => cuda.cuGraphInstantiateWithFlags(out, graph, 0));
      const handle = made((out) => cuda.cublasCreate_v2(out));
      const lines = added(before).map((line) => line.replace(/allocation \d+/, "allocation N"));
      expect(lines.sort()).to.deep.equal([
        "cuBLAS handle",
        "device memory of 1000 bytes on device 0, allocation N",
        "event",
        "executable graph",
        "graph",
        "pinned memory of 100 bytes, allocation N",
        "stream",
      ]);
      for (const status of [
        cuda.cuMemFree_v2(x),
        cuda.cuMemFreeHost(address),
        cuda.cuStreamDestroy_v2(stream),
        cuda.cuEventDestroy_v2(event),
        cuda.cuGraphDestroy(graph),
        cuda.cuGraphExecDestroy(exec),
        cuda.cublasDestroy_v2(handle),
      ]) {
        ok(status);
      }
      expect(added(before)).to.deep.equal([]);
    });

    it("with modules and contexts, as long as somebody holds them", () => {
      const { cuda } = device;
      expect(lookAlike().leaks())
        .to.include("module")
        .and.satisfy((lines: string[]) =>
          lines.some((line) => line.startsWith("context on device 0, retained ")),
        );
      ok(cuda.cuModuleUnload(device.module));
      expect(cuda.cuModuleUnload(device.module)).to.equal(INVALID_HANDLE);
      expect(lookAlike().leaks()).not.to.include("module");
    });

    it("to a file at the end of the process: RANKMESH_LOOKALIKE_LEAKS", () => {
      const folder = mkdtempSync(join(tmpdir(), "rankmesh-leaks-"));
      try {
        const file = join(folder, "leaks");
        probe({ RANKMESH_LOOKALIKE_LEAKS: file });
        const lines = readFileSync(file, "utf8").trim().split("\n");
        expect(
          lines.filter((line) => /^process \d+: device memory of 1048576 bytes/.test(line)),
        ).to.have.length(4);
        expect(
          lines.filter((line) => / context on device 0, retained 1 times$/.test(line)),
        ).to.have.length(1);
      } finally {
        rmSync(folder, { recursive: true });
      }
    });
  });

  describe("loads PTX", () => {
    const load = (text: string): number =>
      device.cuda.cuModuleLoadData(new BigUint64Array(1), text);

    it("whose kernels are those of its sources, parameter by parameter", () => {
      const cases: readonly (readonly [number, Record<string, string[]>, RegExp])[] = [
        [0, { probe_pack: [".u64", ".u64 .ptr .align 1"] }, /^$/],
        [
          INVALID_PTX,
          { probe_pack: [".u64"] },
          /probe_pack takes 1 parameters, but .*probe.cu has 2/,
        ],
        [
          INVALID_PTX,
          { probe_pack: [".u64", ".u32"] },
          /takes 4 bytes as parameter 1, but .*probe.cu has 8/,
        ],
        [INVALID_PTX, { no_such_kernel: [] }, /no_such_kernel has no CPU twin for target sm_75/],
      ];
      for (const [status, entries, heard] of cases) {
        expect(load(ptx(entries)), JSON.stringify(entries)).to.equal(status);
        expect(lookAlike().heard().join()).to.match(heard);
      }
    });

    it("of targets and versions that the device runs", () => {
      const entries = { probe_pack: [".u64", ".u64"] };
      expect(load(ptx(entries, { target: "sm_100" }))).to.equal(NO_BINARY);
      expect(load(ptx(entries, { version: "9.1" }))).to.equal(NEWER_PTX);
      expect(load("no PTX at all")).to.equal(INVALID_PTX);
      lookAlike().heard();
    });

    it("and tells its log what is wrong", () => {
      const log = Buffer.alloc(80);
      const [BUFFER, BYTES] = [5, 6];
      const values = BigUint64Array.of(koffi.address(log), 80n);
      const text = ptx({ no_such_kernel: [] });
      const out = new BigUint64Array(1);
      const options = Int32Array.of(BUFFER, BYTES);
      expect(device.cuda.cuModuleLoadDataEx(out, text, 2, options, values)).to.equal(INVALID_PTX);
      expect(log.toString()).to.match(
        /^PTX entry no_such_kernel has no CPU twin for target sm_75.*\0$/,
      );
      lookAlike().heard();
    });

    it("and knows of its kernels what PTX tells: threads at most, static shared memory", () => {
      const { cuda } = device;
      const text = ptx(
        { probe_pack: [".u64", ".u64"] },
        {
          directives: ".maxntid 64, 2, 1",
          body: ".shared .align 4 .b8 part[132];\n\t.shared .align 8 .b8 more[40];\n\tret;",
        },
      );
      const module = made((out) => cuda.cuModuleLoadData(out, text));
      const kernel = made((out) => cuda.cuModuleGetFunction(out, module, "probe_pack"));
      const attribute = (id: number): number => {
        const out = new Int32Array(1);
        ok(cuda.cuFuncGetAttribute(out, id, kernel));
        return out[0] ?? 0;
      };
      expect([0, 1, 6].map(attribute)).to.deep.equal([128, 172, 75]);
      const x = device.alloc(4096);
      const params = BigUint64Array.of(
        ...[x, x].map((value) => koffi.address(BigUint64Array.of(value))),
      );
      expect(cuda.cuLaunchKernel(kernel, 1, 1, 1, 129, 1, 1, 0, 0, params, null)).to.equal(
        INVALID_VALUE,
      );
      // 48 KiB are for both.
      expect(cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 49152 - 171, 0, params, null)).to.equal(
        INVALID_VALUE,
      );
      expect(cuda.cuModuleGetFunction(new BigUint64Array(1), module, "probe_warp")).to.equal(
        NOT_FOUND,
      );
    });
  });

  describe("is a device of", () => {
    it("compute capability 7.5, with a name, a UUID and a bus", () => {
      const answers = probe({});
      expect(answers).to.deep.include({
        beforeInit: 3,
        init: 0,
        withoutContext: NO_CONTEXT,
        devices: 1,
      });
      expect(answers).to.deep.include({
        capability: 75,
        shared: 65536,
        total: 2 ** 33,
        context: 300 * 2 ** 20,
      });
      expect(answers.uuid).to.equal("a0a1a2a3a4a5a6a7a8a9aaabacadae00");
      expect(answers.loads).to.deep.equal({
        sm_75: 0,
        sm_80: NO_BINARY,
        sm_90: NO_BINARY,
        sm_90a: NO_BINARY,
      });
      expect(answers.code).to.deep.equal([750]);
      const { cuda } = device;
      const text = Buffer.alloc(64);
      ok(cuda.cuDeviceGetName(text, 64, 0));
      expect(text.toString()).to.match(/^CUDA look-alike on the CPU\0/);
      ok(cuda.cuDeviceGetPCIBusId(text, 64, 0));
      expect(text.toString()).to.match(/^0000:01:00\.0\0/);
    });

    it("what the environment says, and then runs that target's code", () => {
      const ampere = probe({
        RANKMESH_LOOKALIKE_CC: "8.0",
        RANKMESH_LOOKALIKE_MEMORY: String(303 * 2 ** 20),
      });
      expect(ampere).to.deep.include({ capability: 80, shared: 166912, total: 303 * 2 ** 20 });
      expect(ampere.loads).to.deep.equal({
        sm_75: 0,
        sm_80: 0,
        sm_90: NO_BINARY,
        sm_90a: NO_BINARY,
      });
      expect(ampere.code).to.deep.equal([750, 800]);
      expect(ampere.allocations).to.deep.equal([0, 0, 0, OUT_OF_MEMORY]);
      const hopper = probe({ RANKMESH_LOOKALIKE_CC: "9.0", RANKMESH_LOOKALIKE_DEVICES: "3" });
      expect(hopper).to.deep.include({ capability: 90, shared: 232448, devices: 3 });
      expect(hopper.uuid).to.match(/02$/);
      expect(hopper.loads).to.deep.equal({ sm_75: 0, sm_80: 0, sm_90: 0, sm_90a: 0 });
      expect(hopper.code).to.deep.equal([750, 800, 800]);
    });
  });

  // The check of prototypes, numbers and structures against NVIDIA's own header.
  const header = ["/usr/local/cuda/include", "/usr/local/cuda-13.0/include"].find((folder) =>
    existsSync(join(folder, "cuda.h")),
  );
  (header === undefined ? it.skip : it)("has the prototypes of cuda.h", function () {
    this.timeout(300_000);
    const prototypes = readdirSync(join(SOURCES, "driver"))
      .map((name) => readFileSync(join(SOURCES, "driver", name), "utf8"))
      .flatMap((text) => [...text.matchAll(/^LOOK_ALIKE_API (CUresult CUDAAPI cu\w+\([^)]*\))/gm)])
      .map(([, prototype = ""]) => prototype)
      // Of drivers before CUDA 13: no longer declared.
      .filter((prototype) => !prototype.includes(" cuEventElapsedTime("));
    expect(prototypes).to.have.length.above(60);
    const check = (declared: readonly string[]): { status: number | null; stderr: string } => {
      const flags = ["-std=gnu++20", "-fsyntax-only", "-isystem", header ?? "", "-x", "c++", "-"];
      const types = `#define LOOK_ALIKE_REAL_CUDA_H\n#include "${join(SOURCES, "driver/cuda_types.h")}"\n`;
      const input = types + declared.map((one) => `extern "C" ${one};\n`).join("");
      return spawnSync("g++", flags, { input, encoding: "utf8" });
    };
    const { status, stderr } = check(prototypes);
    expect(status, stderr).to.equal(0);
    expect(check(["CUresult CUDAAPI cuMemFree_v2(int x)"]).stderr).to.match(
      /conflicting declaration/,
    );
  });
});

interface Answers {
  readonly uuid: string;
  readonly loads: Readonly<Record<string, number>>;
  readonly code: readonly number[];
  readonly allocations: readonly number[];
}

/** What a process with a look-alike of that environment is answered; this process's own has no say. */
function probe(env: Readonly<Record<string, string>>): Answers {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^RANKMESH_LOOKALIKE_/.test(name),
  );
  const { status, stdout, stderr } = spawnSync(process.execPath, [PROBE], {
    env: { ...Object.fromEntries(inherited), ...lookAlike().env, ...env },
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`${PROBE} ended with ${status}: ${stderr}`);
  return JSON.parse(stdout) as Answers;
}
