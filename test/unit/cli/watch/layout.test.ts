import { expect } from "chai";
import fc from "fast-check";
import { layoutOf, linesOf } from "../../../../cli/watch/layout.ts";

describe("layout of a job's picture", () => {
  it("gives a terminal of 24 rows both charts, ranks and events", () => {
    const layout = layoutOf({ columns: 79, rows: 20, rankRows: 2, events: 4 });
    expect(layout).to.deep.equal({
      charts: 2,
      sideBySide: false,
      plotRows: 4,
      rankRows: 2,
      events: 2,
    });
  });

  it("puts the charts beside each other where there is width, and then makes them taller", () => {
    const layout = layoutOf({ columns: 120, rows: 20, rankRows: 2, events: 4 });
    expect(layout).to.deep.include({ charts: 2, sideBySide: true, rankRows: 2, events: 4 });
    expect(layout.plotRows).to.equal(8);
  });

  it("leaves out a chart, then both, then ranks where there are few rows", () => {
    const small = (rows: number) => layoutOf({ columns: 79, rows, rankRows: 2, events: 4 });
    expect(small(13)).to.deep.include({ charts: 1, plotRows: 4, rankRows: 2, events: 1 });
    expect(small(6)).to.deep.include({ charts: 0, rankRows: 2, events: 1 });
    expect(small(3)).to.deep.include({ charts: 0, rankRows: 1, events: 0 });
    expect(small(1)).to.deep.include({ charts: 0, rankRows: 0, events: 0 });
  });

  it("never takes more rows than there are, and uses those of a tall terminal for ranks", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 20, max: 200 }),
        fc.integer({ min: 0, max: 100 }),
        fc.nat(64),
        fc.nat(16),
        (columns, rows, rankRows, events) => {
          const layout = layoutOf({ columns, rows, rankRows, events });
          expect(linesOf(layout)).to.be.at.most(rows);
          expect(layout.rankRows).to.be.at.most(rankRows);
          expect(layout.events).to.be.at.most(events);
          if (linesOf(layout) < rows && layout.rankRows > 0) {
            expect(layout.rankRows).to.equal(rankRows);
          }
        },
      ),
    );
  });
});
