import { expect } from "chai";
import { WebGpuBackend } from "../../worker/backend/gpujs/webgpu/webgpu-backend.ts";
import {
  expectAsReference,
  type ReferenceRun,
  runReference,
  runTitle,
} from "../support/reference-run.ts";

const CASES: readonly ReferenceRun[] = [
  { reference: "feedforward-sum", mesh: [1, 1], job: {} },
  { reference: "feedforward-mse", mesh: [1, 2], job: { gradientAccumulation: 3 } },
  { reference: "llama-clip", mesh: [1, 2], job: { sequenceParallel: true } },
];

/** Why the mode cannot be tried here. */
function missing(mode: string): string | undefined {
  if (mode === "webassembly") return undefined;
  try {
    new WebGpuBackend().close();
    return undefined;
  } catch (error) {
    return String(error);
  }
}

for (const [mode, device] of [
  ["webassembly", /^gpu\.js WebAssembly, C kernels with /],
  ["webgpu", /^gpu\.js WebGPU on /],
] as const) {
  describe(`rankmesh run --backend gpujs --device ${mode}, against the reference`, function () {
    this.timeout(300_000);
    const why = missing(mode);

    for (const run of CASES) {
      const title = `gives the losses, norms and weights of ${runTitle(run)}`;
      it(why === undefined ? title : `${title} (${why})`, async function () {
        if (why !== undefined) this.skip();
        const args = ["--backend", "gpujs", "--device", mode];
        const outcome = await runReference(run, { args, timeoutMs: 280_000 });
        expectAsReference(outcome);
        for (const rank of outcome.result.ranks) {
          expect(rank.backend).to.equal("gpujs");
          expect(rank.device).to.match(device);
        }
      });
    }
  });
}
