// The few forms of panel that the dashboards are made of, as Grafana's JSON wants them.

// biome-ignore lint/suspicious/noTemplateCurlyInString: Grafana fills it in
const DATASOURCE = { type: "prometheus", uid: "${datasource}" };
const COLUMNS = 24;

/** One query. `legend` names its series by their labels. */
export function query(expr, legend) {
  return { expr: expr.replaceAll(/\s+/g, " ").trim(), legend };
}

/**
 * Lines over time. `stack` draws areas on each other, for parts of a whole.
 * @param {{title: string, description: string, unit: string, queries: object[], stack?: boolean, min?: number, max?: number, overrides?: object[]}} panel
 */
export function lines(panel) {
  const custom = {
    drawStyle: "line",
    lineWidth: 1,
    fillOpacity: panel.stack ? 60 : 8,
    showPoints: "auto",
    // A scrape that was missed is no reason for a hole; a job's end is.
    spanNulls: 30_000,
    stacking: { mode: panel.stack ? "normal" : "none", group: "A" },
    ...(panel.log ? { scaleDistribution: { type: "log", log: 10 } } : {}),
  };
  return {
    type: "timeseries",
    ...common(panel, { custom, color: { mode: "palette-classic" } }),
    targets: targets(panel, {}),
    options: {
      legend: {
        displayMode: panel.queries.length > 2 || panel.stack ? "table" : "list",
        placement: "bottom",
        showLegend: true,
        calcs: ["lastNotNull", ...(panel.calcs ?? [])],
      },
      tooltip: { mode: "multi", sort: "desc" },
    },
  };
}

/** One large number: the last value. */
export function stat(panel) {
  return {
    type: "stat",
    ...common(panel, {
      color: { mode: panel.thresholds ? "thresholds" : "fixed", fixedColor: "text" },
    }),
    targets: targets(panel, { instant: true }),
    options: {
      reduceOptions: { calcs: ["lastNotNull"], fields: "", values: false },
      colorMode: "value",
      graphMode: "none",
      justifyMode: "auto",
      orientation: "auto",
      percentChangeColorMode: "standard",
      showPercentChange: false,
      textMode: panel.queries.length > 1 || panel.named ? "value_and_name" : "value",
      wideLayout: true,
    },
  };
}

/** A horizontal bar for each series, filled to its share of `max`. */
export function gauges(panel) {
  return {
    type: "bargauge",
    ...common(panel, { color: { mode: "thresholds" } }),
    targets: targets(panel, { instant: true }),
    options: {
      orientation: "horizontal",
      displayMode: "basic",
      showUnfilled: true,
      valueMode: "color",
      namePlacement: "auto",
      sizing: "auto",
      minVizWidth: 8,
      minVizHeight: 16,
      maxVizHeight: 300,
      legend: { displayMode: "list", placement: "bottom", showLegend: false, calcs: [] },
      reduceOptions: { calcs: ["lastNotNull"], fields: "", values: false },
    },
  };
}

/** Upright bars, a group for each value of the label `by` and in it a bar for each query. */
export function bars(panel) {
  const renamed = panel.queries.map(({ legend }, i) => [`Value #${refId(i)}`, legend]);
  return {
    type: "barchart",
    ...common(panel, { custom: { fillOpacity: 80 }, color: { mode: "palette-classic" } }),
    targets: targets(panel, { instant: true, format: "table" }),
    transformations: [
      { id: "joinByField", options: { byField: panel.by, mode: "outer" } },
      withoutTimes({ renameByName: Object.fromEntries(renamed) }),
      { id: "sortBy", options: { fields: {}, sort: [{ field: panel.by }] } },
    ],
    options: {
      xField: panel.by,
      orientation: "auto",
      groupWidth: 0.7,
      barWidth: 0.9,
      showValue: "auto",
      stacking: "none",
      fullHighlight: false,
      xTickLabelMaxLength: 12,
      xTickLabelRotation: 0,
      xTickLabelSpacing: 0,
      legend: { displayMode: "list", placement: "bottom", showLegend: true, calcs: [] },
      tooltip: { mode: "multi", sort: "none" },
    },
  };
}

/** A row for each series, a column for each of the labels `columns`: [label, heading]. */
export function table(panel) {
  const names = panel.columns.map(([label]) => label);
  return {
    type: "table",
    ...common(panel, {
      custom: { align: "auto", cellOptions: { type: "auto" }, filterable: true, inspect: false },
    }),
    targets: targets(panel, { instant: true, format: "table" }),
    transformations: [
      withoutTimes({
        excluded: ["Value", "Value #A"],
        indexByName: Object.fromEntries(names.map((name, i) => [name, i])),
        renameByName: Object.fromEntries(panel.columns),
      }),
    ],
    options: {
      showHeader: true,
      frameIndex: 0,
      cellHeight: "sm",
    },
  };
}

