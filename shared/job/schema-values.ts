import { didYouMean } from "../nearest.ts";
import { quote } from "../quote.ts";
import type { AxisSize } from "./job-spec.ts";
import { isMap, mismatch, ownValue, plain, type Schema } from "./schema-types.ts";

/** Bounds of a number; a bound left out is not checked, but the number is always finite. */
interface NumberLimits {
  readonly min?: number;
  readonly above?: number;
  readonly below?: number;
  readonly max?: number;
}

export function finiteNumber(limits: NumberLimits = {}): Schema<number> {
  return numeric("a finite number", limits, Number.isFinite);
}

/** A whole number; without a larger `max`, one that a double holds exactly. */
export function integer(limits: NumberLimits = {}): Schema<number> {
  const bounded = { ...limits, max: limits.max ?? Number.MAX_SAFE_INTEGER };
  return numeric("an integer", bounded, Number.isInteger);
}

function numeric(
  kind: string,
  limits: NumberLimits,
  isKind: (value: number) => boolean,
): Schema<number> {
  const bounds: string[] = [];
  if (limits.min !== undefined) bounds.push(`at least ${limits.min}`);
  if (limits.above !== undefined) bounds.push(`above ${limits.above}`);
  if (limits.below !== undefined) bounds.push(`below ${limits.below}`);
  if (limits.max !== undefined) bounds.push(`at most ${limits.max}`);
  const expects = [kind, bounds.join(" and ")].filter((part) => part !== "").join(" ");
  return plain(expects, (value, path, faults) => {
    if (typeof value !== "number" || !isKind(value) || !isWithin(value, limits)) {
      return mismatch(value, expects, path, faults);
    }
    return value === 0 ? 0 : value; // -0 would survive into messages and reports
  });
}

function isWithin(value: number, limits: NumberLimits): boolean {
  return (
    value >= (limits.min ?? -Infinity) &&
    value <= (limits.max ?? Infinity) &&
    (limits.above === undefined || value > limits.above) &&
    (limits.below === undefined || value < limits.below)
  );
}

/** Text of `minBytes` to `maxBytes` bytes of UTF-8 without control characters, which would reach terminals and logs. */
export function text(maxBytes: number, minBytes = 1): Schema<string> {
  const expects = `a string of ${minBytes} to ${maxBytes} bytes`;
  return plain(expects, (value, path, faults) => {
    if (typeof value !== "string") return mismatch(value, expects, path, faults);
    // UTF-8 is never shorter than UTF-16 units, so a huge string is measured without walking it.
    const bytes = value.length > maxBytes ? value.length : Buffer.byteLength(value);
    if (bytes < minBytes || bytes > maxBytes) {
      faults.add(
        path,
        value.length === 0
          ? `is empty; must be ${expects}`
          : `is ${quote(value)}; must be ${expects}`,
      );
      return undefined;
    }
    if (/\p{Cc}/u.test(value)) {
      faults.add(path, `is ${quote(value)}; must have no control characters`);
      return undefined;
    }
    return value;
  });
}

/** One of a few words. */
export function choice<T extends string>(words: readonly T[]): Schema<T> {
  const expects = words.length === 1 ? words.join("") : `one of ${words.join(", ")}`;
  return plain(expects, (value, path, faults) => {
    const found = words.find((word) => word === value);
    if (found !== undefined) return found;
    if (typeof value !== "string") return mismatch(value, expects, path, faults);
    const hint = `; must be ${expects}${didYouMean(value, words, 1)}`;
    faults.add(path, `${quote(value)} is unknown${hint}`);
    return undefined;
  });
}

export function boolean(): Schema<boolean> {
  const expects = "true or false";
  return plain(expects, (value, path, faults) =>
    typeof value === "boolean" ? value : mismatch(value, expects, path, faults),
  );
}

/** `auto` or a number of ranks from 1 to `max`. A google.protobuf.Value on the wire. */
export function axisSize(max: number): Schema<AxisSize> {
  const expects = `auto or an integer from 1 to ${max}`;
  return asProtoValue(
    plain<AxisSize>(expects, (value, path, faults) => {
      if (value === "auto") return value;
      const isCount =
        typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= max;
      return isCount ? value : mismatch(value, expects, path, faults);
    }),
  );
}

/** `auto`, true or false. A google.protobuf.Value on the wire, where words for booleans pass too. */
export function autoOrBoolean(): Schema<"auto" | boolean> {
  const expects = "one of auto, true, false";
  return asProtoValue(
    plain<"auto" | boolean>(expects, (value, path, faults) => {
      if (value === "auto") return value;
      if (value === false || value === "false") return false;
      if (value === true || value === "true") return true;
      return mismatch(value, expects, path, faults);
    }),
  );
}

/** The same schema for a field that is a google.protobuf.Value in the message. */
function asProtoValue<T>(schema: Schema<T>): Schema<T> {
  return {
    ...schema,
    fromProto(value) {
      if (!isMap(value)) return undefined;
      // null stands for "not set" here; structs and lists pass through and are refused as what they are.
      for (const kind of ["numberValue", "stringValue", "boolValue", "structValue", "listValue"]) {
        const set = ownValue(value, kind);
        if (set !== undefined && set !== null) return set;
      }
      return undefined;
    },
    toProto(value) {
      if (typeof value === "number") return { numberValue: value };
      if (typeof value === "boolean") return { boolValue: value };
      return { stringValue: value };
    },
  };
}
