import { didYouMean } from "../nearest.ts";
import { quote } from "../quote.ts";
import type { FaultList, Path, Segment } from "./faults.ts";

/**
 * One entry of the schema table. Checks any JavaScript value (from YAML, JSON, a client's code or a decoded message) and
 * translates to and from the objects of proto-loader, so that files, wire and SDK share the one table.
 */
export interface Schema<T> {
  /** What a value must be, for errors: `a finite number above 0`. */
  readonly expects: string;
  /** The checked value with defaults in place of faulty parts, or undefined when nothing usable is left. Never throws. */
  check(value: unknown, path: Path, faults: FaultList): T | undefined;
  /** The value as a file would hold it, from a decoded message's field; undefined when it is not set. */
  fromProto(value: unknown): unknown;
  /** A message's field, from a value that has passed `check`. */
  toProto(value: unknown): unknown;
}

/** A key of a map: its schema, and what stands for it when it is left out. */
export interface Field<T> {
  readonly schema: Schema<T>;
  /** undefined: see `isRequired`. */
  readonly fallback: T | undefined;
  readonly isRequired: boolean;
}

export function required<T>(schema: Schema<T>): Field<T> {
  return { schema, fallback: undefined, isRequired: true };
}

export function optional<T>(schema: Schema<T>): Field<T> {
  return { schema, fallback: undefined, isRequired: false };
}

export function withDefault<T>(schema: Schema<T>, fallback: T): Field<T> {
  return { schema, fallback, isRequired: false };
}

/** Keys or choices of the job spec that this version can't serve, each with what to do instead. */
export type Later = Readonly<Record<string, string>>;

export function notAvailable(instead: string): string {
  return `is not available in this version; ${instead}`;
}

/** A schema of values that look the same in a file and in a message. */
export function plain<T>(expects: string, check: Schema<T>["check"]): Schema<T> {
  return { expects, check, fromProto: (value) => value ?? undefined, toProto: (value) => value };
}

/**
 * A schema whose checked value goes through one more step, for what spans several keys; `back` undoes its change of
 * form. A step that returns undefined has reported why.
 */
export function refined<A, B>(
  schema: Schema<A>,
  step: (value: A, path: Path, faults: FaultList) => B | undefined,
  back: (value: unknown) => unknown,
): Schema<B> {
  return {
    expects: schema.expects,
    check(value, path, faults) {
      const before = faults.count;
      const checked = schema.check(value, path, faults);
      // Over stand-ins the step would find faults that aren't the user's.
      return checked === undefined || faults.count > before
        ? undefined
        : step(checked, path, faults);
    },
    fromProto: (value) => schema.fromProto(value),
    toProto: (value) => schema.toProto(back(value)),
  };
}

/** A schema whose value, over stand-ins too, gets defaults that depend on other keys. What is filled in passes the same schema. */
export function withFallback<A, B extends A>(schema: Schema<A>, fill: (value: A) => B): Schema<B> {
  return {
    ...schema,
    check(value, path, faults) {
      const checked = schema.check(value, path, faults);
      return checked === undefined ? undefined : fill(checked);
    },
  };
}

/** Reports `value` as something else than what `expects` says. */
export function mismatch(
  value: unknown,
  expects: string,
  path: Path,
  faults: FaultList,
): undefined {
  const given =
    value === null
      ? "has no value"
      : `is ${typeof value === "string" ? "the string " : ""}${quote(value)}`;
  faults.add(path, `${given}; must be ${expects}`);
  return undefined;
}

export function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return (
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    !ArrayBuffer.isView(value)
  );
}

/** Own, set value of a key: nothing inherited, so that `constructor` or `__proto__` is never found by accident. */
export function ownValue(map: Readonly<Record<string, unknown>>, key: string): unknown {
  return Object.hasOwn(map, key) ? map[key] : undefined;
}

type Fields<T> = { readonly [K in keyof T]-?: Field<Exclude<T[K], undefined>> };
type KeysOfUnion<U> = U extends unknown ? keyof U & string : never;
type Choices<U> = {
  readonly [K in KeysOfUnion<U>]: Schema<Extract<U, Readonly<Record<K, unknown>>>[K]>;
};