/** A heading over the panels after it, which flow from left to right by their `width` in 24ths. */
export function row(title, ...panels) {
  return { title, panels };
}

/** A whole dashboard. Panels are numbered in order, so that links to them stay as long as the order does. */
export function dashboard({ uid, title, description, variables, rows }) {
  const panels = [];
  let y = 0;
  for (const { title, panels: inRow } of rows) {
    panels.push({
      type: "row",
      title,
      collapsed: false,
      gridPos: { h: 1, w: COLUMNS, x: 0, y },
      panels: [],
    });
    y += 1;
    let x = 0;
    let height = 0;
    for (const { width, height: h, ...panel } of inRow) {
      if (x + width > COLUMNS) {
        x = 0;
        y += height;
        height = 0;
      }
      panels.push({ ...panel, gridPos: { h, w: width, x, y } });
      x += width;
      height = Math.max(height, h);
    }
    y += height;
  }
  return {
    uid,
    title,
    description,
    tags: ["rankmesh"],
    schemaVersion: 39,
    version: 1,
    editable: true,
    graphTooltip: 1,
    refresh: "5s",
    time: { from: "now-30m", to: "now" },
    timepicker: {},
    timezone: "browser",
    weekStart: "",
    fiscalYearStartMonth: 0,
    liveNow: false,
    annotations: { list: [] },
    links: [
      {
        title: "rankmesh",
        type: "dashboards",
        tags: ["rankmesh"],
        asDropdown: false,
        includeVars: false,
        keepTime: true,
        targetBlank: false,
        icon: "external link",
        tooltip: "",
        url: "",
      },
    ],
    templating: { list: [datasourceVariable(), ...variables] },
    panels: panels.map((panel, i) => ({ id: i + 1, ...panel })),
  };
}

/** A variable whose choices are the values of a label. */
export function labelVariable({ name, label, description, metric, of, all = false }) {
  const definition = `label_values(${metric}, ${of})`;
  return {
    type: "query",
    name,
    label,
    description,
    datasource: DATASOURCE,
    definition,
    query: { qryType: 1, query: definition, refId: `variable-${name}` },
    // When the time range changes, so that a job of last week can be found.
    refresh: 2,
    sort: all ? 3 : 2,
    multi: all,
    includeAll: all,
    ...(all ? { allValue: ".*" } : {}),
    current: all ? { selected: true, text: ["All"], value: ["$__all"] } : {},
    options: [],
    regex: "",
    hide: 0,
    skipUrlSync: false,
  };
}

function datasourceVariable() {
  return {
    type: "datasource",
    name: "datasource",
    label: "Prometheus",
    description: "Where the metrics are.",
    query: "prometheus",
    current: {},
    options: [],
    refresh: 1,
    regex: "",
    multi: false,
    includeAll: false,
    hide: 0,
    skipUrlSync: false,
  };
}

function common({ title, description, unit, min, max, decimals, thresholds, ...panel }, more) {
  const defaults = {
    unit,
    ...(min === undefined ? {} : { min }),
    ...(max === undefined ? {} : { max }),
    ...(decimals === undefined ? {} : { decimals }),
    thresholds: {
      mode: "absolute",
      steps: thresholds ?? [{ color: "green", value: null }],
    },
    mappings: panel.mappings ?? [],
    ...more,
  };
  return {
    title,
    description,
    datasource: DATASOURCE,
    width: panel.width,
    height: panel.height,
    fieldConfig: { defaults, overrides: panel.overrides ?? [] },
  };
}

function targets({ queries }, { instant = false, format = "time_series" }) {
  return queries.map(({ expr, legend }, i) => ({
    refId: refId(i),
    datasource: DATASOURCE,
    editorMode: "code",
    expr,
    legendFormat: legend,
    format,
    instant,
    range: !instant,
  }));
}

/** `organize` without the columns that a table of an instant has beside its labels. */
function withoutTimes({ excluded = [], indexByName = {}, renameByName }) {
  const names = ["Time", "Time 1", "Time 2", "Time 3", ...excluded];
  const excludeByName = Object.fromEntries(names.map((name) => [name, true]));
  return { id: "organize", options: { excludeByName, indexByName, renameByName } };
}

function refId(i) {
  return String.fromCharCode("A".charCodeAt(0) + i);
}
