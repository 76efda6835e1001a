import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { expect } from "chai";
import { parse } from "yaml";
import {
  DASHBOARDS,
  filledIn,
  labelQuery,
  type Panel,
  readDashboard,
} from "../../support/dashboards.ts";
import { rootPath } from "../../support/deploy.ts";
import { metricNames } from "../../support/promql.ts";

// biome-ignore lint/suspicious/noTemplateCurlyInString: Grafana fills it in
const DATASOURCE = { type: "prometheus", uid: "${datasource}" };
/** Ids of Grafana's units, as far as the dashboards use them. */
const UNITS = ["none", "s", "bytes", "Bps", "percentunit"];
const TYPES = ["row", "timeseries", "stat", "bargauge", "barchart", "table"];
const VARIABLES = { job: "j", rank: ".*", __rate_interval: "20s", __range: "5m" };

describe("deploy/grafana", () => {
  it("holds the dashboards that its source gives", () => {
    execFileSync(process.execPath, [rootPath("scripts/gen-dashboards.mjs"), "--check"]);
  });

  it("shows of a job what people look at first, first", () => {
    const titles = readDashboard("training").panels.map(({ title }) => title);
    const order = [
      "Progress",
      "Done",
      "Loss",
      "Gradient norm",
      "Samples and tokens per second",
      "Step time by phase",
      "Step time",
      "Peak memory per rank",
      "Memory by kind",
      "Collective wait per peer",
      "Collective duration",
      "Process restarts",
    ];
    expect(titles.filter((title) => order.includes(title))).to.deep.equal(order);
  });

  for (const name of DASHBOARDS) {
    const dashboard = readDashboard(name);
    const shown = dashboard.panels.filter(({ type }) => type !== "row");

    describe(name, () => {
      it("has an identity, a schema that Grafana 11 and later read, and numbered panels", () => {
        expect(dashboard.uid).to.equal(`rankmesh-${name}`);
        expect(dashboard.schemaVersion).to.equal(39);
        expect(dashboard.panels.map(({ id }) => id)).to.deep.equal(
          dashboard.panels.map((_, i) => i + 1),
        );
      });

      it("chooses its datasource by a variable, everywhere", () => {
        const [first] = dashboard.templating.list;
        expect(first).to.include({ type: "datasource", name: "datasource", query: "prometheus" });
        const queries = shown.flatMap(({ targets = [] }) => targets);
        const variables = dashboard.templating.list.slice(1);
        for (const { datasource } of [...shown, ...queries, ...variables])
          expect(datasource).to.deep.equal(DATASOURCE);
      });

      it("lays its panels out side by side within 24 columns", () => {
        for (const [i, panel] of dashboard.panels.entries()) {
          const { x, w } = panel.gridPos;
          expect(x + w, panel.title).to.be.at.most(24);
          for (const other of dashboard.panels.slice(i + 1))
            expect(overlap(panel, other), `${panel.title} and ${other.title}`).to.equal(false);
        }
      });

      for (const { title, description, type, fieldConfig, targets = [] } of shown) {
        it(`says what "${title}" is, in a unit, with legends`, () => {
          expect(type).to.be.oneOf(TYPES);
          expect(description).to.match(/^[A-Z0-9].{8,}\.$/);
          const unit = fieldConfig?.defaults.unit ?? "";
          if (!unit.startsWith("suffix: ")) expect(unit).to.be.oneOf(UNITS);
          expect(targets.length).to.be.above(0);
          for (const { expr, legendFormat } of targets) {
            expect(metricNames(filledIn(expr, VARIABLES))).to.not.deep.equal([]);
            if (type !== "table") expect(legendFormat).to.not.equal("");
          }
        });
      }

      it("asks for the choices of its variables", () => {
        for (const variable of dashboard.templating.list.slice(1)) {
          const { series } = labelQuery(variable);
          expect(metricNames(filledIn(series, VARIABLES)).length).to.equal(1);
        }
      });
    });
  }

  it("provisions a Prometheus as often as it is scraped, and the folder of dashboards", () => {
    const read = (path: string): unknown => parse(readFileSync(rootPath(path), "utf8"));
    const { datasources } = read("deploy/grafana/provisioning/datasources/prometheus.yml") as {
      datasources: { type: string; url: string; jsonData: { timeInterval: string } }[];
    };
    const { global } = read("deploy/prometheus/prometheus.yml") as {
      global: { scrape_interval: string };
    };
    expect(datasources.length).to.equal(1);
    expect(datasources[0]).to.include({ type: "prometheus", url: "http://prometheus:9090" });
    expect(datasources[0]?.jsonData.timeInterval).to.equal(global.scrape_interval);
    const { providers } = read("deploy/grafana/provisioning/dashboards/rankmesh.yml") as {
      providers: { type: string; options: { path: string } }[];
    };
    expect(providers.map(({ options }) => options.path)).to.deep.equal(["/etc/grafana/dashboards"]);
  });
});

function overlap({ gridPos: a }: Panel, { gridPos: b }: Panel): boolean {
  return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
}
