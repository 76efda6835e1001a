import { expect } from "chai";
import { planJob } from "../../coordinator/planning/plan-job.ts";
import type { JobSpecInput } from "../../shared/job/job-spec.ts";
import { requireJobSpec } from "../../shared/job/resolve.ts";
import { stepScalars } from "../../shared/optimizer/step-scalars.ts";
import type { ComputeInstruction, Instruction, Program } from "../../shared/program/program.ts";
import { fillStandardNormals } from "../../shared/random/normal.ts";
import { PhiloxStream } from "../../shared/random/philox.ts";
import type { Backend, LoadedProgram } from "../../worker/backend/backend.ts";

const SEED = 5;
const ALONE = { dataParallel: 1, tensorParallel: 1 };
const LLAMA = { dim: 32, layers: 2, heads: 4, kvHeads: 2, hidden: 40, vocab: 24 };
const TOKENS = { batchSize: 4, random: { seqLen: 6 } };

const JOBS: readonly (readonly [title: string, spec: JobSpecInput])[] = [
  [
    "a feed-forward network",
    {
      model: { feedForward: { dim: 16, hidden: 24 } },
      loss: "sum",
      optimizer: { adamw: {} },
      data: { batchSize: 4, random: {} },
    },
  ],
  ["a Llama", { model: { llama: LLAMA }, optimizer: { adamw: {} }, data: TOKENS }],
  [
    "a Llama with dropout, clipping and two microbatches",
    {
      model: { llama: { ...LLAMA, dropout: 0.3 } },
      optimizer: { adamw: {} },
      schedule: { linearWarmup: { steps: 3 } },
      gradientAccumulation: 2,
      clipGradNorm: 0.5,
      data: TOKENS,
    },
  ],
  [
    "a Llama in bfloat16",
    { model: { llama: LLAMA }, precision: "bf16", optimizer: { adamw: {} }, data: TOKENS },
  ],
];

/**
 * A backend that records what a stretch of a program launches, and replays it, computes what it computes launch by launch.
 *
 * @param replays how many recordings have been launched so far, where the backend can be asked
 */
export function describeRecordedSteps(
  title: string,
  make: () => Backend,
  replays?: () => number,
): void {
  describe(`steps recorded on the ${title} backend`, () => {
    for (const [model, spec] of JOBS) {
      it(`give bit for bit what single launches give, for ${model}`, () => {
        const [plain, recorded] = [false, true].map((record) =>
          withSteps(make(), spec, (steps) => {
            const before = replays?.() ?? 0;
            const losses = [0, 1, 2, 3].map((step) => steps.run(step, record));
            return { losses, state: steps.state(), launched: (replays?.() ?? 0) - before };
          }),
        );
        expect(recorded?.losses).to.deep.equal(plain?.losses);
        expect(new Set(plain?.losses).size, "different losses").to.equal(4);
        expect(recorded?.state.equals(plain?.state ?? Buffer.of())).to.equal(true);
        if (replays === undefined) return;
        expect(plain?.launched).to.equal(0);
        // The first of each kind of round launches plainly: it warms up libraries.
        expect(recorded?.launched).to.be.at.least(3);
      });

      it(`repeat: the same step three times from the same state, for ${model}`, () => {
        const states = withSteps(make(), spec, (steps) =>
          [0, 1, 2].map(() => {
            steps.reset();
            const loss = steps.run(1, true);
            return { loss, state: steps.state() };
          }),
        );
        const [first, ...others] = states;
        expect(first?.loss).to.satisfy(Number.isFinite);
        for (const { loss, state } of others) {
          expect(loss).to.equal(first?.loss);
          expect(state.equals(first?.state ?? Buffer.of())).to.equal(true);
        }
      });
    }
  });
}

function withSteps<T>(backend: Backend, spec: JobSpecInput, use: (steps: Steps) => T): T {
  try {
    const { program, idLimits } = planJob(requireJobSpec(spec), ALONE);
    const steps = new Steps(backend, program, idLimits);
    try {
      steps.reset();
      return use(steps);
    } finally {
      steps.loaded.dispose();
    }
  } finally {
    backend.close();
  }
}

/** Steps of a program of one rank, which has no collectives. */
class Steps {
  readonly loaded: LoadedProgram;
  readonly #program: Program;
  readonly #idLimits: Readonly<Record<string, number>>;
  readonly #body: readonly ComputeInstruction[];
  readonly #epilogue: readonly ComputeInstruction[];

  constructor(backend: Backend, program: Program, idLimits: Readonly<Record<string, number>>) {
    this.loaded = backend.load(program, 0);
    this.#program = program;
    this.#idLimits = idLimits;
    this.#body = computeOnly(program.body);
    this.#epilogue = computeOnly(program.epilogue);
  }

  /** Initial weights and moments. */
  reset(): void {
    for (const tensor of this.#program.stored) this.loaded.initialize(tensor, SEED);
  }

  /** One step on a batch of its own. @param record false: every stretch is a new array, which nothing has recorded */
  run(step: number, record: boolean): number {
    const program = this.#program;
    const stretch = (instructions: readonly ComputeInstruction[]) =>
      record ? instructions : [...instructions];
    for (const { name, dtype, slot } of program.inputs) {
      const { shape = [] } = program.slots[slot] ?? {};
      const n = shape.reduce((product, size) => product * size, 1);
      this.loaded.write(
        slot,
        dtype === "int32" ? this.#ids(name, n, step) : normals(name, n, step),
      );
    }
    for (let microbatch = 0; microbatch <= program.microbatches; microbatch++) {
      const section = microbatch < program.microbatches ? this.#body : this.#epilogue;
      const scalars = stepScalars(program.optimizer, program.schedule, step, microbatch);
      if (section.length > 0) this.loaded.run(stretch(section), scalars);
    }
    this.loaded.synchronize();
    const loss = new Float32Array(1);
    this.loaded.read(program.lossSlot, new Uint8Array(loss.buffer));
    return loss[0] ?? Number.NaN;
  }

  /** Bytes of everything that a step leaves for the next. */
  state(): Buffer {
    return Buffer.concat(
      this.#program.stored.map(({ slot }) => {
        const bytes = new Uint8Array(this.#program.slots[slot]?.sizeBytes ?? 0);
        this.loaded.read(slot, bytes);
        return bytes;
      }),
    );
  }

  #ids(name: string, n: number, step: number): Uint8Array {
    const stream = new PhiloxStream(step, name);
    const limit = this.#idLimits[name] ?? 1;
    return new Uint8Array(Int32Array.from({ length: n }, (_, i) => stream.word(i) % limit).buffer);
  }
}

function normals(name: string, n: number, step: number): Uint8Array {
  const values = new Float32Array(n);
  fillStandardNormals(values, { seed: step, name });
  return new Uint8Array(values.buffer);
}

function computeOnly(section: readonly Instruction[]): ComputeInstruction[] {
  return section.filter((instruction) => instruction.kind === "compute");
}
