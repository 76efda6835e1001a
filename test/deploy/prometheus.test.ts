import { expect } from "chai";
import { CliProcess, poll } from "../support/cli.ts";
import { missingPrometheus, Prometheus } from "../support/prometheus.ts";

describe("a Prometheus under deploy/prometheus", function () {
  this.timeout(180_000);
  const processes: CliProcess[] = [];
  let prometheus: Prometheus;

  before(async function () {
    const missing = missingPrometheus("prometheus");
    if (missing !== undefined) {
      this.test?.parent?.eachTest((test) => {
        test.title += ` (${missing})`;
      });
      this.skip();
    }
    const coordinator = await daemon(["coordinator", "--listen=127.0.0.1:0", "--http=127.0.0.1:0"]);
    for (const name of ["w0", "w1"]) {
      await daemon([
        "worker",
        `--coordinator=${coordinator.grpc}`,
        `--name=${name}`,
        "--backend=cpu",
        "--threads=1",
      ]);
    }
    prometheus = await Prometheus.start(coordinator.http);
  });

  after(async () => {
    await prometheus?.stop();
    for (const { child } of processes) child.kill("SIGKILL");
    await Promise.all(processes.map(({ ended }) => ended));
  });

  it("finds every worker through the coordinator, and scrapes them", async () => {
    await poll(
      async () => {
        const up = (await prometheus.targets()).filter(({ health }) => health === "up");
        return up.length === 3 ? true : undefined;
      },
      "three targets that are up",
      60_000,
    );
    const up = await prometheus.query('up{job="rankmesh-worker"} == 1');
    expect(up.map(({ labels }) => labels["worker"]).sort()).to.deep.equal(["w0", "w1"]);
  });

  async function daemon(args: readonly string[]): Promise<{ grpc: string; http: string }> {
    const cli = new CliProcess(args);
    processes.push(cli);
    const [line] = await cli.waitFor(/^\{.*\}$/m, 30_000);
    return JSON.parse(line) as { grpc: string; http: string };
  }
});
