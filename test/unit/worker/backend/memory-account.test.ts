import { expect } from "chai";
import { InternalError } from "../../../../shared/errors.ts";
import { MemoryLedger } from "../../../../worker/backend/memory-account.ts";

describe("memory account", () => {
  it("keeps the high-water mark of what was held at once, not of what was ever asked for", () => {
    const ledger = new MemoryLedger();
    ledger.allocate("weights", 100);
    ledger.allocate("activations", 50);
    ledger.free("activations", 50);
    ledger.allocate("workspace", 30);
    expect(ledger.currentBytes).to.equal(130);
    expect(ledger.peakBytes).to.equal(150);
    expect(ledger.byKind()).to.deep.equal({ weights: 100, workspace: 30 });
  });

  it("refuses to free more than a kind holds", () => {
    const ledger = new MemoryLedger();
    ledger.allocate("weights", 100);
    expect(() => ledger.free("weights", 101)).to.throw(
      InternalError,
      "101 bytes of weights freed, 100 held",
    );
    expect(() => ledger.free("inputs", 1)).to.throw(
      InternalError,
      "1 bytes of inputs freed, 0 held",
    );
  });

  for (const bytes of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    it(`refuses an allocation of ${bytes} bytes`, () => {
      expect(() => new MemoryLedger().allocate("weights", bytes)).to.throw(InternalError);
    });
  }
});
