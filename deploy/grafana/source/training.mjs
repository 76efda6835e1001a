// One job: does it learn, how fast, does it fit, whom does it wait for.
import { bars, dashboard, gauges, labelVariable, lines, query, row, stat } from "./panels.mjs";

const JOB = 'job_id="$job"';
const RANKS = 'job_id="$job",rank=~"$rank"';
/** Steps a second, of the rank that has reported fewest. */
const PACE = `min(rate(rankmesh_train_step_duration_seconds_count{${JOB}}[$__rate_interval]))`;

/** What a series came to in the time range: also of a job that has ended, whose series are gone. */
const most = (metric, labels) => `max_over_time(${metric}{${labels}}[$__range])`;
const DONE = `max(${most("rankmesh_train_step", JOB)})`;
const TO_DO = `max(${most("rankmesh_train_steps", JOB)})`;

export const training = dashboard({
  uid: "rankmesh-training",
  title: "rankmesh / Training",
  description: "One job: loss, speed, memory of its ranks, and what they wait for.",
  variables: [
    labelVariable({
      name: "job",
      label: "Job",
      description: "Jobs that ran in the time range.",
      metric: "rankmesh_train_steps",
      of: "job_id",
    }),
    labelVariable({
      name: "rank",
      label: "Rank",
      description: "For the panels that draw one line a rank.",
      metric: `rankmesh_train_step{${JOB}}`,
      of: "rank",
      all: true,
    }),
  ],
  rows: [
    row(
      "Progress",
      stat({
        title: "Done",
        description: "Share of the job's steps that are done.",
        unit: "percentunit",
        min: 0,
        max: 1,
        queries: [query(`${DONE} / ${TO_DO}`, "done")],
        width: 4,
        height: 4,
      }),
      stat({
        title: "Steps",
        description: "Optimizer steps done, and to do.",
        unit: "none",
        queries: [query(DONE, "done"), query(TO_DO, "of")],
        width: 5,
        height: 4,
      }),
      stat({
        title: "Time left",
        description:
          "For the steps to do at the present pace, of a job that makes steps. Evaluations and writing the output are not in it.",
        unit: "s",
        queries: [
          query(`(${TO_DO} - ${DONE} > 0) / (${PACE} > 0) or (${TO_DO} - ${DONE} == 0)`, "left"),
        ],
        width: 5,
        height: 4,
      }),
      stat({
        title: "Last progress",
        description:
          "Time since the last step or evaluation ended. An alert is raised at 10 minutes.",
        unit: "s",
        thresholds: [
          { color: "green", value: null },
          { color: "orange", value: 120 },
          { color: "red", value: 600 },
        ],
        queries: [
          query(`time() - max(rankmesh_train_last_progress_timestamp_seconds{${JOB}})`, "since"),
        ],
        width: 5,
        height: 4,
      }),
      stat({
        title: "Non-finite steps",
        description:
          "Steps whose loss or gradient norm was NaN or infinite. The first one ends the job.",
        unit: "none",
        thresholds: [
          { color: "green", value: null },
          { color: "red", value: 1 },
        ],
        queries: [query(`max(${most("rankmesh_train_nonfinite_steps_total", JOB)})`, "steps")],
        width: 5,
        height: 4,
      }),
      lines({
        title: "Loss",
        description:
          "Of the last step over its whole batch, and of the last evaluation where the job has them.",
        unit: "none",
        queries: [
          query(`max(rankmesh_train_loss{${JOB}})`, "training"),
          query(`max(rankmesh_eval_loss{${JOB}})`, "evaluation"),
        ],
        calcs: ["min"],
        width: 12,
        height: 9,
      }),
      lines({
        title: "Gradient norm",
        description: "Global, before clipping. Jobs have one with clipGradNorm or reportGradNorm.",
        unit: "none",
        min: 0,
        queries: [query(`max(rankmesh_train_grad_norm{${JOB}})`, "norm")],
        calcs: ["max"],
        width: 12,
        height: 9,
      }),
    ),
    row(
      "Speed",
      lines({
        title: "Samples and tokens per second",
        description: "Rows and positions trained on, over the whole mesh. Tokens are on the right.",
        unit: "suffix: samples/s",
        min: 0,
        queries: [
          query(`sum(rate(rankmesh_train_samples_total{${JOB}}[$__rate_interval]))`, "samples"),
          query(`sum(rate(rankmesh_train_tokens_total{${JOB}}[$__rate_interval]))`, "tokens"),
        ],
        overrides: [
          {
            matcher: { id: "byName", options: "tokens" },
            properties: [
              { id: "unit", value: "suffix: tokens/s" },
              { id: "custom.axisPlacement", value: "right" },
            ],
          },
        ],
        calcs: ["mean"],
        width: 8,
        height: 9,
      }),
      lines({
        title: "Step time by phase",
        description:
          "Seconds of a step, averaged over the ranks chosen: waiting for data, computing (or launching, on a GPU), waiting for " +
          "the device, and blocked on collectives. Together they are the step.",
        unit: "s",
        min: 0,
        stack: true,
        queries: [
          query(
            `sum by (phase) (rate(rankmesh_train_phase_seconds_total{${RANKS}}[$__rate_interval]))
             / scalar(sum(rate(rankmesh_train_step_duration_seconds_count{${RANKS}}[$__rate_interval])))`,
            "{{phase}}",
          ),
        ],
        calcs: ["mean"],
        width: 8,
        height: 9,
      }),
      lines({
        title: "Step time",
        description: "Wall time of a step, end to end, over all ranks: median and 90th percentile.",
        unit: "s",
        min: 0,
        queries: [0.5, 0.9].map((q) =>
          query(
            `histogram_quantile(${q}, sum by (le)
             (rate(rankmesh_train_step_duration_seconds_bucket{${JOB}}[$__rate_interval])))`,
            `p${q * 100}`,
          ),
        ),
        calcs: ["mean"],
        width: 8,
        height: 9,
      }),
    ),
    row(
      "Memory",
      bars({
        title: "Peak memory per rank",
        description:
          "What each rank's backend has asked the system for at most, beside what the compiler predicted and what its worker may use.",
        unit: "bytes",
        min: 0,
        by: "rank",
        queries: [
          query(`max by (rank) (${most("rankmesh_rank_peak_memory_bytes", RANKS)})`, "peak"),
          query(
            `max by (rank) (${most("rankmesh_rank_predicted_peak_memory_bytes", RANKS)})`,
            "predicted",
          ),
          query(`max by (rank) (${most("rankmesh_rank_memory_limit_bytes", RANKS)})`, "limit"),
        ],
        width: 10,
        height: 9,
      }),
      gauges({
        title: "Peak of the limit",
        description:
          "Peak memory as a share of what the rank's worker may use. An alert is raised at 95 %.",
        unit: "percentunit",
        min: 0,
        max: 1,
        thresholds: [
          { color: "green", value: null },
          { color: "orange", value: 0.8 },
          { color: "red", value: 0.95 },
        ],
        queries: [
          query(
            `max by (rank) (${most("rankmesh_rank_peak_memory_bytes", RANKS)})
             / max by (rank) (${most("rankmesh_rank_memory_limit_bytes", RANKS)})`,
            "rank {{rank}}",
          ),
        ],
        width: 6,
        height: 9,
      }),
      lines({
        title: "Memory by kind",
        description:
          "Held now, summed over the ranks chosen. `context` and `pinned host` of a GPU are seen from outside and no part of the peak.",
        unit: "bytes",
        min: 0,
        stack: true,
        queries: [query(`sum by (kind) (rankmesh_rank_memory_bytes{${RANKS}})`, "{{kind}}")],
        width: 8,
        height: 9,
      }),
    ),
    row(
      "Collectives",
      lines({
        title: "Collective wait per peer",
        description:
          "Share of a rank's time in which it could do nothing until a peer's frame came. A peer that many wait for is the " +
          "straggler. Nothing over NCCL, where the device waits by itself.",
        unit: "percentunit",
        min: 0,
        queries: [
          query(
            `sum by (rank, peer) (rate(rankmesh_collective_wait_seconds_total{${RANKS}}[$__rate_interval]))`,
            "{{rank}} waits for {{peer}}",
          ),
        ],
        calcs: ["mean"],
        width: 8,
        height: 9,
      }),
      lines({
        title: "Straggler score",
        description:
          "How much more of their time the other ranks stand still than this one: near 0 where ranks are alike, near 1 for one " +
          "that all others wait for. An alert is raised at 0.25. Needs the recording rules.",
        unit: "percentunit",
        queries: [
          query(`max by (rank) (job_id_rank:rankmesh_straggler:score{${RANKS}})`, "rank {{rank}}"),
        ],
        calcs: ["mean"],
        width: 8,
        height: 9,
      }),
      lines({
        title: "Collective duration",
        description:
          "From a collective's start on a rank to its end, by operation: 90th percentile over the ranks chosen.",
        unit: "s",
        min: 0,
        queries: [
          query(
            `histogram_quantile(0.9, sum by (op, transport, le)
             (rate(rankmesh_collective_duration_seconds_bucket{${RANKS}}[$__rate_interval])))`,
            "{{op}} ({{transport}})",
          ),
        ],
        calcs: ["mean"],
        width: 8,
        height: 9,
      }),
      lines({
        title: "Collective traffic",
        description: "Payload that the ranks chosen send and receive, by operation.",
        unit: "Bps",
        min: 0,
        queries: [
          query(
            `sum by (op, direction) (rate(rankmesh_collective_bytes_total{${RANKS}}[$__rate_interval]))`,
            "{{op}} {{direction}}",
          ),
        ],
        calcs: ["mean"],
        width: 8,
        height: 9,
      }),
      lines({
        title: "Collective payload per step",
        description:
          "Bytes that a rank sends in one step, on average over the ranks chosen: a constant of the plan.",
        unit: "bytes",
        min: 0,
        queries: [
          query(
            `sum(rate(rankmesh_collective_bytes_total{${RANKS},direction="sent"}[$__rate_interval]))
             / sum(rate(rankmesh_train_step_duration_seconds_count{${RANKS}}[$__rate_interval]))`,
            "sent",
          ),
        ],
        width: 8,
        height: 9,
      }),
      lines({
        title: "Process restarts",
        description:
          "Starts of coordinator and workers anew in the last hour. A job does not outlive any of them.",
        unit: "none",
        min: 0,
        decimals: 0,
        queries: [
          query(
            'sum by (job, worker) (changes(process_start_time_seconds{job=~"rankmesh-.*"}[1h]))',
            "{{job}} {{worker}}",
          ),
        ],
        width: 8,
        height: 9,
      }),
    ),
  ],
});
