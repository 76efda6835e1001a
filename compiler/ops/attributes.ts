import { InvalidArgumentError } from "../../shared/errors.ts";
import type { Attrs } from "./op.ts";

// Attributes of a model's ops come from users: what is missing or odd is theirs to mend.

/** Attribute `name` as a whole number. @throws InvalidArgumentError when it is missing, no whole number or out of range. */
export function wholeNumber(
  op: string,
  attrs: Attrs,
  name: string,
  range: { readonly min: number; readonly max?: number },
): number {
  const { min, max = Number.MAX_SAFE_INTEGER } = range;
  const value = attrs[name];
  if (value === undefined || !Number.isSafeInteger(value) || value < min || value > max) {
    const wanted = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
    throw new InvalidArgumentError(
      `${op}: attribute ${name} must be a whole number ${wanted}, got ${value}`,
    );
  }
  return value;
}

/** Attribute `name` as a finite number. @throws InvalidArgumentError when it is missing, not finite or below `min`. */
export function finiteNumber(op: string, attrs: Attrs, name: string, min: number): number {
  const value = attrs[name];
  if (value === undefined || !Number.isFinite(value) || value < min) {
    throw new InvalidArgumentError(
      `${op}: attribute ${name} must be a finite number of at least ${min}, got ${value}`,
    );
  }
  return value;
}

/** Attribute `name`, 0 or 1, as a boolean. @throws InvalidArgumentError for anything else. */
export function flag(op: string, attrs: Attrs, name: string): boolean {
  return wholeNumber(op, attrs, name, { min: 0, max: 1 }) === 1;
}
