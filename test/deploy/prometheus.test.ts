import { expect } from "chai";
import { type JobHandle, RankmeshClient } from "../../client/index.ts";
import { CliProcess, poll } from "../support/cli.ts";
import { DASHBOARDS, filledIn, labelQuery, readDashboard } from "../support/dashboards.ts";
import { documentedQueries } from "../support/metrics-reference.ts";
import { type Alert, missingPrometheus, Prometheus, type Sample } from "../support/prometheus.ts";
import { exportedNames, metricNames } from "../support/promql.ts";
import { readRules } from "../support/rules.ts";

const missing = missingPrometheus("prometheus");

/** What Prometheus makes itself. */
const BUILT_IN = ["up", "ALERTS"];

interface Daemon {
  readonly cli: CliProcess;
  readonly grpc: string;
  readonly http: string;
}

describe("a real Prometheus under deploy/prometheus", function () {
  this.timeout(180_000);
  const daemons: Daemon[] = [];
  let prometheus: Prometheus;
  let client: RankmeshClient;
  let job: JobHandle;
  /** Names of all series that coordinator and workers export while the job runs. */
  let exported: ReadonlySet<string>;

  before(async () => {
    if (missing !== undefined) return;
    const coordinator = await start(["coordinator", "--listen=127.0.0.1:0", "--http=127.0.0.1:0"]);
    for (const name of ["w0", "w1"]) {
      await start([
        "worker",
        `--coordinator=${coordinator.grpc}`,
        `--name=${name}`,
        "--backend=cpu",
        "--threads=1",
      ]);
    }
    prometheus = await Prometheus.start(coordinator.http);
    client = new RankmeshClient({ address: coordinator.grpc });
    job = await client.submit({
      name: "watched",
      model: { mlp: { dims: [64, 256, 64] } },
      mesh: { tensorParallel: 2 },
      loss: "mse",
      reportGradNorm: true,
      data: { batchSize: 64, random: { length: 256, seed: 1 } },
      eval: { every: 20, batches: 1, data: { random: { length: 64, seed: 2 } } },
      steps: 10_000_000,
    });
    await poll(
      async () => ((await prometheus.query("rankmesh_eval_loss")).length > 0 ? true : undefined),
      "evaluation of the job in Prometheus",
      60_000,
    );
    const scrapes = await Promise.all(
      daemons.map(async ({ http }) => (await fetch(`http://${http}/metrics`)).text()),
    );
    exported = new Set(scrapes.flatMap((scrape) => [...exportedNames(scrape)]));
  });

  after(async () => {
    client?.close();
    await prometheus?.stop();
    for (const { cli } of daemons) cli.child.kill("SIGKILL");
    await Promise.all(daemons.map(({ cli }) => cli.ended));
  });

  check("finds every worker through the coordinator, with what it is in labels", async () => {
    const targets = await poll(
      async () => {
        const found = (await prometheus.targets()).filter(
          ({ scrapePool, health }) => scrapePool === "rankmesh-worker" && health === "up",
        );
        return found.length === 2 ? found : undefined;
      },
      "two workers that are up",
      60_000,
    );
    const byName = targets.sort((a, b) =>
      (a.labels["worker"] ?? "") < (b.labels["worker"] ?? "") ? -1 : 1,
    );
    byName.forEach(({ labels, scrapeUrl, discoveredLabels }, i) => {
      const http = daemons[i + 1]?.http ?? "";
      expect(scrapeUrl).to.equal(`http://${http}/metrics`);
      expect(labels).to.deep.equal({ instance: http, job: "rankmesh-worker", worker: `w${i}` });
      expect(discoveredLabels).to.include({
        __meta_rankmesh_job_id: job.jobId,
        __meta_rankmesh_rank: String(i),
        __meta_rankmesh_backend: "cpu",
      });
    });
  });

  for (const name of DASHBOARDS) {
    const dashboard = readDashboard(name);

    for (const { title, targets = [] } of dashboard.panels) {
      for (const { refId, expr, legendFormat } of targets) {
        check(`has data for ${name}, panel "${title}", query ${refId}`, async () => {
          // What stands in where there is nothing must not hide that there is nothing.
          const found = await hasData(
            expr.includes("ALERTS") ? expr : expr.replace(" or vector(0)", ""),
          );
          const inLegend = [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label]) => label);
          expect(
            found.some(({ labels }) => inLegend.every((label) => (label ?? "") in labels)),
          ).to.equal(true, `labels of ${legendFormat}`);
        });
      }
    }

    for (const variable of dashboard.templating.list.filter(({ type }) => type === "query")) {
      check(`has choices for ${name}, variable ${variable.name}`, async () => {
        const { label, series } = labelQuery(variable);
        const values = await prometheus.labelValues(label, filled(series));
        expect(values).to.deep.equal(variable.name === "job" ? [job.jobId] : ["0", "1"]);
      });
    }

    check(`reads only metrics that are exported or recorded in ${name}`, () => {
      for (const { targets = [] } of dashboard.panels)
        for (const { expr } of targets) expectKnown(filled(expr));
      for (const variable of dashboard.templating.list) {
        if (variable.type === "query") expectKnown(filled(labelQuery(variable).series));
      }
    });
  }

  for (const { record = "", expr } of readRules("recording.rules.yml")) {
    check(`records ${record}`, async () => {
      expectKnown(expr);
      await hasData(record);
    });
  }

  for (const { alert = "", expr } of readRules("alerts.rules.yml")) {
    check(`reads only metrics that are exported or recorded in alert ${alert}`, () => {
      expectKnown(expr);
    });
  }

  for (const query of documentedQueries()) {
    check(`answers ${query}`, async () => {
      await hasData(query);
    });
  }

  check("raises no alarm for a job that runs well", async () => {
    expect(await prometheus.alerts()).to.deep.equal([]);
  });

  check("splits a rank's step time into phases that add up to it", async () => {
    const [difference] = await prometheus.query(
      `max(abs(sum by (rank) (rankmesh_train_phase_seconds_total) / sum by (rank) (rankmesh_train_step_duration_seconds_sum) - 1))`,
    );
    expect(difference?.value).to.be.below(1e-6);
    // Two ranks that split a matrix wait for each other.
    const collective = await prometheus.query(
      'rankmesh_train_phase_seconds_total{phase="collective"} > 0',
    );
    expect(collective.length).to.be.above(0);
  });

  check("reports a killed worker as a rank that is down, then drops its target", async () => {
    daemons[2]?.cli.child.kill("SIGKILL");
    const alert = await firing("RankmeshRankDown");
    expect(alert.labels).to.include({ worker: "w1", rank: "1", job_id: job.jobId });
    expect(alert.annotations["summary"]).to.equal(`Rank 1 of job ${job.jobId} is down (worker w1)`);
    await poll(
      async () => {
        const targets = await prometheus.targets();
        return targets.some(({ labels }) => labels["worker"] === "w1") ? undefined : true;
      },
      "end of target w1",
      60_000,
    );
    const left = (await prometheus.targets()).map(({ labels }) => labels["worker"] ?? "");
    expect(left.sort()).to.deep.equal(["", "w0"]);
  });

  check("reports a job whose loss has become NaN", async () => {
    const { jobId } = await client.submit({
      name: "diverges",
      model: { mlp: { dims: [8, 8] } },
      loss: "mse",
      optimizer: { sgd: { lr: 1e30 } },
      data: { batchSize: 8, random: { length: 8, seed: 1 } },
      steps: 10_000_000,
    });
    const alert = await firing("RankmeshNonFiniteLoss");
    expect(alert.labels).to.include({ job_id: jobId, severity: "critical" });
  });

  /** A test that needs Prometheus. */
  function check(title: string, run: () => Promise<void> | void): void {
    if (missing === undefined) it(title, run);
    else it.skip(`${title} (${missing})`);
  }

  async function firing(name: string): Promise<Alert> {
    return await poll(
      async () =>
        (await prometheus.alerts()).find(
          ({ labels, state }) => labels["alertname"] === name && state === "firing",
        ),
      `firing ${name}`,
      60_000,
    );
  }

  async function start(args: readonly string[]): Promise<Daemon> {
    const cli = new CliProcess(args);
    const [line] = await cli.waitFor(/^\{.*\}$/m, 30_000);
    const daemon = { cli, ...(JSON.parse(line) as { grpc: string; http: string }) };
    daemons.push(daemon);
    return daemon;
  }

  /** Waits until an expression has a number. */
  async function hasData(expr: string): Promise<Sample[]> {
    const query = filled(expr);
    return await poll(
      async () => {
        const found = await prometheus.query(query);
        return found.some(({ value }) => !Number.isNaN(value)) ? found : undefined;
      },
      `data for ${query}`,
      30_000,
    );
  }

  function filled(expr: string): string {
    return filledIn(expr, { job: job.jobId, rank: ".*", __rate_interval: "20s", __range: "5m" });
  }

  function expectKnown(expr: string): void {
    const recorded = readRules("recording.rules.yml").map(({ record }) => record ?? "");
    const known = new Set([...exported, ...recorded, ...BUILT_IN]);
    const unknown = metricNames(expr).filter((name) => !known.has(name));
    expect(unknown, `read by ${expr}`).to.deep.equal([]);
  }
});
