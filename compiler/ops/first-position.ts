import type { StepScalars } from "../../shared/optimizer/step-scalars.ts";
import { wholeNumber } from "./attributes.ts";
import type { Attrs } from "./op.ts";

/** @throws InvalidArgumentError when attribute `context` is there and makes no sense */
export function checkContext(op: string, attrs: Attrs, max?: number): void {
  if (attrs["context"] === undefined) return;
  wholeNumber(op, attrs, "context", max === undefined ? { min: 1 } : { min: 1, max });
}

/**
 * Position in the sequence of the first of a rank's tokens: where its part of the sequence begins, part by part of `tokens`
 * each. With attribute `context` sequences of so many tokens are seen one token a step, one after the other.
 */
export function firstPosition(
  attrs: Attrs,
  scalars: StepScalars,
  part: { readonly index: number },
  tokens: number,
): number {
  const context = attrs["context"];
  return context === undefined ? part.index * tokens : scalars.step % context;
}
