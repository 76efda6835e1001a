// All workers and jobs of one coordinator, and how their processes are.
import { dashboard, lines, query, row, stat, table } from "./panels.mjs";

const OURS = 'job=~"rankmesh-.*"';
const NAMED = "{{job}} {{worker}}";

export const fleet = dashboard({
  uid: "rankmesh-fleet",
  title: "rankmesh / Fleet",
  description: "Workers, jobs, and the processes behind them.",
  variables: [],
  rows: [
    row(
      "Now",
      stat({
        title: "Workers",
        description: "By state. A lost one is shown for a minute.",
        unit: "none",
        queries: [query("sum by (state) (rankmesh_workers)", "{{state}}")],
        named: true,
        width: 8,
        height: 4,
      }),
      stat({
        title: "Jobs",
        description: "That the coordinator remembers, by state.",
        unit: "none",
        queries: [query("sum by (state) (rankmesh_jobs)", "{{state}}")],
        named: true,
        width: 12,
        height: 4,
      }),
      stat({
        title: "Alerts firing",
        description: "Prometheus' page Alerts says which, and what to do.",
        unit: "none",
        thresholds: [
          { color: "green", value: null },
          { color: "red", value: 1 },
        ],
        queries: [
          query(
            'count(ALERTS{alertname=~"Rankmesh.*",alertstate="firing"}) or vector(0)',
            "alerts",
          ),
        ],
        width: 4,
        height: 4,
      }),
      table({
        title: "Who serves what",
        description: "Workers as the coordinator sees them.",
        unit: "none",
        queries: [
          query(
            "max by (worker, state, job_id, rank, backend, device, version) (rankmesh_worker_info)",
            "",
          ),
        ],
        columns: [
          ["worker", "Worker"],
          ["state", "State"],
          ["job_id", "Job"],
          ["rank", "Rank"],
          ["backend", "Backend"],
          ["device", "Device"],
          ["version", "Version"],
        ],
        width: 24,
        height: 8,
      }),
    ),
    row(
      "Over time",
      lines({
        title: "Workers by state",
        description: "Idle, serving a rank, and lost in the last minute.",
        unit: "none",
        min: 0,
        decimals: 0,
        stack: true,
        queries: [query("sum by (state) (rankmesh_workers)", "{{state}}")],
        width: 8,
        height: 8,
      }),
      lines({
        title: "Jobs by state",
        description:
          "That the coordinator remembers; the ended ones add up until it forgets the oldest.",
        unit: "none",
        min: 0,
        decimals: 0,
        queries: [query("sum by (state) (rankmesh_jobs)", "{{state}}")],
        width: 8,
        height: 8,
      }),
      lines({
        title: "Heartbeat age",
        description:
          "Time since a worker was last heard. After 5 s it is lost, and the job that it served ends.",
        unit: "s",
        min: 0,
        queries: [query("max by (worker) (rankmesh_worker_heartbeat_age_seconds)", "{{worker}}")],
        calcs: ["max"],
        width: 8,
        height: 8,
      }),
    ),
    row(
      "Processes",
      lines({
        title: "Event-loop lag",
        description:
          "99th percentile. A main thread that is held up sends its heartbeats and its frames late; past some 100 ms its peers wait for it.",
        unit: "s",
        min: 0,
        queries: [query(`max by (job, worker) (nodejs_eventloop_lag_p99_seconds{${OURS}})`, NAMED)],
        calcs: ["max"],
        width: 8,
        height: 8,
      }),
      lines({
        title: "Resident memory",
        description: "Of the whole process; a rank's own is on the dashboard Training.",
        unit: "bytes",
        min: 0,
        queries: [query(`max by (job, worker) (process_resident_memory_bytes{${OURS}})`, NAMED)],
        calcs: ["max"],
        width: 8,
        height: 8,
      }),
      lines({
        title: "CPU",
        description: "Cores in use.",
        unit: "suffix: cores",
        min: 0,
        queries: [
          query(
            `sum by (job, worker) (rate(process_cpu_seconds_total{${OURS}}[$__rate_interval]))`,
            NAMED,
          ),
        ],
        calcs: ["mean"],
        width: 8,
        height: 8,
      }),
      lines({
        title: "Scrapes",
        description: "1 where Prometheus reaches a process, 0 where it does not.",
        unit: "none",
        min: 0,
        max: 1,
        decimals: 0,
        queries: [query(`min by (job, worker) (up{${OURS}})`, NAMED)],
        width: 8,
        height: 8,
      }),
      lines({
        title: "Garbage collection",
        description: "Share of time in which a process stands still for it.",
        unit: "percentunit",
        min: 0,
        queries: [
          query(
            `sum by (job, worker) (rate(nodejs_gc_duration_seconds_sum{${OURS}}[$__rate_interval]))`,
            NAMED,
          ),
        ],
        calcs: ["mean"],
        width: 8,
        height: 8,
      }),
      table({
        title: "Builds",
        description: "Coordinator and workers of unlike versions do not work together.",
        unit: "none",
        queries: [query("max by (role, worker, version, node) (rankmesh_build_info)", "")],
        columns: [
          ["role", "Role"],
          ["worker", "Worker"],
          ["version", "Version"],
          ["node", "Node"],
        ],
        width: 8,
        height: 8,
      }),
    ),
  ],
});
