/**
 * The first key that occurs twice in one object of `json`, or undefined.
 * @param json text that JSON.parse takes; nothing else is checked here
 */
export function duplicateKey(json: string): string | undefined {
  // One set of keys per open object; undefined stands for an open list.
  const open: (Set<string> | undefined)[] = [];
  for (let at = 0; at < json.length; at++) {
    switch (json[at]) {
      case "{":
        open.push(new Set());
        break;
      case "[":
        open.push(undefined);
        break;
      case "}":
      case "]":
        open.pop();
        break;
      case '"': {
        const end = stringEnd(json, at);
        const keys = open.at(-1);
        if (keys !== undefined && isKey(json, end)) {
          const key = JSON.parse(json.slice(at, end)) as string;
          if (keys.has(key)) return key;
          keys.add(key);
        }
        at = end - 1;
        break;
      }
      default:
        break;
    }
  }
  return undefined;
}

/** Index after the closing quote of the string that opens at `start`. */
function stringEnd(json: string, start: number): number {
  let at = start + 1;
  while (at < json.length && json[at] !== '"') at += json[at] === "\\" ? 2 : 1;
  return at + 1;
}

/** Whether a colon follows: strings in an object are keys or values. */
function isKey(json: string, end: number): boolean {
  let at = end;
  while (/\s/.test(json[at] ?? "")) at++;
  return json[at] === ":";
}
