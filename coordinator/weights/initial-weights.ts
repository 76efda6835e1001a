import { type Fault, InvalidArgumentError, NotFoundError } from "../../shared/errors.ts";
import { shardIntervals } from "../../shared/mesh/placement.ts";
import type { Program } from "../../shared/program/program.ts";
import { quote } from "../../shared/quote.ts";
import { SafetensorsFile } from "../../shared/safetensors/reader.ts";
import type { ResolvedPath } from "../data/paths.ts";
import type { HuggingFaceCheckpoint } from "./hugging-face-checkpoint.ts";
import { readFloat32, type SourceTensor, sameValues } from "./source-tensor.ts";
import { tiedAliases, weightFaults } from "./weight-faults.ts";

interface Source {
  /** For errors. */
  readonly field: string;
  readonly tensors: ReadonlyMap<string, SourceTensor>;
  /** Tensors that must hold the same numbers. */
  readonly equal: readonly { readonly said: string; readonly pair: readonly SourceTensor[] }[];
  close(): Promise<void>;
}

/** What a program says of its parameters. */
export type ParameterLayout = Pick<Program, "stored" | "mesh">;

/** The files that a job's parameters are loaded from: hands each rank the slices that it holds. */
export class InitialWeights {
  readonly #source: Source;
  readonly #program: ParameterLayout;

  private constructor(source: Source, program: ParameterLayout) {
    this.#source = source;
    this.#program = program;
  }

  /**
   * One file with the model's own names. Reads the header only.
   * @throws InvalidArgumentError with all faults, when the file does not hold exactly the program's parameters
   */
  static async open(path: ResolvedPath, program: ParameterLayout): Promise<InitialWeights> {
    const file = await SafetensorsFile.open(path.real).catch((error: unknown) => {
      if (!(error instanceof InvalidArgumentError)) throw error;
      // The user knows the file by the name they gave it.
      const faults = error.faults.map(({ message }) => message.replaceAll(path.real, path.given));
      throw faultsAt(path.field, faults);
    });
    const faults = weightFaults(file.header, program.stored);
    if (faults.length > 0) {
      await file.close();
      throw faultsAt(
        path.field,
        faults.map((fault) => `${path.given}: ${fault}`),
      );
    }
    const source = (name: string): SourceTensor => ({ file, tensor: file.tensor(name) });
    const parameters = program.stored.filter(({ role }) => role === "parameter");
    const aliases = tiedAliases(file.header, parameters);
    return new InitialWeights(
      {
        field: path.field,
        tensors: new Map(parameters.map(({ name }) => [name, source(name)])),
        equal: aliases.map(([alias, name]) => ({
          said: `${path.given}: tensors ${quote(alias)} and ${quote(name)}`,
          pair: [source(alias), source(name)],
        })),
        close: () => file.close(),
      },
      program,
    );
  }

  /**
   * A checkpoint with the names and the order of rows of Hugging Face. It is closed with the weights.
   * @throws InvalidArgumentError when it does not hold exactly the program's parameters: its configuration has changed then
   */
  static async fromCheckpoint(
    checkpoint: HuggingFaceCheckpoint,
    program: ParameterLayout,
  ): Promise<InitialWeights> {
    const tensors = checkpoint.parameters;
    const parameters = program.stored.filter(({ role }) => role === "parameter");
    const isSame =
      parameters.length === tensors.size &&
      parameters.every(
        ({ name, globalShape }) => tensors.get(name)?.tensor.shape.join() === globalShape.join(),
      );
    if (!isSame) {
      await checkpoint.close();
      throw faultsAt(checkpoint.field, [
        `${checkpoint.given}: the checkpoint has changed since the job was checked; submit it again`,
      ]);
    }
    return new InitialWeights(
      {
        field: checkpoint.field,
        tensors,
        equal: checkpoint.tied,
        close: () => checkpoint.close(),
      },
      program,
    );
  }

  /** Faults that only the values show: tensors that a tied model takes for one and that differ. Reads those whole. */
  async valueFaults(): Promise<Fault[]> {
    const faults: Fault[] = [];
    for (const { said, pair } of this.#source.equal) {
      const [a, b] = pair;
      if (a === undefined || b === undefined || (await sameValues(a, b))) continue;
      const message = `${said} differ, and the model is tied: both are one weight in it; leave out the wrong one, or train the model untied`;
      faults.push({ path: this.#source.field, message });
    }
    return faults;
  }

  /**
   * The bytes of stored tensor `stored` that `rank` holds, in order, in pieces.
   * @throws NotFoundError when it is not a parameter
   */
  read(stored: number, rank: number): AsyncGenerator<Uint8Array, void, void> {
    const tensor = this.#program.stored[stored];
    const source = this.#source.tensors.get(tensor?.name ?? "");
    if (tensor?.role !== "parameter" || source === undefined) {
      throw new NotFoundError(
        tensor === undefined
          ? `the program stores tensors 0 to ${this.#program.stored.length - 1}, not ${stored}`
          : `${quote(tensor.name)} is a ${tensor.role}; only parameters are loaded`,
      );
    }
    const intervals = shardIntervals(tensor.globalShape, tensor.layout, this.#program.mesh, rank);
    return readFloat32(source, intervals);
  }

  async close(): Promise<void> {
    await this.#source.close();
  }
}

function faultsAt(path: string, messages: readonly string[]): InvalidArgumentError {
  return new InvalidArgumentError(messages.map((message) => ({ path, message })));
}
