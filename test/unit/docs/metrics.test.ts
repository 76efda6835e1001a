import { expect } from "chai";
import type { Registry } from "prom-client";
import { WorkerRegistry } from "../../../coordinator/gang/worker-registry.ts";
import { JobStore } from "../../../coordinator/job/job-store.ts";
import { CoordinatorMetrics } from "../../../coordinator/metrics.ts";
import { STEP_PHASES } from "../../../worker/compute/step-phases.ts";
import { WorkerMetrics } from "../../../worker/metrics.ts";
import {
  type DocumentedMetric,
  documentedAlerts,
  documentedMetrics,
  documentedNodeMetrics,
  documentedPhases,
  documentedQueries,
  documentedRecords,
} from "../../support/metrics-reference.ts";
import { metricNames } from "../../support/promql.ts";
import { readRules } from "../../support/rules.ts";

/** What the end of a metric's name says of its unit. */
const UNITS: readonly (readonly [RegExp, string])[] = [
  [/_seconds(_total)?$/, "seconds"],
  [/_bytes(_total)?$/, "bytes"],
  [/_info$/, "1"],
];

function registered(registry: Registry): Omit<DocumentedMetric, "unit">[] {
  return registry.getMetricsAsArray().map(({ name, type }) => {
    const { labelNames } = registry.getSingleMetric(name) as unknown as { labelNames: string[] };
    return { name, type: String(type), labels: labelNames };
  });
}

describe("docs/metrics.md", () => {
  const worker = new WorkerMetrics({ version: "1" });
  const coordinator = new CoordinatorMetrics({ version: "1", keepMs: 0 });
  coordinator.observe(
    new JobStore(1),
    new WorkerRegistry({ leaseMs: 1, rememberLostMs: 1 }),
    () => 0,
  );
  const all = {
    worker: registered(worker.registry),
    coordinator: registered(coordinator.registry),
  };

  after(() => {
    worker.close();
    coordinator.close();
  });

  for (const [role, heading] of [
    ["worker", "a worker"],
    ["coordinator", "the coordinator"],
  ] as const) {
    it(`lists what ${heading} exports, with types and labels, and nothing else`, () => {
      const documented = [...documentedMetrics(heading), ...documentedMetrics("both")];
      const own = all[role].filter(({ name }) => name.startsWith("rankmesh_"));
      const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
      expect(documented.map(({ unit: _, ...rest }) => rest).sort(byName)).to.deep.equal(
        own.sort(byName),
      );
      expect(own.length).to.be.above(9);
    });

    it(`mentions only metrics of Node that ${heading} exports`, () => {
      const names = all[role].map(({ name }) => name);
      expect(names).to.include.members(documentedNodeMetrics());
      expect(documentedNodeMetrics().length).to.be.above(4);
    });
  }

  it("gives each metric the unit that its name says", () => {
    const documented = (["a worker", "the coordinator", "both"] as const).flatMap(
      documentedMetrics,
    );
    for (const { name, unit } of documented) {
      const said = UNITS.find(([pattern]) => pattern.test(name))?.[1];
      if (said !== undefined) expect(unit, name).to.equal(said);
      else expect(unit, name).to.not.be.oneOf(["seconds", "bytes", "1", ""]);
    }
  });

  it("lists the phases of a step", () => {
    expect(documentedPhases()).to.deep.equal([...STEP_PHASES]);
  });

  it("lists the recording rules", () => {
    const recorded = readRules("recording.rules.yml").map(({ record }) => record);
    expect(documentedRecords()).to.deep.equal(recorded);
  });

  it("lists the alerts with their severities", () => {
    const alerts = readRules("alerts.rules.yml").map(({ alert, labels }) => [
      alert,
      labels?.["severity"],
    ]);
    expect(documentedAlerts()).to.deep.equal(alerts);
  });

  it("shows queries over metrics that there are", () => {
    const series = [...all.worker, ...all.coordinator].flatMap(({ name, type }) =>
      type === "histogram" ? ["_bucket", "_sum", "_count"].map((part) => name + part) : [name],
    );
    const queries = documentedQueries();
    expect(queries.length).to.be.above(8);
    for (const query of queries) expect(series, query).to.include.members(metricNames(query));
  });
});
