import { InvalidArgumentError } from "../shared/errors.ts";
import type { InitSpec } from "../shared/program/program.ts";
import { nameHash } from "../shared/random/philox.ts";
import { addPosition, linear } from "./functions.ts";
import {
  apply,
  describe,
  drawName,
  Module,
  Parameter,
  positiveInteger,
  type SymbolicTensor,
} from "./trace.ts";

const ONES: InitSpec = { kind: "constant", value: 1 };
const ZEROS: InitSpec = { kind: "constant", value: 0 };

export interface LinearOptions {
  /** Defaults to false. */
  readonly bias?: boolean;
  /** A weight [out, in] of another module to share, such as an embedding's. */
  readonly weight?: Parameter;
}

/** y = x w^T + b for x [..., in]; weight [out, in] and bias [out] start uniform on +-1/sqrt(in). */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias?: Parameter;

  constructor(inFeatures: number, outFeatures: number, options: LinearOptions = {}) {
    super();
    positiveInteger(inFeatures, "Linear", "inFeatures");
    positiveInteger(outFeatures, "Linear", "outFeatures");
    const init: InitSpec = { kind: "uniform", bound: 1 / Math.sqrt(inFeatures) };
    this.weight = weightOf("Linear", options.weight, [outFeatures, inFeatures], init);
    if (options.bias === true) this.bias = new Parameter([outFeatures], init);
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    return linear(x, this.weight, this.bias);
  }
}

/** Row `id` of the weight [rows, features] for every id of an int32 tensor; starts uniform on +-1/sqrt(features). */
export class Embedding extends Module {
  readonly weight: Parameter;

  constructor(rows: number, features: number, options: { readonly weight?: Parameter } = {}) {
    super();
    positiveInteger(rows, "Embedding", "rows");
    positiveInteger(features, "Embedding", "features");
    const init: InitSpec = { kind: "uniform", bound: 1 / Math.sqrt(features) };
    this.weight = weightOf("Embedding", options.weight, [rows, features], init);
  }

  override forward(ids: SymbolicTensor): SymbolicTensor {
    return apply("embedding", [ids, this.weight]);
  }
}

/** Adds a learned vector for every position to x [batch, tokens, features]; as many tokens as positions, or fewer. */
export class PositionEmbedding extends Module {
  readonly weight: Parameter;

  constructor(positions: number, features: number) {
    super();
    positiveInteger(positions, "PositionEmbedding", "positions");
    positiveInteger(features, "PositionEmbedding", "features");
    const init: InitSpec = { kind: "uniform", bound: 1 / Math.sqrt(features) };
    this.weight = new Parameter([positions, features], init);
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    return addPosition(x, this.weight);
  }
}

/** x / sqrt(mean(x^2) + eps) * weight over the last dim; the weight starts at 1. */
export class RMSNorm extends Module {
  readonly weight: Parameter;
  readonly #eps: number;

  constructor(features: number, options: { readonly eps?: number } = {}) {
    super();
    positiveInteger(features, "RMSNorm", "features");
    this.#eps = checkedEps("RMSNorm", options.eps);
    this.weight = new Parameter([features], ONES);
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    return apply("rmsNorm", [x, this.weight], { eps: this.#eps });
  }
}

/** (x - mean) / sqrt(variance + eps) * weight + bias over the last dim; they start at 1 and 0. */
export class LayerNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly #eps: number;

  constructor(features: number, options: { readonly eps?: number } = {}) {
    super();
    positiveInteger(features, "LayerNorm", "features");
    this.#eps = checkedEps("LayerNorm", options.eps);
    this.weight = new Parameter([features], ONES);
    this.bias = new Parameter([features], ZEROS);
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    return apply("layerNorm", [x, this.weight, this.bias], { eps: this.#eps });
  }
}

/**
 * Sets elements to 0 with probability `rate` and makes the others larger by 1 / (1 - rate). Which ones depends on seed,
 * step, layer and place in the global tensor alone, so it is the same on every mesh.
 */
export class Dropout extends Module {
  readonly #rate: number;

  constructor(rate: number) {
    super();
    if (!(typeof rate === "number" && rate >= 0 && rate < 1)) {
      throw new InvalidArgumentError(
        `Dropout: rate must be at least 0 and below 1, got ${describe(rate)}`,
      );
    }
    this.#rate = rate;
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    if (this.#rate === 0) return x;
    const name = nameHash(drawName("dropout", [x]));
    return apply("dropout", [x], {
      rate: this.#rate,
      nameLow: name.low,
      nameHigh: name.high,
      // Set when the job is compiled: the graph knows neither its seed nor how its batch is cut.
      seedLow: 0,
      seedHigh: 0,
      microbatches: 1,
    });
  }
}

/** A weight of the layer's own, or a shared one that has its dims. */
function weightOf(
  layer: string,
  shared: Parameter | undefined,
  dims: readonly number[],
  init: InitSpec,
): Parameter {
  if (shared === undefined) return new Parameter(dims, init);
  if (!(shared instanceof Parameter)) {
    throw new InvalidArgumentError(
      `${layer}: weight must be a Parameter to share, got ${describe(shared)}`,
    );
  }
  if (shared.dims.join() !== dims.join()) {
    throw new InvalidArgumentError(
      `${layer}: the shared weight is [${shared.dims.join(", ")}], but the layer's is [${dims.join(", ")}]`,
    );
  }
  return shared;
}

function checkedEps(layer: string, eps = 1e-5): number {
  if (Number.isFinite(eps) && eps > 0) return eps;
  throw new InvalidArgumentError(`${layer}: eps must be a number above 0, got ${describe(eps)}`);
}
