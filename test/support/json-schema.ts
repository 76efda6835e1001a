/** Just enough of JSON Schema for the schemas of Kubernetes; throws on a keyword that it does not know. */

export type Schema = { readonly [keyword: string]: unknown };

const MAX_INT32 = 2 ** 31 - 1;

const FORMATS: Readonly<Record<string, (value: unknown) => boolean>> = {
  int32: (value) => Number(value) >= -MAX_INT32 - 1 && Number(value) <= MAX_INT32,
  int64: (value) => Number.isSafeInteger(value),
  byte: (value) => /^[A-Za-z0-9+/]*={0,2}$/.test(String(value)),
  "date-time": (value) => !Number.isNaN(Date.parse(String(value))),
  quantity: (value) =>
    /^[+-]?(\d+|\d+\.\d*|\.\d+)(m|[kMGTPE]i?|[eE][+-]?\d+)?$/.test(String(value)),
};

/**
 * What does not fit, each with its place.
 *
 * @param definitions what `#/definitions/...` refers to
 */
export function schemaFaults(
  value: unknown,
  schema: Schema,
  definitions: Readonly<Record<string, Schema>>,
  path = "",
): string[] {
  const faults: string[] = [];
  const inner = (part: unknown, of: unknown, at: string) =>
    schemaFaults(part, of as Schema, definitions, at);
  for (const [keyword, want] of Object.entries(schema)) {
    switch (keyword) {
      case "type":
        if (!hasType(value, String(want))) return [`${path}: is no ${String(want)}`];
        break;
      case "$ref": {
        const target = definitions[String(want).replace("#/definitions/", "")];
        if (target === undefined) throw new Error(`no definition ${String(want)}`);
        faults.push(...inner(value, target, path));
        break;
      }
      case "properties":
        for (const [name, of] of Object.entries(want as object)) {
          if (isObject(value) && name in value)
            faults.push(...inner(value[name], of, `${path}.${name}`));
        }
        break;
      case "additionalProperties":
        for (const name of isObject(value) ? Object.keys(value) : []) {
          if (name in ((schema["properties"] as object | undefined) ?? {})) continue;
          if (want === false) faults.push(`${path}.${name}: unknown`);
          else if (isObject(want) && isObject(value)) {
            faults.push(...inner(value[name], want, `${path}.${name}`));
          }
        }
        break;
      case "items":
        for (const [index, item] of (Array.isArray(value) ? value : []).entries()) {
          faults.push(...inner(item, want, `${path}[${index}]`));
        }
        break;
      case "required":
        for (const name of want as string[]) {
          if (!isObject(value) || !(name in value)) faults.push(`${path}.${name}: missing`);
        }
        break;
      case "enum":
        if (!(want as unknown[]).includes(value))
          faults.push(`${path}: ${String(value)} is none of ${(want as unknown[]).join(", ")}`);
        break;
      case "oneOf":
      case "anyOf": {
        const fits = (want as Schema[]).filter((of) => inner(value, of, path).length === 0).length;
        if (fits === 0 || (keyword === "oneOf" && fits > 1))
          faults.push(`${path}: fits ${fits} of its forms`);
        break;
      }
      case "format": {
        const check = FORMATS[String(want)];
        if (check === undefined) throw new Error(`${path}: unknown format ${String(want)}`);
        if (!check(value)) faults.push(`${path}: ${String(value)} is no ${String(want)}`);
        break;
      }
      case "pattern":
        if (!new RegExp(String(want)).test(String(value)))
          faults.push(`${path}: ${String(value)} does not match ${String(want)}`);
        break;
      case "minLength":
        if (String(value).length < Number(want)) faults.push(`${path}: too short`);
        break;
      case "minimum":
        if (Number(value) < Number(want)) faults.push(`${path}: less than ${Number(want)}`);
        break;
      case "default":
        break;
      default:
        throw new Error(`${path}: unknown keyword ${keyword}`);
    }
  }
  return faults;
}

function hasType(value: unknown, type: string): boolean {
  switch (type) {
    case "object":
      return isObject(value);
    case "array":
      return Array.isArray(value);
    case "integer":
      return Number.isInteger(value);
    default:
      return typeof value === type;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
