import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { parse } from "yaml";
import { missingPrometheus, PROMETHEUS_DIR } from "../support/prometheus.ts";
import { readRules } from "../support/rules.ts";

const missing = missingPrometheus("promtool");
const promtool = async (...args: string[]): Promise<string> =>
  (await promisify(execFile)("promtool", args, { cwd: PROMETHEUS_DIR })).stdout;

interface RuleTests {
  readonly tests: readonly {
    readonly alert_rule_test?: readonly {
      readonly alertname: string;
      readonly exp_alerts: readonly unknown[];
    }[];
  }[];
}

describe("deploy/prometheus", function () {
  this.timeout(60_000);

  for (const args of [
    ["check", "config", "prometheus.yml"],
    ["check", "rules", "--lint=all", "--lint-fatal", "recording.rules.yml", "alerts.rules.yml"],
    ["test", "rules", "rules.test.yml"],
  ]) {
    const title = `passes promtool ${args.join(" ")}`;
    if (missing !== undefined) it.skip(`${title} (${missing})`);
    else
      it(title, async () => {
        expect(await promtool(...args)).to.contain("SUCCESS");
      });
  }

  const { tests } = parse(
    readFileSync(join(PROMETHEUS_DIR, "rules.test.yml"), "utf8"),
  ) as RuleTests;
  const cases = tests.flatMap(({ alert_rule_test = [] }) => alert_rule_test);

  for (const { alert = "", labels, annotations } of readRules("alerts.rules.yml")) {
    it(`tests ${alert} where it fires and where it does not`, () => {
      const own = cases.filter(({ alertname }) => alertname === alert);
      expect(own.some(({ exp_alerts }) => exp_alerts.length > 0)).to.equal(true);
      expect(own.some(({ exp_alerts }) => exp_alerts.length === 0)).to.equal(true);
    });

    it(`says in ${alert} how severe it is, what happened to what, and what to do`, () => {
      expect(labels?.["severity"]).to.be.oneOf(["warning", "critical"]);
      expect(annotations?.summary).to.match(/\{\{ \$labels\.(worker|job_id|instance) \}\}/);
      expect(annotations?.description?.length).to.be.above(150);
    });
  }
});
