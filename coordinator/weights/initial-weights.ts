import { InvalidArgumentError, NotFoundError } from "../../shared/errors.ts";
import { shardIntervals } from "../../shared/mesh/placement.ts";
import { didYouMean } from "../../shared/nearest.ts";
import type { Program, StoredTensor } from "../../shared/program/program.ts";
import { quote } from "../../shared/quote.ts";
import type { SafetensorsHeader } from "../../shared/safetensors/header.ts";
import { SafetensorsFile } from "../../shared/safetensors/reader.ts";
import type { ResolvedPath } from "../data/paths.ts";

/** Names listed in one fault. */
const MAX_LISTED = 8;

/** The file that a job's parameters are loaded from: hands each rank the slices that it holds. */
export class InitialWeights {
  readonly #file: SafetensorsFile;
  readonly #program: Program;

  private constructor(file: SafetensorsFile, program: Program) {
    this.#file = file;
    this.#program = program;
  }

  /**
   * Reads the file's header only.
   * @throws InvalidArgumentError with all faults, when the file does not hold exactly the program's parameters
   */
  static async open(path: ResolvedPath, program: Program): Promise<InitialWeights> {
    const file = await SafetensorsFile.open(path.real).catch((error: unknown) => {
      if (!(error instanceof InvalidArgumentError)) throw error;
      // The user knows the file by the name they gave it.
      const faults = error.faults.map(({ message }) => message.replaceAll(path.real, path.given));
      throw faultsAt(path.field, faults);
    });
    const faults = weightFaults(file.header, program.stored);
    if (faults.length === 0) return new InitialWeights(file, program);
    await file.close();
    throw faultsAt(
      path.field,
      faults.map((fault) => `${path.given}: ${fault}`),
    );
  }

  /**
   * The bytes of stored tensor `stored` that `rank` holds, in order, in pieces.
   * @throws NotFoundError when it is not a parameter
   */
  read(stored: number, rank: number): AsyncGenerator<Uint8Array, void, void> {
    const tensor = this.#program.stored[stored];
    if (tensor?.role !== "parameter") {
      throw new NotFoundError(
        tensor === undefined
          ? `the program stores tensors 0 to ${this.#program.stored.length - 1}, not ${stored}`
          : `${quote(tensor.name)} is a ${tensor.role}; only parameters are loaded`,
      );
    }
    const intervals = shardIntervals(tensor.globalShape, tensor.layout, this.#program.mesh, rank);
    return this.#file.readSlice(this.#file.tensor(tensor.name), intervals);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

/** What is wrong with a file of weights for these stored tensors: missing, of another shape or dtype, or too many. */
export function weightFaults(header: SafetensorsHeader, stored: readonly StoredTensor[]): string[] {
  const parameters = stored.filter((tensor) => tensor.role === "parameter");
  const names = new Set(parameters.map((tensor) => tensor.name));
  const faults: string[] = [];
  for (const { name, globalShape } of parameters) {
    const found = header.tensors.get(name);
    const wanted = `float32 [${globalShape.join(", ")}]`;
    if (found === undefined) {
      const spare = [...header.tensors.keys()].filter((other) => !names.has(other));
      faults.push(`has no tensor ${quote(name)} (${wanted})${didYouMean(name, spare)}`);
    } else if (found.dtype !== "F32") {
      faults.push(`tensor ${quote(name)} is ${found.dtype}, the model's is F32; convert it`);
    } else if (found.shape.join() !== globalShape.join()) {
      faults.push(
        `tensor ${quote(name)} is [${found.shape.join(", ")}], the model's is [${globalShape.join(", ")}]`,
      );
    }
  }
  const extra = [...header.tensors.keys()].filter((name) => !names.has(name));
  if (extra.length > 0) {
    const listed = extra.slice(0, MAX_LISTED).map(quote).join(", ");
    const more = extra.length > MAX_LISTED ? ` and ${extra.length - MAX_LISTED} more` : "";
    faults.push(
      `has ${extra.length} ${extra.length === 1 ? "tensor" : "tensors"} that the model does not: ${listed}${more}; ` +
        "leave out what is no parameter",
    );
  }
  return faults;
}

function faultsAt(path: string, messages: readonly string[]): InvalidArgumentError {
  return new InvalidArgumentError(messages.map((message) => ({ path, message })));
}
