import { opDefinition } from "../ops/registry.ts";
import type { RankValue } from "./rank-graph.ts";

/**
 * Lets one pass over the same operands make several values: an op whose partners (`fusesWith`) are all there becomes the
 * fused op, and its partners become parts of it. The sums are the same; operands are read once, and what all of them
 * would compute anew (the softmax of attention's gradients) is computed once.
 */
export function fuseSiblings(values: RankValue[]): void {
  const keyOf = (op: string, inputs: readonly number[]): string => `${op}(${inputs.join(",")})`;
  const partnerOps = new Set<string>();
  for (const { op, kind } of values) {
    if (kind !== "compute") continue;
    for (const partner of opDefinition(op).fusesWith?.partners ?? []) partnerOps.add(partner);
  }
  const byCall = new Map<string, RankValue>();
  for (const value of values) {
    if (partnerOps.has(value.op)) byCall.set(keyOf(value.op, value.inputs), value);
  }
  for (const lead of [...values]) {
    const fusion = lead.kind === "compute" ? opDefinition(lead.op).fusesWith : undefined;
    if (fusion === undefined) continue;
    const partners = fusion.partners.map((op) => {
      for (let count = lead.inputs.length; count > 0; count--) {
        const found = byCall.get(keyOf(op, lead.inputs.slice(0, count)));
        if (found !== undefined && found.id > lead.id) return found;
      }
      return undefined;
    });
    const found = partners.filter((p) => p !== undefined);
    if (found.length < partners.length) continue;
    values[lead.id] = { ...lead, op: fusion.into, makes: found.map((p) => p.id) };
    for (const part of found) {
      values[part.id] = { ...part, kind: "part", op: "", inputs: [lead.id], attrs: {} };
    }
  }
}
