import { InternalError } from "../../shared/errors.ts";
import type { OpDefinition } from "./op.ts";

const definitions = new Map<string, OpDefinition>();

/** Adds an op; each file of this folder registers its own. */
export function registerOps(...ops: readonly OpDefinition[]): void {
  for (const op of ops) {
    if (definitions.has(op.name)) throw new InternalError(`op ${op.name} is registered twice`);
    definitions.set(op.name, op);
  }
}

/** @throws InternalError for a name that no op has; check user input with `hasOp` first. */
export function opDefinition(name: string): OpDefinition {
  const found = definitions.get(name);
  if (found === undefined) throw new InternalError(`no op ${name} in the registry`);
  return found;
}

export function hasOp(name: string): boolean {
  return definitions.has(name);
}

export function opNames(): string[] {
  return [...definitions.keys()];
}
