/**
 * All-reduce over gRPC on loopback, one process per rank, against gloo in the same run.
 *
 *   node dist/bench/allreduce.js [--ranks 2,4] [--sizes 4096,65536,...] [--no-peer] [--json FILE]
 */
import { type ChildProcess, execFile, fork } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chooseAlgorithm } from "../shared/collective/algorithm.ts";
import type { Collective } from "../shared/program/program.ts";
import type { RankReport, RankTask } from "./allreduce-rank.ts";
import { REPOSITORY } from "./repository.ts";
import { median, p90 } from "./statistics.ts";

export interface AllReduceBenchOptions {
  /** @default [2, 4] */
  readonly ranks?: readonly number[];
  /** Message bytes. @default 4 KiB to 64 MiB */
  readonly sizes?: readonly number[];
  /** Whether gloo runs too, where it is found. @default true */
  readonly peer?: boolean;
  /** In place of what the compiler would choose. */
  readonly algorithm?: Collective["algorithm"];
  readonly segmentBytes?: number;
  /** Takes each line of the table as it is made. @default none */
  readonly print?: (line: string) => void;
}

export interface AllReduceRow {
  readonly ranks: number;
  readonly bytes: number;
  readonly algorithm: Collective["algorithm"];
  readonly segmentBytes: number;
  readonly medianSeconds: number;
  readonly p90Seconds: number;
  /** Processor time of rank 0, the barrier before each repeat included. */
  readonly cpuSeconds: number;
  /** Median of gloo in the same run; null where it is absent. */
  readonly peerSeconds: number | null;
  /** medianSeconds / peerSeconds. */
  readonly ratio: number | null;
  /** Largest ratio that is within the budget. */
  readonly budget: number;
}

export interface AllReduceBenchResult {
  readonly name: "allreduce";
  readonly kernel: string;
  /** Why there is no peer; absent when there is one. */
  readonly peerMissing?: string;
  readonly rows: readonly AllReduceRow[];
}

const SIZES = [4 << 10, 64 << 10, 256 << 10, 1 << 20, 8 << 20, 64 << 20];
const RANK_MODULE = fileURLToPath(new URL("./allreduce-rank.js", import.meta.url));
const LIMIT_MS = 180_000;

/** Runs the benchmark. @throws Error when a rank fails or holds a wrong sum */
export async function run(options: AllReduceBenchOptions = {}): Promise<AllReduceBenchResult> {
  const sizes = options.sizes ?? SIZES;
  const print = options.print ?? (() => undefined);
  const rows: AllReduceRow[] = [];
  let kernel = "";
  let peerMissing = options.peer === false ? "switched off" : undefined;
  print(
    "ranks      bytes  algorithm  segment   median ms     p90 ms     cpu ms    gloo ms   ratio  budget",
  );
  for (const ranks of options.ranks ?? [2, 4]) {
    const peer = peerMissing === undefined ? await runPeer(ranks, sizes) : peerMissing;
    if (typeof peer === "string") peerMissing = peer;
    const { seconds, cpuSeconds, kernel: used } = await runRanks(ranks, sizes, options);
    kernel = used;
    for (const [i, bytes] of sizes.entries()) {
      const times = seconds[i] ?? [];
      const chosen = chooseAlgorithm("allReduce", bytes, ranks);
      const medianSeconds = median(times);
      const peerSeconds = typeof peer === "string" ? null : (peer.get(bytes) ?? null);
      const row: AllReduceRow = {
        ranks,
        bytes,
        algorithm: options.algorithm ?? chosen.algorithm,
        segmentBytes: options.segmentBytes ?? chosen.segmentBytes,
        medianSeconds,
        p90Seconds: p90(times),
        cpuSeconds: cpuSeconds[i] ?? Number.NaN,
        peerSeconds,
        ratio: peerSeconds === null ? null : medianSeconds / peerSeconds,
        budget: bytes <= 1 << 20 ? 1 : 1.5,
      };
      rows.push(row);
      print(tableLine(row));
    }
  }
  return { name: "allreduce", kernel, ...(peerMissing === undefined ? {} : { peerMissing }), rows };
}

function tableLine(row: AllReduceRow): string {
  const ms = (seconds: number | null): string =>
    seconds === null ? "-" : (seconds * 1000).toFixed(3);
  return [
    String(row.ranks).padStart(5),
    String(row.bytes).padStart(10),
    row.algorithm.padStart(10),
    String(row.segmentBytes).padStart(8),
    ms(row.medianSeconds).padStart(11),
    ms(row.p90Seconds).padStart(10),
    ms(row.cpuSeconds).padStart(10),
    ms(row.peerSeconds).padStart(10),
    (row.ratio === null ? "-" : row.ratio.toFixed(2)).padStart(7),
    row.budget.toFixed(1).padStart(7),
  ].join(" ");
}