/** A map with a fixed set of keys. */
export function object<T extends object>(fields: Fields<T>, later: Later = {}): Schema<T> {
  return mapOf<T>({ fields, choices: {}, later });
}

/** A map with exactly one of several keys. */
export function oneOf<U extends object>(choices: Choices<U>, later: Later = {}): Schema<U> {
  return mapOf<U>({ fields: {}, choices, later });
}

/** A map with a fixed set of keys and exactly one of several others beside them. */
export function objectWithChoice<T extends object, U extends object>(
  fields: Fields<T>,
  choices: Choices<U>,
  later: Later = {},
): Schema<T & U> {
  return mapOf<T & U>({ fields, choices, later });
}

interface MapTable {
  readonly fields: Readonly<Record<string, Field<unknown>>>;
  readonly choices: Readonly<Record<string, Schema<unknown>>>;
  readonly later: Later;
}

function mapOf<T>(table: MapTable): Schema<T> {
  const expects = describeMap(Object.keys(table.fields), Object.keys(table.choices));
  return {
    expects,
    // The one cast: every entry was checked by its own schema, and types of tables are tied to T by the makers above.
    check: (value, path, faults) => checkMap(table, expects, value, path, faults) as T | undefined,
    fromProto: (value) => (isMap(value) ? translate(table, value, "fromProto") : undefined),
    toProto: (value) => (isMap(value) ? translate(table, value, "toProto") : undefined),
  };
}

function describeMap(fields: readonly string[], choices: readonly string[]): string {
  if (choices.length > 0) {
    const others = fields.length > 0 ? `${listOf(fields)}, and ` : "";
    return `a map with ${others}exactly one of ${listOf(choices)}`;
  }
  return fields.length > 0 ? `a map of ${listOf(fields)}` : "an empty map";
}

function checkMap(
  table: MapTable,
  expects: string,
  value: unknown,
  path: Path,
  faults: FaultList,
): Record<string, unknown> | undefined {
  // `plan:` or `stream:` with nothing behind it is YAML's null, and means an empty map.
  const given = value === null ? {} : value;
  if (!isMap(given)) return mismatch(value, expects, path, faults);
  const isFullyKnown = reportUnknownKeys(table, given, path, faults);
  const result: Record<string, unknown> = {};
  let isUsable = true;
  for (const [key, field] of Object.entries(table.fields)) {
    const raw = ownValue(given, key);
    const at = [...path, key];
    if (raw === undefined && field.isRequired)
      faults.add(at, `is missing; must be ${field.schema.expects}`);
    const checked = raw === undefined ? undefined : field.schema.check(raw, at, faults);
    const resolved = checked ?? field.fallback;
    if (resolved !== undefined) result[key] = resolved;
    else if (field.isRequired) isUsable = false;
  }
  if (Object.keys(table.choices).length > 0) {
    // A misspelt choice is reported as an unknown key, with the name it is near to; once is enough.
    const isMisspelt = !isFullyKnown && Object.keys(table.fields).length === 0;
    const choice = checkChoice(table, given, path, faults, isMisspelt);
    if (choice === undefined) return undefined;
    result[choice.key] = choice.value;
  }
  return isUsable ? result : undefined;
}

function checkChoice(
  table: MapTable,
  given: Readonly<Record<string, unknown>>,
  path: Path,
  faults: FaultList,
  isMisspelt: boolean,
): { key: string; value: unknown } | undefined {
  const names = Object.keys(table.choices);
  const chosen = names.filter((name) => ownValue(given, name) !== undefined);
  const isLater = Object.keys(table.later).some((name) => ownValue(given, name) !== undefined);
  if (chosen.length === 0 && !isLater && !isMisspelt) {
    faults.add(path, `has none of ${listOf(names)}; must have exactly one of them`);
  }
  if (chosen.length > 1) faults.add(path, `has ${listOf(chosen)}; must have exactly one of them`);
  let result: { key: string; value: unknown } | undefined;
  for (const key of chosen) {
    const value = table.choices[key]?.check(given[key], [...path, key], faults);
    if (value !== undefined) result = { key, value };
  }
  return chosen.length === 1 ? result : undefined;
}

