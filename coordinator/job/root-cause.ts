import type { JobFailure } from "./job-state.ts";

/** A rank that says why it cannot go on. */
export interface RankComplaint {
  readonly rank: number;
  readonly code: string;
  readonly message: string;
  /** The rank it blames, when that is another one. */
  readonly peer?: number;
  readonly step?: number;
}

/**
 * Which of several complaints about peers to report. When a rank stops, its neighbour complains about it, then that
 * one's neighbour about the neighbour, and so on round the ring: the guilty one is blamed and itself says nothing.
 * Where all complain (a cut between two live ranks), the first complaint stands.
 */
export function rootCause(
  complaints: readonly [RankComplaint, ...RankComplaint[]],
  workerOf: (rank: number) => string | undefined,
): JobFailure {
  const complainers = new Set(complaints.map((c) => c.rank));
  const chosen =
    complaints.find((c) => c.peer === undefined) ??
    complaints.find((c) => c.peer !== undefined && !complainers.has(c.peer)) ??
    complaints[0];
  const guilty = chosen.peer ?? chosen.rank;
  const worker = workerOf(guilty);
  const named = chosen.message.includes(`rank ${guilty}`);
  const name = worker === undefined ? `rank ${guilty}` : `rank ${guilty} (worker ${worker})`;
  return {
    code: chosen.code,
    message: named ? chosen.message : `${name}: ${chosen.message}`,
    rank: guilty,
    ...(worker === undefined ? {} : { worker }),
    ...(chosen.step === undefined ? {} : { step: chosen.step }),
  };
}
