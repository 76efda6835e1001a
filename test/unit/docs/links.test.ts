import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { documentPaths, ROOT } from "../../support/documents.ts";

/** The name that a heading is linked by: lower case, blanks to hyphens, no punctuation. */
function anchorOf(heading: string): string {
  return heading
    .replace(/[`*]/g, "")
    .toLowerCase()
    .replace(/[^\w\- ]/g, "")
    .replaceAll(" ", "-");
}

function anchors(path: string): string[] {
  const text = readFileSync(path, "utf8").replace(/^```[\s\S]*?^```/gm, "");
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) => anchorOf(heading));
}

describe("links of README and docs", () => {
  for (const document of documentPaths()) {
    it(`lead to files and headings that there are, in ${document}`, () => {
      const text = readFileSync(join(ROOT, document), "utf8").replace(/^```[\s\S]*?^```/gm, "");
      const dead = [...text.matchAll(/\]\(([^)\s]+)\)/g)]
        .map(([, target = ""]) => target)
        .filter((target) => !/^\w+:/.test(target))
        .filter((target) => {
          const [file = "", anchor] = target.split("#");
          const path = file === "" ? join(ROOT, document) : join(ROOT, dirname(document), file);
          if (!existsSync(path)) return true;
          return anchor !== undefined && path.endsWith(".md") && !anchors(path).includes(anchor);
        });
      expect(dead).to.deep.equal([]);
    });
  }
});
