/** Readers of flag values; each says what it wants when the text is something else. */
import { InvalidArgumentError, Option } from "commander";
import { InvalidArgumentError as RankmeshInvalidArgumentError } from "../shared/errors.ts";
import { parseHostPort } from "../shared/rpc/address.ts";

const MAX_PORT_TEXT = "host:port, port 0 takes a free one";

const variables = new Set<string>();

/** Variables that stand for flags. Others with the prefix say where libraries lie, and hold for every process. */
export const DAEMON_VARIABLES: ReadonlySet<string> = variables;

/** An option that can also be set as RANKMESH_...; the flag wins. */
export function envOption(flags: string, description: string, env: string): Option {
  const variable = `RANKMESH_${env}`;
  variables.add(variable);
  return new Option(flags, description).env(variable);
}

export function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      const bounds =
        max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
      throw new InvalidArgumentError(`Write a whole number ${bounds}.`);
    }
    return value;
  };
}

/** `0.8`: a number of at least 0. */
export function quantity(text: string): number {
  const value = Number(text);
  if (!/^\d*\.?\d+(?:e[+-]?\d+)?$/i.test(text) || !Number.isFinite(value))
    throw new InvalidArgumentError("Write a number of at least 0, for example 0.8.");
  return value;
}

/** `1,2,4,8` */
export function wholeNumbers(min: number, max: number): (text: string) => number[] {
  const one = wholeNumber(min, max);
  return (text) => text.split(",").map((part) => one(part.trim()));
}

/** `host:port`, checked and given back as it is. */
export function hostPort(text: string): string {
  try {
    parseHostPort(text);
  } catch (error) {
    if (!(error instanceof RankmeshInvalidArgumentError)) throw error;
    throw new InvalidArgumentError(`Write ${MAX_PORT_TEXT}, for example 127.0.0.1:50051.`);
  }
  return text;
}

/** `name` or `name,name`, added to those given before; an empty text, as an unset variable of a compose file is, adds none. */
export function hostNames(text: string, before: readonly string[] = []): string[] {
  const names = text === "" ? [] : text.split(",").map((name) => name.trim());
  for (const name of names) {
    if (/^[^\s:/[\],]+$/.test(name)) continue;
    throw new InvalidArgumentError(
      "Write a host name without port, for example gpu-1.example.org.",
    );
  }
  return [...before, ...names];
}

const BYTE_SUFFIXES: Readonly<Record<string, number>> = {
  "": 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
};

/** `2500000000`, `2.5GB`, `512MiB` */
export function byteCount(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text);
  const factor = BYTE_SUFFIXES[(match?.[2] ?? "?").toLowerCase()];
  const bytes = Math.floor(Number(match?.[1]) * (factor ?? Number.NaN));
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new InvalidArgumentError(
      "Write a number of bytes, for example 2500000000, 2.5GB or 512MiB.",
    );
  }
  return bytes;
}

/** The same object without its undefined values, for options that are left out when unset. */
export function defined<T extends object>(
  values: T,
): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