/** Returns whether there was none. */
function reportUnknownKeys(
  table: MapTable,
  given: Readonly<Record<string, unknown>>,
  path: Path,
  faults: FaultList,
): boolean {
  const before = faults.count;
  const known = [...Object.keys(table.fields), ...Object.keys(table.choices)];
  for (const key of Object.keys(given)) {
    if (given[key] === undefined || known.includes(key)) continue;
    const later = Object.hasOwn(table.later, key) ? table.later[key] : undefined;
    if (later !== undefined) {
      faults.add([...path, key], notAvailable(later));
      continue;
    }
    const hint =
      didYouMean(key, known, 1) ||
      (known.length > 0 ? `; known keys: ${listOf(known)}` : "; it takes no keys");
    faults.add([...path, key], `unknown key${hint}`);
    if (faults.full) break;
  }
  return faults.count === before;
}

/** The known keys of a message, each translated; everything else (oneof markers of proto-loader) is left behind. */
function translate(
  table: MapTable,
  value: Readonly<Record<string, unknown>>,
  direction: "fromProto" | "toProto",
): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  const put = (key: string, schema: Schema<unknown>): void => {
    const raw = ownValue(value, key);
    if (raw === undefined || raw === null) return;
    const translated = schema[direction](raw);
    if (translated !== undefined) result[key] = translated;
  };
  for (const [key, field] of Object.entries(table.fields)) put(key, field.schema);
  for (const [key, schema] of Object.entries(table.choices)) put(key, schema);
  return result;
}

/** A list; on the wire an empty one can't be told from none. */
export function list<T>(
  item: Schema<T>,
  limits: { readonly min: number; readonly max: number; readonly what: string },
): Schema<readonly T[]> {
  const expects =
    limits.min === limits.max
      ? `a list of ${limits.min} ${limits.what}`
      : `a list of ${limits.min} to ${limits.max} ${limits.what}`;
  return {
    expects,
    check(value, path, faults) {
      if (!Array.isArray(value)) return mismatch(value, expects, path, faults);
      if (value.length < limits.min || value.length > limits.max) {
        faults.add(path, `has ${value.length} entries; must be ${expects}`);
        return undefined;
      }
      const result: T[] = [];
      for (const [index, entry] of value.entries()) {
        const checked = item.check(entry, [...path, index], faults);
        if (checked !== undefined) result.push(checked);
        if (faults.full) break;
      }
      return result.length === value.length ? result : undefined;
    },
    fromProto: (value) =>
      Array.isArray(value) && value.length > 0
        ? value.map((v: unknown) => item.fromProto(v))
        : undefined,
    toProto: (value) =>
      Array.isArray(value) ? value.map((v: unknown) => item.toProto(v)) : undefined,
  };
}

/** A map whose keys are the user's own. A faulty entry is left out of the result. */
export function dictionary<T>(
  item: Schema<T>,
  limits: { readonly maxEntries: number; readonly maxKeyBytes: number; readonly what: string },
): Schema<Readonly<Record<string, T>>> {
  const expects = `a map of ${limits.what}`;
  return {
    expects,
    check(value, path, faults) {
      const given = value === null ? {} : value;
      if (!isMap(given)) return mismatch(value, expects, path, faults);
      const keys = Object.keys(given);
      if (keys.length > limits.maxEntries) {
        faults.add(path, `has ${keys.length} entries; at most ${limits.maxEntries}`);
        return undefined;
      }
      const result: Record<string, T> = {};
      for (const key of keys) {
        const at: Segment[] = [...path, { key }];
        if (key === "__proto__" || key === "" || Buffer.byteLength(key) > limits.maxKeyBytes) {
          faults.add(
            at,
            `is no key of ${expects}; a key has 1 to ${limits.maxKeyBytes} bytes and is not __proto__`,
          );
          continue;
        }
        if (given[key] === undefined) continue;
        const checked = item.check(given[key], at, faults);
        if (checked !== undefined) result[key] = checked;
      }
      return result;
    },
    fromProto: (value) => value ?? undefined,
    toProto: (value) => value,
  };
}

/** `a`, `a and b`, `a, b and c`. */
export function listOf(names: readonly string[]): string {
  return names.length < 2
    ? names.join("")
    : `${names.slice(0, -1).join(", ")} and ${names.at(-1) ?? ""}`;
}
