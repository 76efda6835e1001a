import type { StepScalars } from "../../shared/optimizer/step-scalars.ts";
import type { Attrs } from "./op.ts";

/**
 * Position in the sequence of the first of a rank's tokens: where its part of the sequence begins, part by part of `tokens`
 * each. With attribute `fromStep` the sequence is seen one token a step, and the position is the step.
 */
export function firstPosition(
  attrs: Attrs,
  scalars: StepScalars,
  part: { readonly index: number },
  tokens: number,
): number {
  return attrs["fromStep"] === 1 ? scalars.step : part.index * tokens;
}