async function runRanks(
  ranks: number,
  sizes: readonly number[],
  { algorithm, segmentBytes }: AllReduceBenchOptions,
): Promise<Extract<RankReport, { kind: "times" }>> {
  const repeats = sizes.map((bytes) => Math.max(5, Math.min(200, Math.floor((256 << 20) / bytes))));
  const children = Array.from({ length: ranks }, () => fork(RANK_MODULE));
  const timer = setTimeout(() => {
    for (const child of children) child.kill("SIGKILL");
  }, LIMIT_MS);
  try {
    const choice = { ...(algorithm && { algorithm }), ...(segmentBytes && { segmentBytes }) };
    const listening = await Promise.all(
      children.map((child, rank) => {
        const task: RankTask = { rank, ranks, sizes, repeats, ...choice };
        child.send(task);
        return nextReport(child, rank);
      }),
    );
    const addresses = listening.map((report) =>
      report.kind === "listening" ? report.address : "",
    );
    for (const child of children) child.send(addresses);
    const done = await Promise.all(children.map((child, rank) => nextReport(child, rank)));
    const [first] = done;
    if (first?.kind !== "times") throw new Error("rank 0 reported no times");
    return first;
  } finally {
    clearTimeout(timer);
    // A rank ends when its parent lets go of it; one that can't is killed.
    for (const child of children) {
      if (child.connected) child.disconnect();
      setTimeout(() => child.kill("SIGKILL"), 2_000).unref();
    }
  }
}

function nextReport(child: ChildProcess, rank: number): Promise<RankReport> {
  return new Promise((resolve, reject) => {
    const exited = (code: number | null, signal: string | null): void =>
      reject(
        new Error(
          `rank ${rank} ended (${signal ?? code}) before it reported, or within ${LIMIT_MS} ms`,
        ),
      );
    child.once("exit", exited);
    child.once("message", (report: RankReport) => {
      child.off("exit", exited);
      if (report.kind === "failed") reject(new Error(`rank ${rank}: ${report.message}`));
      else resolve(report);
    });
  });
}

/** gloo's median seconds by message bytes, or why there are none. */
async function runPeer(
  ranks: number,
  sizes: readonly number[],
): Promise<Map<number, number> | string> {
  const folder = process.env["RANKMESH_PEER_DIR"] ?? join(REPOSITORY, "../shared/peer");
  const script = resolve(folder, "gloo_allreduce.py");
  if (!existsSync(script)) return `no ${script}; set RANKMESH_PEER_DIR`;
  const port = await freePort();
  const args = [
    script,
    "--world",
    String(ranks),
    "--port",
    String(port),
    "--bytes",
    sizes.join(","),
  ];
  let problem = "";
  // The first python3 of the path may be another one than the system's, which has the PyTorch package.
  for (const python of ["python3", "/usr/bin/python3"]) {
    const result = await capture(python, args);
    if (typeof result !== "string") {
      problem = result.problem;
      continue;
    }
    const rows = result
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { bytes: number; median_s: number });
    return new Map(rows.map(({ bytes, median_s }) => [bytes, median_s]));
  }
  return `gloo did not run: ${problem}`;
}

function capture(command: string, args: readonly string[]): Promise<string | { problem: string }> {
  return new Promise((done) => {
    execFile(command, args, { timeout: LIMIT_MS, encoding: "utf8" }, (error, stdout, stderr) => {
      if (error === null && stdout.trim() !== "") done(stdout);
      else done({ problem: stderr.trim().split("\n").at(-1) ?? error?.message ?? "no output" });
    });
  });
}

function freePort(): Promise<number> {
  return new Promise((done, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => done(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      ranks: { type: "string" },
      sizes: { type: "string" },
      algorithm: { type: "string" },
      segment: { type: "string" },
      "no-peer": { type: "boolean" },
      json: { type: "string" },
    },
  });
  const { algorithm } = values;
  const result = await run({
    ...(values.ranks && { ranks: values.ranks.split(",").map(Number) }),
    ...(values.sizes && { sizes: values.sizes.split(",").map(Number) }),
    ...(values.segment && { segmentBytes: Number(values.segment) }),
    ...((algorithm === "ring" || algorithm === "direct") && { algorithm }),
    peer: values["no-peer"] !== true,
    print: (line) => process.stdout.write(`${line}\n`),
  });
  process.stdout.write(
    `sums: ${result.kernel}${result.peerMissing ? `; no peer: ${result.peerMissing}` : ""}\n`,
  );
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`);
}
