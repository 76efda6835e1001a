import { type Fault, InvalidArgumentError } from "../shared/errors.ts";
import type { RoundSchedule } from "../shared/job/rounds.ts";
import { worldSize } from "../shared/mesh/mesh.ts";
import type { Program } from "../shared/program/program.ts";
import { quote } from "../shared/quote.ts";
import { parseHostPort } from "../shared/rpc/address.ts";
import type { Assign__Output } from "../shared/rpc/gen/rankmesh/v1/Assign.ts";
import { parseProgram } from "./program-check.ts";

/** What every message about one assignment names. */
export interface AssignmentKey {
  readonly jobId: string;
  readonly generation: number;
}

/** One rank's share of one generation of a job, checked. */
export interface Assignment extends AssignmentKey {
  readonly rank: number;
  /** Address of every rank's CollectiveService, by rank; this rank's own among them. */
  readonly addresses: readonly string[];
  readonly program: Program;
  /** Steps, and evaluations between them. */
  readonly schedule: RoundSchedule;
  readonly seed: number;
  readonly loadWeights: boolean;
  readonly predictedPeakMemoryBytes: number;
  readonly collectiveTimeoutMs: number;
  /** Collectives run on the devices, over NCCL of this version; undefined: over gRPC. */
  readonly ncclVersion?: string | undefined;
}

/** Bounds on what a coordinator may ask: a wait of 0 would fail every job, one of a day would hide a hang. */
const MAX_TIMEOUT_SECONDS = 24 * 3600;

/** @throws InvalidArgumentError with the faults, by field */
export function parseAssignment(assign: Assign__Output): Assignment {
  const program = parseProgram(assign.programJson);
  const faults: Fault[] = [];
  const ranks = worldSize(program.mesh);
  const { jobId, generation, rank, steps, seed, evaluateEvery, evaluationBatches } = assign;
  if (jobId === "") faults.push({ path: "job_id", message: "is empty" });
  if (rank >= ranks) {
    faults.push({ path: "rank", message: `is ${rank}, the program's mesh has ${ranks} ranks` });
  }
  const numbers = {
    generation,
    steps,
    seed,
    evaluate_every: evaluateEvery,
    evaluation_batches: evaluationBatches,
  };
  for (const [path, value] of Object.entries(numbers)) {
    if (!Number.isSafeInteger(value))
      faults.push({ path, message: `${value} is not a whole number below 2^53` });
  }
  faults.push(...evaluationFaults(evaluateEvery, evaluationBatches, program));
  const timeout = assign.collectiveTimeoutSeconds;
  if (!(timeout > 0 && timeout <= MAX_TIMEOUT_SECONDS)) {
    const message = `${timeout} is not between 0 and ${MAX_TIMEOUT_SECONDS}`;
    faults.push({ path: "collective_timeout_seconds", message });
  }
  const addresses = parsePeers(assign, ranks, faults);
  if (faults.length > 0) throw new InvalidArgumentError(faults);
  return {
    jobId,
    generation,
    rank,
    addresses,
    program,
    schedule: { steps, evaluateEvery, evaluationBatches },
    seed,
    loadWeights: assign.loadWeights,
    predictedPeakMemoryBytes: assign.predictedPeakMemoryBytes,
    collectiveTimeoutMs: timeout * 1000,
    ncclVersion: assign.ncclVersion === "" ? undefined : assign.ncclVersion,
  };
}

function evaluationFaults(every: number, batches: number, program: Program): Fault[] {
  if (every === 0) return [];
  const faults: Fault[] = [];
  if (batches === 0) faults.push({ path: "evaluation_batches", message: "is 0" });
  if (program.evaluation === undefined) {
    const message = `is ${every}, and the program has no evaluation`;
    faults.push({ path: "evaluate_every", message });
  }
  // A run of a collective is told from the next by a number of 31 bits.
  const runs = (batches + 1) * (program.microbatches + 1);
  if (runs >= 2 ** 31) {
    const message = `is ${batches}; an evaluation has at most ${2 ** 31} runs of its program`;
    faults.push({ path: "evaluation_batches", message });
  }
  return faults;
}

function parsePeers(assign: Assign__Output, ranks: number, faults: Fault[]): string[] {
  const byRank = new Map<number, string>();
  for (const { rank, address } of assign.peers) {
    if (rank >= ranks || byRank.has(rank)) {
      const what = byRank.has(rank) ? "listed twice" : `outside a mesh of ${ranks}`;
      faults.push({ path: "peers", message: `rank ${rank} is ${what}` });
      continue;
    }
    byRank.set(rank, address);
    // A rank never dials itself.
    if (rank === assign.rank) continue;
    try {
      parseHostPort(address);
    } catch {
      faults.push({
        path: "peers",
        message: `rank ${rank} has the address ${quote(address)}, not host:port`,
      });
    }
  }
  const missing = [...Array(ranks).keys()].filter(
    (rank) => rank !== assign.rank && !byRank.has(rank),
  );
  if (missing.length > 0) {
    faults.push({
      path: "peers",
      message: `no address of rank ${missing.slice(0, 10).join(", ")}`,
    });
  }
  return Array.from({ length: ranks }, (_, rank) => byRank.get(rank) ?? "");
}
