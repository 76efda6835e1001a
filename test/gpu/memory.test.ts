import { expect } from "chai";
import { poll } from "../support/cli.ts";
import { programOf, scalarsOf } from "../support/conformance.ts";
import { ADD } from "../support/loaded-program-suite.ts";
import { runReference } from "../support/reference-run.ts";
import { holdingContext, makeBackend, RUN_ON_GPU } from "./cuda.ts";

const ARENA_BYTES = 64 << 20;
/** The driver takes a process's memory back a little after its end. */
const RETURN_MS = 20_000;

describe("device memory", () => {
  it("is all free again after a job of 4 ranks", () =>
    holdingContext(async (freeBytes) => {
      const before = freeBytes();
      const run = { reference: "feedforward-sum", mesh: [1, 4], job: {} } as const;
      await runReference(run, RUN_ON_GPU);
      await returned(freeBytes, before);
    }));

  it("is all free again after programs of this process, one after another", () =>
    holdingContext(async (freeBytes) => {
      const { program, instruction } = programOf(ADD);
      const memoryByKind = { activations: ARENA_BYTES };
      const runOnce = (): number => {
        const backend = makeBackend();
        const loaded = backend.load({ ...program, arenaBytes: ARENA_BYTES, memoryByKind }, 0);
        loaded.run([instruction], scalarsOf(ADD));
        loaded.synchronize();
        const free = freeBytes();
        loaded.dispose();
        backend.close();
        return free;
      };
      // The first may leave behind what driver and cuBLAS keep for a context.
      runOnce();
      const before = freeBytes();
      for (let i = 0; i < 3; i++) {
        const taken = before - runOnce();
        expect(taken).to.be.at.least(ARENA_BYTES + makeBackend().workspaceBytes);
      }
      await returned(freeBytes, before);
    }));

  it("that a backend asked for at most is its arena and its workspace", () => {
    const backend = makeBackend();
    const { program } = programOf(ADD);
    backend.load(program, 0).dispose();
    backend.close();
    expect(backend.memory.peakBytes).to.equal(program.arenaBytes + backend.workspaceBytes);
    expect(backend.memory.currentBytes).to.equal(0);
  });
});

async function returned(freeBytes: () => number, before: number): Promise<void> {
  await poll(
    () => (freeBytes() === before ? true : undefined),
    `${before} free bytes`,
    RETURN_MS,
    () => `${freeBytes()} are free`,
  );
}
