import type { SyntaxNodeRef } from "@lezer/common";
import { parser } from "@prometheus-io/lezer-promql";

/** The metrics that an expression reads, in order of appearance. @throws when it is no PromQL */
export function metricNames(expr: string): string[] {
  const names = new Set<string>();
  parser.parse(expr).iterate({
    enter(node: SyntaxNodeRef) {
      if (node.type.isError) throw new Error(`no PromQL at ${expr.slice(node.from)} in ${expr}`);
      if (node.name !== "VectorSelector") return;
      const { firstChild } = node.node;
      if (firstChild?.name !== "Identifier") throw new Error(`a selector without a name: ${expr}`);
      names.add(expr.slice(firstChild.from, firstChild.to));
    },
  });
  return [...names];
}

/** Names of the series of a scrape in the text format: histograms by their parts. */
export function exportedNames(scrape: string): Set<string> {
  const names = new Set<string>();
  for (const line of scrape.split("\n")) {
    const name = /^([a-zA-Z_:][a-zA-Z0-9_:]*)[{ ]/.exec(line)?.[1];
    if (name !== undefined && !line.startsWith("#")) names.add(name);
  }
  return names;
}
