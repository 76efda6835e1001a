import { join } from "node:path";
import { expect } from "chai";
import { anyPath } from "../../../coordinator/data/paths.ts";
import { HuggingFaceCheckpoint } from "../../../coordinator/weights/hugging-face-checkpoint.ts";
import { InitialWeights } from "../../../coordinator/weights/initial-weights.ts";
import { llamaGraph } from "../../../models/llama.ts";
import { fixturePath } from "../../support/fixtures.ts";
import {
  type CheckpointExpectation,
  numbersOf,
  readJsonFile,
  readRaw,
  weightsProgram,
} from "../../support/hugging-face.ts";
import { runForward } from "../../support/run-forward.ts";
import { relativeDistance } from "../../support/safetensors.ts";

/** The reference computes in float32, this in float64: some 1e-7 of a logit each. */
const LOGITS_TOL = 1e-5;

describe("logits of a Hugging Face checkpoint", () => {
  for (const name of ["llama", "llama-tied-shards"] as const) {
    it(`equal those of an independent forward pass: ${name}`, async () => {
      const folder = fixturePath("hugging-face");
      const { batch, seq } = await readJsonFile<CheckpointExpectation>(
        join(folder, name, "expected.json"),
      );
      const checkpoint = await HuggingFaceCheckpoint.open(name, anyPath(folder));
      const { model } = checkpoint.config;
      const graph = llamaGraph(model, seq, false);
      const program = weightsProgram(
        graph.parameters.map(({ name: parameter, dims }) => ({ name: parameter, shape: dims })),
        { axes: [{ name: "x", size: 1 }] },
        () => ["R"],
      );
      const weights = await InitialWeights.fromCheckpoint(checkpoint, program);
      const parameters = new Map<string, Float32Array>();
      for (const [stored, { name: parameter }] of program.stored.entries()) {
        const pieces: Uint8Array[] = [];
        for await (const piece of weights.read(stored, 0)) pieces.push(piece);
        const bytes = Buffer.concat(pieces);
        parameters.set(parameter, numbersOf({ dtype: "F32", shape: [], bytes }));
      }
      await weights.close();
      const data = await readRaw(join(folder, name, "data.safetensors"));
      const bytes = data.get("tokens")?.bytes ?? new Uint8Array();
      const tokens = new Int32Array(bytes.buffer).subarray(0, batch * seq);
      const wanted = (await readRaw(join(folder, name, "expected.safetensors"))).get("logits");
      if (wanted === undefined) throw new Error("no logits in the fixture");
      const logits = runForward(graph, parameters, { tokens });
      expect(logits.shape).to.deep.equal([batch, seq, model.vocab]);
      const got = Float32Array.from(logits.data);
      expect(relativeDistance(got, numbersOf(wanted))).to.be.at.most(LOGITS_TOL);
    });
  }
});
