import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { anyPath } from "../../../coordinator/data/paths.ts";
import { resolveExportFolder } from "../../../coordinator/weights/export-folder.ts";
import { makeFolder, writeConfig } from "../../../coordinator/weights/hugging-face-output.ts";
import { huggingFaceForm } from "../../../coordinator/weights/output-form.ts";
import { shardsToRead } from "../../../coordinator/weights/write-output.ts";
import { parseHuggingFaceConfig } from "../../../shared/hugging-face/config.ts";
import { huggingFaceTensors } from "../../../shared/hugging-face/names.ts";
import { requireJobSpec } from "../../../shared/job/resolve.ts";
import type { Placement } from "../../../shared/mesh/placement.ts";
import { sliceRuns } from "../../../shared/safetensors/box.ts";
import { SafetensorsWriter } from "../../../shared/safetensors/writer.ts";
import { withFolder } from "../../support/data.ts";
import { fixturePath } from "../../support/fixtures.ts";
import {
  copyCheckpoint,
  FIXTURE_MODEL,
  readJsonFile,
  readRaw,
  weightsProgram,
} from "../../support/hugging-face.ts";

const FIXTURE = fixturePath("hugging-face/llama");

describe("an export to Hugging Face", () => {
  it("has every tensor of the checkpoint that the model came from, byte by byte, whatever the ranks held", async function () {
    this.timeout(30_000);
    const theirs = await readRaw(join(FIXTURE, "model.safetensors"));
    const reordered = await readRaw(join(FIXTURE, "expected.safetensors"));
    const tensors = huggingFaceTensors(FIXTURE_MODEL);
    const parameters = tensors.map(({ parameter, shape }) => ({ name: parameter, shape }));
    const ours = new Map(
      tensors.map(({ name, parameter }) => [
        parameter,
        (reordered.get(parameter) ?? theirs.get(name))?.bytes ?? new Uint8Array(),
      ]),
    );
    const placement = fc.constantFrom<Placement>("R", "S0", "S1");
    await withFolder(async (folder) => {
      let first: Buffer | undefined;
      await fc.assert(
        fc.asyncProperty(
          fc.constantFrom<readonly [number, number]>([1, 1], [1, 2], [2, 4], [8, 1], [4, 2]),
          fc.tuple(placement, placement),
          fc.integer({ min: 1, max: 5000 }),
          async ([outer, inner], layout, pieceBytes) => {
            const mesh = {
              axes: [
                { name: "a", size: outer },
                { name: "b", size: inner },
              ],
            };
            const program = weightsProgram(parameters, mesh, (shape) =>
              layout.map((p) => (p === "S1" && shape.length === 1 ? "S0" : p)),
            );
            const form = huggingFaceForm(FIXTURE_MODEL);
            const path = join(folder, "model.safetensors");
            const writer = await SafetensorsWriter.create(path, form.specs, form.metadata);
            await Promise.all(
              shardsToRead(program).map(async ({ name, stored, intervals }) => {
                const shape = program.stored[stored]?.globalShape ?? [];
                const whole = ours.get(name) ?? new Uint8Array();
                const bytes = Buffer.concat(
                  [...sliceRuns(shape, intervals, 4)].map(({ tensorByte, length }) =>
                    whole.subarray(tensorByte, tensorByte + length),
                  ),
                );
                await form.write(writer, name, intervals, cutInPieces(bytes, pieceBytes));
              }),
            );
            await writer.commit();
            const got = await readRaw(path);
            expect([...got.keys()].sort()).to.deep.equal([...theirs.keys()].sort());
            for (const [name, { dtype, shape, bytes }] of theirs)
              expect(got.get(name), name).to.deep.equal({ dtype, shape, bytes });
            const file = await readFile(path);
            first ??= file;
            expect(file.equals(first), "the same bytes from every mesh").to.equal(true);
            expect(file.toString("latin1")).to.contain('"__metadata__": {"format": "pt"}');
          },
        ),
        { numRuns: 8 },
      );
    });
  });

  it("writes a configuration that says the same model, and keeps what it was told beside it", () =>
    withFolder(async (root) => {
      const config = parseHuggingFaceConfig(await readJsonFile(join(FIXTURE, "config.json")), "c");
      const folder = join(root, "out");
      await makeFolder(folder);
      await makeFolder(folder);
      await writeConfig(folder, config, 5);
      const written = await readJsonFile<Record<string, unknown>>(join(folder, "config.json"));
      expect(parseHuggingFaceConfig(written, "c")).to.deep.equal(config);
      expect(written).to.include({ bos_token_id: 1, max_position_embeddings: 64 });
    }));
});

function* cutInPieces(bytes: Uint8Array, size: number): Generator<Uint8Array, void, void> {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size);
}

describe("the folder of an export", () => {
  const data = { batchSize: 2, random: { seqLen: 8 } };
  const job = (model: object, output: object) => requireJobSpec({ model, data, output });

  it("may be new or there already, in a folder that is there", () =>
    withFolder(async (root) => {
      const policy = anyPath(root);
      for (const given of ["new", "."]) {
        const spec = job({ llama: {} }, { huggingFace: given });
        const { folder, faults } = await resolveExportFolder(spec, policy);
        expect(faults).to.deep.equal([]);
        expect(folder?.real).to.equal(given === "." ? root : join(root, given));
      }
      const { faults } = await resolveExportFolder(
        job({ llama: {} }, { huggingFace: "none/new" }),
        policy,
      );
      expect(faults.map(({ message }) => message)).to.deep.equal([
        '"none/new": its folder does not exist',
      ]);
    }));

  it("is neither the one that the model comes from nor where the other output goes", () =>
    withFolder(async (root) => {
      await copyCheckpoint("llama", join(root, "m"));
      const from = job({ huggingFace: { path: "m" } }, { huggingFace: "./m" });
      expect((await resolveExportFolder(from, anyPath(root))).faults).to.deep.equal([
        {
          path: "output.huggingFace",
          message: '"./m" is the folder that the model comes from; write to another one',
        },
      ]);
      const both = job({ llama: {} }, { huggingFace: "m", safetensors: "m/model.safetensors" });
      expect((await resolveExportFolder(both, anyPath(root))).faults).to.deep.equal([
        {
          path: "output.huggingFace",
          message:
            '"m" would get its weights where output.safetensors goes; write to another folder',
        },
      ]);
    }));
});
