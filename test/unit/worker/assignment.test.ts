import { expect } from "chai";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import type { Assign__Output } from "../../../shared/rpc/gen/rankmesh/v1/Assign.ts";
import { parseAssignment } from "../../../worker/assignment.ts";
import { tinyProgram } from "../../support/tiny-program.ts";

const assign: Assign__Output = {
  jobId: "job",
  generation: 1,
  rank: 1,
  peers: [
    { rank: 0, address: "127.0.0.1:5", worker: "a" },
    { rank: 1, address: "127.0.0.1:6", worker: "b" },
  ],
  programJson: Buffer.from(JSON.stringify(tinyProgram({ ranks: 2 }))),
  steps: 3,
  seed: 4,
  loadWeights: false,
  predictedPeakMemoryBytes: 104,
  collectiveTimeoutSeconds: 2.5,
  evaluateEvery: 0,
  evaluationBatches: 0,
  ncclVersion: "",
};

describe("parseAssignment", () => {
  it("orders addresses by rank and takes seconds to milliseconds", () => {
    const read = parseAssignment({ ...assign, peers: [...assign.peers].reverse() });
    expect(read.addresses).to.deep.equal(["127.0.0.1:5", "127.0.0.1:6"]);
    expect(read.collectiveTimeoutMs).to.equal(2_500);
    expect(read.ncclVersion).to.equal(undefined);
  });

  for (const [what, change, text] of [
    ["no job id", { jobId: "" }, "job_id: is empty"],
    ["a rank outside the mesh", { rank: 2 }, "rank: is 2, the program's mesh has 2 ranks"],
    ["a missing peer", { peers: assign.peers.slice(1) }, "peers: no address of rank 0"],
    ["a peer twice", { peers: [...assign.peers, ...assign.peers] }, "rank 0 is listed twice"],
    [
      "an address that is none",
      { peers: [{ rank: 0, address: "x", worker: "" }] },
      'rank 0 has the address "x"',
    ],
    [
      "a timeout of 0",
      { collectiveTimeoutSeconds: 0 },
      "collective_timeout_seconds: 0 is not between",
    ],
    [
      "a timeout of NaN",
      { collectiveTimeoutSeconds: Number.NaN },
      "collective_timeout_seconds: NaN",
    ],
    [
      "steps past 2^53",
      { steps: 2 ** 60 },
      "steps: 1152921504606847000 is not a whole number below 2^53",
    ],
    ["an empty program", { programJson: Buffer.alloc(0) }, "program_json: 0 bytes are not JSON"],
  ] as const) {
    it(`refuses ${what}`, () => {
      expect(() => parseAssignment({ ...assign, ...change } as Assign__Output)).to.throw(
        InvalidArgumentError,
        text,
      );
    });
  }
});
