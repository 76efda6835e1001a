/** How many lines each part of a job's picture gets. */
export interface Layout {
  /** Charts that are drawn, 0 to 2. */
  readonly charts: number;
  readonly sideBySide: boolean;
  /** Rows of a chart's plot, without title and axis. */
  readonly plotRows: number;
  /** Lines of ranks below their title; 0: no title either. */
  readonly rankRows: number;
  /** Lines of events. */
  readonly events: number;
}

export interface LayoutInput {
  readonly columns: number;
  /** Lines of all parts, without the head. */
  readonly rows: number;
  /** Lines that all ranks would take. */
  readonly rankRows: number;
  /** Events that there are. */
  readonly events: number;
}

/** Narrower, two charts beside each other would show too little. */
const SIDE_BY_SIDE_COLUMNS = 100;
const MIN_PLOT_ROWS = 3;
const MAX_PLOT_ROWS = 10;
const MAX_EVENTS = 5;
/** More lines of ranks are shown only where there is room that nothing else needs. */
const FIRST_RANK_ROWS = 8;

/**
 * Deals out the lines: first the least of each part, as far as it fits, then more of each in turn. Parts are parted by an
 * empty line each.
 */
export function layoutOf({ columns, rows, rankRows, events }: LayoutInput): Layout {
  const sideBySide = columns >= SIDE_BY_SIDE_COLUMNS;
  let layout: Layout = {
    charts: 2,
    sideBySide,
    plotRows: MIN_PLOT_ROWS,
    rankRows: Math.min(1, rankRows),
    events: Math.min(1, events),
  };
  const fits = (candidate: Layout) => linesOf(candidate) <= rows;
  const smaller: readonly Partial<Layout>[] = [
    { events: 0 },
    { charts: sideBySide ? 2 : 1 },
    { charts: 0 },
    { rankRows: 0 },
  ];
  for (const change of smaller) {
    if (fits(layout)) break;
    layout = { ...layout, ...change };
  }
  const larger: readonly ((now: Layout) => Layout)[] = [
    (now) => ({ ...now, rankRows: Math.min(now.rankRows + 1, rankRows, FIRST_RANK_ROWS) }),
    (now) => ({ ...now, plotRows: Math.min(now.plotRows + 1, MAX_PLOT_ROWS) }),
    (now) => ({ ...now, events: Math.min(now.events + 1, events, MAX_EVENTS) }),
  ];
  const last = (now: Layout) => ({ ...now, rankRows: Math.min(now.rankRows + 1, rankRows) });
  for (const changes of [larger, [last]]) {
    for (let grown = true; grown; ) {
      grown = false;
      for (const change of changes) {
        const next = change(layout);
        if (linesOf(next) === linesOf(layout) || !fits(next)) continue;
        layout = next;
        grown = true;
      }
    }
  }
  return layout;
}

/** Lines that a layout takes. */
export function linesOf({ charts, sideBySide, plotRows, rankRows, events }: Layout): number {
  const chart = plotRows + 2;
  return (
    (charts === 0 ? 0 : 1 + (sideBySide ? chart : charts * chart)) +
    (rankRows === 0 ? 0 : 2 + rankRows) +
    (events === 0 ? 0 : 1 + events)
  );
}
