import { randomBytes } from "node:crypto";
import { expect } from "chai";
import { checkJob, checkSubmission, specKey } from "../../../coordinator/job/check-submission.ts";
import type { JobFiles, PlannedData } from "../../../coordinator/job/job-files.ts";
import type { Planner } from "../../../coordinator/planner.ts";
import { jobPlan } from "../../../coordinator/planning/job-plan.ts";
import { planJob } from "../../../coordinator/planning/plan-job.ts";
import { type Fault, InternalError, InvalidArgumentError } from "../../../shared/errors.ts";
import type { JobSpecInput } from "../../../shared/job/job-spec.ts";
import { jobSpecToProto } from "../../../shared/job/proto.ts";
import { requireJobSpec } from "../../../shared/job/resolve.ts";
import type { JobSpec__Output } from "../../../shared/rpc/gen/rankmesh/v1/JobSpec.ts";
import { services } from "../../../shared/rpc/proto.ts";
import { caught } from "../../support/caught.ts";
import { smallJob } from "../../support/coordinator-harness.ts";

/** The spec as a server receives it. */
function received(spec: JobSpecInput): JobSpec__Output | null {
  const { SubmitJob } = services().training.definition;
  const bytes = SubmitJob.requestSerialize({ spec: jobSpecToProto(spec) });
  return SubmitJob.requestDeserialize(bytes).spec;
}

function files(faults: readonly Fault[] = []): JobFiles {
  return {
    facts: () => Promise.resolve({ facts: {}, faults: [] }),
    check: () => Promise.resolve(faults),
  } as unknown as JobFiles;
}

async function faultsOf(spec: JobSpecInput, fileFaults: readonly Fault[] = []): Promise<string[]> {
  const error = await caught(checkSubmission(received(spec), planJob, files(fileFaults)));
  expect(error).to.be.instanceOf(InvalidArgumentError);
  return (error as InvalidArgumentError).faults.map((fault) => fault.path);
}

describe("submission check", () => {
  it("gives the resolved spec with its plan", async () => {
    const { spec, sizes, plan } = await checkSubmission(received(smallJob(1, 2)), planJob, files());
    expect(spec.steps).to.equal(3);
    expect(sizes).to.deep.equal({ dataParallel: 1, tensorParallel: 2 });
    expect(plan.program.mesh.axes.map((a) => a.size)).to.deep.equal([1, 2]);
  });

  it("takes auto sizes as 1: what they become is known when the job starts", async () => {
    const { sizes } = await checkSubmission(received(smallJob("auto", 2)), planJob, files());
    expect(sizes).to.deep.equal({ dataParallel: 1, tensorParallel: 2 });
  });

  it("lets no fault of the schema hide one of the plan, the shapes or the files", async () => {
    const spec = { ...smallJob(1, 3), clipGradNorm: -1, plan: { w1: "colwyse" } };
    const paths = await faultsOf(spec, [{ path: "output.safetensors", message: "no such folder" }]);
    expect(paths).to.include.members(["clipGradNorm", 'plan["w1"]', "output.safetensors"]);
  });

  it("checks the files against the model even where plan or mesh are at fault", async () => {
    const seen: (number | undefined)[] = [];
    const watching = {
      ...files(),
      check: (_: unknown, planned?: PlannedData) => {
        seen.push(planned?.program.inputs.length);
        return Promise.resolve([]);
      },
    } as unknown as JobFiles;
    const spec = { ...smallJob(1, 3), plan: { w1: "colwise", nope: "rowwise" } };
    await caught(checkSubmission(received(spec), planJob, watching));
    expect(seen).to.deep.equal([1]);
    const model = { feedForward: { dim: 4.5, hidden: 8 } };
    await caught(checkJob({ ...smallJob(1, 1), model }, planJob, watching));
    expect(seen).to.deep.equal([1, undefined]);
  });

  it("refuses a model whose program is longer than a worker takes", async () => {
    const long: Planner = (spec, sizes, facts) => {
      const plan = planJob(spec, sizes, facts);
      return jobPlan({
        ...plan,
        program: { ...plan.program, name: randomBytes(4 << 20).toString("hex") },
        makeReport: () => plan.report,
      });
    };
    const error = await caught(checkSubmission(received(smallJob(1, 1)), long, files()));
    expect((error as InvalidArgumentError).faults.map((f) => f.path)).to.deep.equal(["model"]);
    expect(String(error)).to.match(/takes \d+ bytes, more than the 3670016 that a worker takes/);
  });

  it("drops what is said of a key that holds a stand-in", async () => {
    const spec = { ...smallJob(1, 1), data: { batchSize: 0, random: {} } };
    const paths = await faultsOf(spec, [{ path: "data.batchSize", message: "about the stand-in" }]);
    expect(paths).to.deep.equal(["data.batchSize"]);
  });

  it("reports an empty request as a job without a model", async () => {
    const error = await caught(checkSubmission(null, planJob, files()));
    expect((error as InvalidArgumentError).faults.map((f) => f.path)).to.include("model");
  });

  it("passes on what is no fault of the spec", async () => {
    const broken = () => {
      throw new InternalError("bug");
    };
    expect(
      await caught(checkSubmission(received(smallJob(1, 1)), broken, files())),
    ).to.be.instanceOf(InternalError);
  });
});

describe("spec key", () => {
  it("is equal for specs that mean the same and differs for any other", () => {
    const key = (spec: JobSpecInput): string => specKey(requireJobSpec(spec));
    const plan = { w1: "colwise", w3: "colwise", w2: "rowwise" };
    const turned = { w2: "rowwise", w3: "colwise", w1: "colwise" };
    expect(key(smallJob(1, 1, { plan }))).to.equal(
      key(smallJob(1, 1, { plan: turned, clipGradNorm: 0 })),
    );
    expect(key(smallJob(1, 1))).to.not.equal(key(smallJob(1, 1, { steps: 4 })));
    expect(key(smallJob(1, 1))).to.not.equal(key(smallJob(1, 2)));
  });
});
