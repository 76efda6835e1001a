/** Characters of a user's value that an error repeats. */
const MAX_QUOTED = 80;

/**
 * A user's value for an error text: strings quoted and escaped (control characters too, so that no terminal obeys them),
 * at most about 80 characters of them; lists and maps by their size alone, so that nothing deep or huge is walked.
 */
export function quote(value: unknown): string {
  switch (typeof value) {
    case "string":
      return quoteString(value);
    case "number":
      return Object.is(value, -0) ? "-0" : String(value);
    case "object":
      if (value === null) return "null";
      if (Array.isArray(value)) return `a list of ${value.length}`;
      if (ArrayBuffer.isView(value)) return `${value.byteLength} bytes`;
      return "a map";
    case "bigint": {
      const digits = value.toString();
      return digits.length <= MAX_QUOTED ? digits : `${digits.slice(0, MAX_QUOTED)}...`;
    }
    default:
      return typeof value === "boolean" ? String(value) : `a value of type ${typeof value}`;
  }
}

function quoteString(text: string): string {
  const shown = text.length <= MAX_QUOTED ? text : text.slice(0, MAX_QUOTED);
  const escaped = JSON.stringify(shown).replace(
    /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    unicodeEscape,
  );
  return shown === text ? escaped : `${escaped}... (${text.length} characters)`;
}

function unicodeEscape(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
