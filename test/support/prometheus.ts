/** Debian's Prometheus as a process of a test. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { poll } from "./cli.ts";
import { rootPath } from "./deploy.ts";

/** The folder of configuration and rules. */
export const PROMETHEUS_DIR = rootPath("deploy/prometheus");

/** Why tests with these programs cannot run here; undefined when they can. */
export function missingPrometheus(...programs: ("prometheus" | "promtool")[]): string | undefined {
  const missing = programs.filter((name) => spawnSync(name, ["--version"]).status !== 0);
  if (missing.length === 0) return undefined;
  return `no ${missing.join(", ")}: apt-get install prometheus (npm run test:deploy does it as root)`;
}

/** One time series of an answer, with its value now. */
export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Target {
  readonly scrapePool: string;
  readonly scrapeUrl: string;
  readonly health: "up" | "down" | "unknown";
  readonly labels: Readonly<Record<string, string>>;
  readonly discoveredLabels: Readonly<Record<string, string>>;
}

/** An alert that is raised, or about to be. */
export interface Alert {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly state: "pending" | "firing";
}

interface Answer {
  readonly status: "success" | "error";
  readonly error?: string;
  readonly data?: unknown;
}

/**
 * Prometheus on a free loopback port, under the configuration of `deploy/prometheus` but for the coordinator's address
 * and its intervals, which are a second.
 */
export class Prometheus {
  readonly #child: ChildProcess;
  readonly #dir: string;
  readonly #url: string;

  private constructor(child: ChildProcess, dir: string, url: string) {
    this.#child = child;
    this.#dir = dir;
    this.#url = url;
  }

  /** @param coordinator host:port of its HTTP server */
  static async start(coordinator: string): Promise<Prometheus> {
    const dir = await mkdtemp(join(tmpdir(), "rankmesh-prometheus-"));
    await cp(PROMETHEUS_DIR, dir, { recursive: true });
    const file = join(dir, "prometheus.yml");
    await writeFile(file, derivedConfig(await readFile(file, "utf8"), coordinator));
    const child = spawn("prometheus", [
      `--config.file=${file}`,
      `--storage.tsdb.path=${join(dir, "data")}`,
      "--web.listen-address=127.0.0.1:0",
    ]);
    let log = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      log += text;
    });
    try {
      const address = await poll(
        () => {
          if (child.exitCode !== null) throw new Error(`prometheus ended: ${log}`);
          return /msg="Listening on" address=(\S+)/.exec(log)?.[1];
        },
        "address of Prometheus",
        30_000,
        () => log,
      );
      const prometheus = new Prometheus(child, dir, `http://${address}`);
      await poll(
        async () => ((await fetch(`http://${address}/-/ready`)).ok ? true : undefined),
        "ready Prometheus",
        30_000,
        () => log,
      );
      return prometheus;
    } catch (error) {
      child.kill("SIGKILL");
      await rm(dir, { recursive: true, force: true });
      throw error;
    }
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once("exit", resolve));
    if (this.#child.exitCode === null) {
      this.#child.kill("SIGKILL");
      await ended;
    }
    await rm(this.#dir, { recursive: true, force: true });
  }

  /** The series that an expression has now. @throws when it is none */
  async query(expr: string): Promise<Sample[]> {
    const data = await this.#get(`/api/v1/query?query=${encodeURIComponent(expr)}`);
    const { resultType, result } = data as {
      resultType: string;
      result: { metric: Record<string, string>; value: [number, string] }[];
    };
    if (resultType !== "vector") throw new Error(`${expr} is a ${resultType}, no vector`);
    return result.map(({ metric, value }) => ({ labels: metric, value: parse(value[1]) }));
  }

  /** The values of a label over the series that match, as a dashboard's variable asks for them. */
  async labelValues(label: string, match: string): Promise<string[]> {
    const path = `/api/v1/label/${label}/values?match[]=${encodeURIComponent(match)}`;
    return (await this.#get(path)) as string[];
  }

  async targets(): Promise<Target[]> {
    const data = await this.#get("/api/v1/targets?state=active");
    return (data as { activeTargets: Target[] }).activeTargets;
  }

  async alerts(): Promise<Alert[]> {
    return ((await this.#get("/api/v1/alerts")) as { alerts: Alert[] }).alerts;
  }

  async #get(path: string): Promise<unknown> {
    const response = await fetch(`${this.#url}${path}`);
    const answer = (await response.json()) as Answer;
    if (answer.status === "success") return answer.data;
    throw new Error(`Prometheus answered ${path} with ${answer.error ?? response.status}`);
  }
}

/** The configuration as deployed, every interval a second. @throws when it has not what is to be replaced */
function derivedConfig(text: string, coordinator: string): string {
  let derived = text;
  for (const [pattern, replacement] of [
    [/\bcoordinator:8080\b/g, coordinator],
    [/(scrape_interval|evaluation_interval|refresh_interval): 5s/g, "$1: 1s"],
    [/scrape_timeout: 4s/g, "scrape_timeout: 1s"],
  ] as const) {
    if (!pattern.test(derived)) throw new Error(`prometheus.yml has no ${pattern}`);
    derived = derived.replaceAll(pattern, replacement);
  }
  return derived;
}

/** `+Inf` and `NaN` as Prometheus writes them. */
function parse(value: string): number {
  return value.endsWith("Inf")
    ? Number(value.replace("Inf", "Infinity"))
    : Number.parseFloat(value);
}
