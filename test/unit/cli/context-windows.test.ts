import { expect } from "chai";
import fc from "fast-check";
import { ContextWindows } from "../../../cli/context-windows.ts";

/** What is fed, step by step, as indices in the text, and the positions at which its tokens are drawn. */
function feed(prompt: number, context: number, tokens: number) {
  const windows = new ContextWindows(prompt, context);
  const steps = Array.from({ length: windows.steps(tokens) }, (_, step) => step);
  return {
    fed: steps.map((step) => windows.fedAt(step)),
    drawn: steps.filter((step) => windows.isDrawn(step)).map((step) => step % context),
  };
}

describe("context windows", () => {
  it("feed a text that fits once, token by token", () => {
    const { fed, drawn } = feed(3, 8, 6);
    expect(fed).to.deep.equal([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(drawn).to.deep.equal([2, 3, 4, 5, 6, 7]);
  });

  it("begin again with the last half of a text that does not fit", () => {
    const { fed, drawn } = feed(3, 4, 7);
    expect(fed).to.deep.equal([
      ...[0, 1, 2, 3], // draws 3 and 4
      ...[3, 4, 5, 6], // draws 5, 6 and 7
      ...[6, 7, 8], // draws 8 and 9
    ]);
    expect(drawn).to.deep.equal([2, 3, 1, 2, 3, 1, 2]);
  });

  it("leave out the beginning of a prompt longer than the context", () => {
    expect(feed(9, 4, 1).fed).to.deep.equal([7, 8]);
    expect(new ContextWindows(9, 4).leftOut).to.equal(7);
    expect(new ContextWindows(4, 4).leftOut).to.equal(0);
  });

  it("draw every token once and in order, of tokens that are there, at any sizes", () => {
    const size = fc.integer({ min: 1, max: 40 });
    fc.assert(
      fc.property(size, size, size, (prompt, context, tokens) => {
        const windows = new ContextWindows(prompt, context);
        const steps = windows.steps(tokens);
        let length = prompt;
        for (let step = 0; step < steps; step++) {
          const index = windows.fedAt(step);
          expect(index, "fed a token that is there").to.be.below(length);
          if (step % context !== 0) expect(index).to.equal(windows.fedAt(step - 1) + 1);
          expect(windows.isDrawn(step)).to.equal(index === length - 1);
          if (index === length - 1) length++;
        }
        expect(length).to.equal(prompt + tokens);
        expect(windows.isDrawn(steps - 1), "no step for nothing").to.equal(true);
      }),
    );
  });
});
