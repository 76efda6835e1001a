import { expect } from "chai";
import fc from "fast-check";
import {
  MAX_OVERTAKEN,
  place,
  type QueuedJob,
  type SchedulableWorker,
  schedule,
  sizesFor,
} from "../../../coordinator/gang/scheduler.ts";
import type { MeshSizes } from "../../../coordinator/job/job-state.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import type { AxisSize } from "../../../shared/job/job-spec.ts";

function worker(name: string, more: Partial<SchedulableWorker> = {}): SchedulableWorker {
  return {
    name,
    backend: "cpu",
    fingerprint: "cpu/avx2",
    memoryLimitBytes: 1000,
    workspaceBytes: 0,
    precisions: ["float32"],
    ...more,
  };
}

function workers(n: number, more: Partial<SchedulableWorker> = {}): SchedulableWorker[] {
  return Array.from({ length: n }, (_, i) => worker(`${more.backend ?? "w"}${i}`, more));
}

function job(
  jobId: string,
  dataParallel: AxisSize,
  tensorParallel: AxisSize,
  more: Partial<QueuedJob> = {},
): QueuedJob {
  return {
    jobId,
    mesh: { dataParallel, tensorParallel },
    allowMixedBackends: false,
    precision: "float32",
    overtaken: 0,
    arenaBytes: (sizes: MeshSizes) => 600 / sizes.tensorParallel,
    ...more,
  };
}

describe("gang placement", () => {
  it("puts rank k on the k-th worker in natural order of names", () => {
    const free = ["w10", "w2", "w1"].map((name) => worker(name));
    expect(place(job("a", 1, 3), free, free)).to.deep.equal({
      kind: "start",
      sizes: { dataParallel: 1, tensorParallel: 3 },
      arenaBytes: 200,
      workers: ["w1", "w2", "w10"],
    });
  });

  for (const [free, registered, reason] of [
    [2, 2, "needs 4 workers, 2 are free (2 registered)"],
    [1, 5, "needs 4 workers, 1 is free (5 registered)"],
    [0, 4, "needs 4 workers, none is free (4 registered)"],
    [0, 0, "needs 4 workers, none is registered"],
  ] as const) {
    it(`starts no rank of four with ${free} of ${registered} workers free, and says so`, () => {
      const all = workers(registered);
      expect(place(job("a", 2, 2), all.slice(0, free), all)).to.deep.equal({
        kind: "wait",
        reason,
      });
    });
  }

  for (const [dataParallel, tensorParallel, n, sizes] of [
    ["auto", 2, 7, { dataParallel: 3, tensorParallel: 2 }],
    [2, "auto", 7, { dataParallel: 2, tensorParallel: 3 }],
    [1, "auto", 4, { dataParallel: 1, tensorParallel: 4 }],
    ["auto", "auto", 5, { dataParallel: 1, tensorParallel: 5 }],
    ["auto", 4, 3, undefined],
    [2, 2, 4, { dataParallel: 2, tensorParallel: 2 }],
    [2, 2, 3, undefined],
    ["auto", "auto", 0, undefined],
  ] as const) {
    it(`makes ${dataParallel} x ${tensorParallel} of ${n} workers ${sizes ? `${sizes.dataParallel} x ${sizes.tensorParallel}` : "nothing"}`, () => {
      expect(sizesFor({ dataParallel, tensorParallel }, n)).to.deep.equal(sizes);
    });
  }

  it("never mixes fingerprints in a gang", () => {
    const free = [
      ...workers(3),
      ...workers(3, { backend: "reference", fingerprint: "reference/1" }),
    ];
    expect(place(job("a", 1, 4), free, free)).to.deep.equal({
      kind: "wait",
      reason:
        "needs 4 workers of one kind, free are 3 x cpu/avx2, 3 x reference/1 (6 registered); workers are of one kind when backend, build, CPU and --threads are equal; allowMixedBackends takes any",
    });
    expect(place(job("a", 1, 4, { allowMixedBackends: true }), free, free).kind).to.equal("start");
  });

  it("prefers the faster backend for a fixed mesh, the larger group for auto", () => {
    const free = [...workers(3), ...workers(2, { backend: "cuda", fingerprint: "cuda/90" })];
    expect(place(job("a", 1, 2), free, free)).to.deep.include({ workers: ["cuda0", "cuda1"] });
    expect(place(job("a", 1, "auto"), free, free)).to.deep.include({ workers: ["w0", "w1", "w2"] });
  });

  it("passes over workers whose memory is too small, and says how much is needed", () => {
    const free = [worker("small", { memoryLimitBytes: 299 }), worker("w1"), worker("w2")];
    expect(place(job("a", 1, 2), free, free)).to.deep.include({ workers: ["w1", "w2"] });
    expect(place(job("a", 1, 2), free.slice(0, 2), free)).to.deep.equal({
      kind: "wait",
      reason: "needs 2 workers with 300 B of memory each, 1 of 2 free ones has it (3 registered)",
    });
  });

  it("takes a worker that names no limit as having enough", () => {
    const free = [worker("w", { memoryLimitBytes: 0, workspaceBytes: 5 })];
    expect(place(job("a", 1, 1), free, free).kind).to.equal("start");
  });

  it("counts what a backend takes for itself against its worker's limit, to the byte", () => {
    const [exact, short] = [400, 401].map((workspaceBytes) => [worker("w", { workspaceBytes })]);
    expect(place(job("a", 1, 1), exact ?? [], exact ?? [])).to.deep.include({
      kind: "start",
      arenaBytes: 600,
    });
    expect(place(job("a", 1, 1), short ?? [], short ?? [])).to.deep.equal({
      kind: "wait",
      reason:
        "needs 1 worker with 600 B of memory each beside up to 401 B for their backend, 0 of 1 free ones have it (1 registered)",
    });
  });

  it("tells a job how large an arena may be, beside what backends take for themselves", () => {
    const seen: (number | undefined)[] = [];
    const asking = job("a", 1, 2, {
      arenaBytes: (_, memoryBytes) => {
        seen.push(memoryBytes);
        return 1;
      },
    });
    const free = [worker("w0", { workspaceBytes: 100 }), worker("w1", { workspaceBytes: 300 })];
    place(asking, free, free);
    expect(seen).to.deep.equal([700]);
  });

  it("puts a bf16 job on workers that compute in bf16, slower ones if need be", () => {
    const half = { precisions: ["float32", "bfloat16"] as const };
    const free = [
      worker("w0"),
      worker("w1"),
      ...workers(2, { backend: "reference", fingerprint: "reference/1", ...half }),
    ];
    const bf16 = { precision: "bfloat16" } as const;
    expect(place(job("a", 1, 2, bf16), free, free)).to.deep.include({
      workers: ["reference0", "reference1"],
    });
    expect(place(job("a", 1, "auto", bf16), free, free)).to.deep.include({
      sizes: { dataParallel: 1, tensorParallel: 2 },
    });
    expect(place(job("a", 1, 2), free, free)).to.deep.include({ workers: ["w0", "w1"] });
  });

  it("says which free workers cannot compute in bf16", () => {
    const free = [
      ...workers(6),
      worker("g", { backend: "gpujs", fingerprint: "gpujs/1" }),
      worker("r", {
        backend: "reference",
        fingerprint: "reference/1",
        precisions: ["float32", "bfloat16"],
      }),
    ];
    expect(place(job("a", 1, 2, { precision: "bfloat16" }), free, free)).to.deep.equal({
      kind: "wait",
      reason:
        "needs 2 workers that compute in bf16, 1 is free (8 registered); cpu (w0, w1, w2, w3 and 2 more) computes in fp32 only, gpujs (g) in fp32 only",
    });
  });

  it("mixes backends only where none alone has enough workers", () => {
    const free = [
      worker("a"),
      worker("b", { backend: "reference", fingerprint: "reference/1" }),
      worker("c"),
    ];
    const mixed = { allowMixedBackends: true };
    expect(place(job("a", 1, 2, mixed), free, free)).to.deep.include({ workers: ["a", "c"] });
    expect(place(job("a", 1, 3, mixed), free, free)).to.deep.include({ workers: ["a", "b", "c"] });
    expect(place(job("a", 1, "auto", mixed), free, free)).to.deep.include({
      workers: ["a", "b", "c"],
    });
  });

  it("shrinks an auto mesh to the workers with enough memory", () => {
    const free = [worker("w0"), worker("w1"), worker("w2", { memoryLimitBytes: 100 })];
    expect(place(job("a", 1, "auto"), free, free)).to.deep.include({
      sizes: { dataParallel: 1, tensorParallel: 2 },
      workers: ["w0", "w1"],
    });
  });

  it("makes a size that does not compile the job's own error", () => {
    const free = workers(3);
    const error = new InvalidArgumentError("hidden 80 is not divisible by 3");
    const picky = job("a", 1, "auto", {
      arenaBytes: () => {
        throw error;
      },
    });
    expect(place(picky, free, free)).to.deep.equal({ kind: "invalid", error });
  });
});

describe("queue", () => {
  it("starts jobs in the order in which they came while workers last", () => {
    const all = workers(5);
    const result = schedule([job("a", 1, 2), job("b", 1, 2), job("c", 1, 2)], all, all);
    expect(result.map((r) => r.placement.kind)).to.deep.equal(["start", "start", "wait"]);
    expect(result[1]?.placement).to.deep.include({ workers: ["w2", "w3"] });
    expect(result[2]?.placement).to.deep.equal({
      kind: "wait",
      reason: "needs 2 workers, 1 is free (5 registered)",
    });
  });

  it("lets a smaller later job pass one that has to wait, and counts it", () => {
    const all = workers(4);
    const result = schedule([job("big", 1, 4), job("small", 1, 1)], all.slice(2), all);
    expect(result.map((r) => [r.jobId, r.placement.kind, r.overtaken])).to.deep.equal([
      ["big", "wait", 1],
      ["small", "start", 0],
    ]);
  });

  it("holds later jobs back once a job was overtaken often enough", () => {
    const all = workers(4);
    const result = schedule(
      [job("big", 1, 4, { overtaken: MAX_OVERTAKEN }), job("small", 1, 1)],
      all.slice(2),
      all,
    );
    expect(result[1]?.placement).to.deep.equal({
      kind: "wait",
      reason: `waits behind job big, which came first and was overtaken ${MAX_OVERTAKEN} times`,
    });
  });

  it("is not held up by a job that no number of free workers here could serve", () => {
    const all = workers(4);
    const result = schedule(
      [job("huge", 1, 5, { overtaken: 99 }), job("small", 1, 1)],
      all.slice(2),
      all,
    );
    expect(result.map((r) => [r.placement.kind, r.overtaken])).to.deep.equal([
      ["wait", 99],
      ["start", 0],
    ]);
  });

  it("starts every job in bounded time, whatever else keeps coming", () => {
    // Small jobs arrive for ever and end in random order; the big one must still get its turn.
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 5 }), fc.infiniteStream(fc.nat(9)), (n, random) => {
        const all = workers(n);
        const running: string[][] = [["w0"]];
        let queue: QueuedJob[] = [job("big", 1, n)];
        for (let round = 0; round < 60; round++) {
          queue.push(job(`small${round}`, 1, 1));
          const busy = running.flat();
          const result = schedule(
            queue,
            all.filter((w) => !busy.includes(w.name)),
            all,
          );
          for (const r of result)
            if (r.placement.kind === "start") running.push([...r.placement.workers]);
          if (result.some((r) => r.jobId === "big" && r.placement.kind === "start")) return true;
          queue = queue.flatMap((q) => {
            const r = result.find((s) => s.jobId === q.jobId);
            return r?.placement.kind === "wait" ? [{ ...q, overtaken: r.overtaken }] : [];
          });
          running.splice((random.next().value ?? 0) % Math.max(1, running.length), 1);
        }
        return false;
      }),
      { numRuns: 100 },
    );
  });

  it("decides nothing past a job whose plan is being made", () => {
    const all = workers(4);
    const queue = [
      job("first", 1, 1),
      job("planned", 1, "auto", { arenaBytes: () => undefined }),
      job("later", 1, 1),
    ];
    expect(schedule(queue, all, all).map((r) => r.placement)).to.deep.equal([
      {
        kind: "start",
        sizes: { dataParallel: 1, tensorParallel: 1 },
        arenaBytes: 600,
        workers: ["w0"],
      },
      {
        kind: "planning",
        reason: "its plan for dataParallel 1 x tensorParallel 3 is being made",
      },
      { kind: "planning", reason: "waits for the plan of job planned, which came first" },
    ]);
  });

  it("lets none pass a waiting job of which a plan has yet to tell whether it could be overtaken", () => {
    const all = workers(4);
    const big = job("big", "auto", 2, {
      arenaBytes: (sizes) => (sizes.dataParallel === 2 ? undefined : 600),
    });
    const result = schedule([big, job("small", 1, 1)], all.slice(3), all);
    expect(result.map((r) => r.placement)).to.deep.equal([
      { kind: "wait", reason: "needs 2 workers, 1 is free (4 registered)" },
      { kind: "planning", reason: "waits for the plan of job big, which came first" },
    ]);
  });

  it("starts the same jobs on the same workers however long plans take", () => {
    const size = fc.oneof(fc.integer({ min: 1, max: 3 }), fc.constant("auto" as const));
    fc.assert(
      fc.property(
        fc.array(fc.tuple(size, size, fc.nat(MAX_OVERTAKEN)), { maxLength: 6 }),
        fc.array(fc.tuple(fc.integer({ min: 1, max: 700 }), fc.boolean()), { maxLength: 6 }),
        (jobs, kinds) => {
          const all = kinds.map(([memoryLimitBytes], i) => worker(`w${i}`, { memoryLimitBytes }));
          const free = all.filter((_, i) => kinds[i]?.[1]);
          const queue = jobs.map(([d, t, overtaken], i) => job(`j${i}`, d, t, { overtaken }));
          const made = new Set<string>();
          const wanted: string[] = [];
          const planned = queue.map((of) => ({
            ...of,
            arenaBytes: (sizes: MeshSizes) => {
              const key = `${of.jobId} ${sizes.dataParallel} ${sizes.tensorParallel}`;
              if (made.has(key)) return of.arenaBytes(sizes);
              wanted.push(key);
              return undefined;
            },
          }));
          let passes = 0;
          for (;;) {
            wanted.length = 0;
            const result = schedule(planned, free, all);
            const [first] = wanted;
            if (first === undefined) {
              expect(result).to.deep.equal(schedule(queue, free, all));
              return;
            }
            expect(passes++).to.be.lessThan(200);
            made.add(first);
          }
        },
      ),
    );
  });

  it("gives no worker to two ranks", () => {
    const size = fc.oneof(fc.integer({ min: 1, max: 4 }), fc.constant("auto" as const));
    const fingerprint = fc.constantFrom("a", "b");
    fc.assert(
      fc.property(
        fc.array(fc.tuple(size, size), { maxLength: 6 }),
        fc.array(fc.tuple(fingerprint, fc.integer({ min: 1, max: 700 }), fc.boolean()), {
          maxLength: 8,
        }),
        (meshes, kinds) => {
          const all = kinds.map(([kind, memoryLimitBytes], i) =>
            worker(`w${i}`, { fingerprint: kind, memoryLimitBytes }),
          );
          const free = all.filter((_, i) => kinds[i]?.[2]);
          const result = schedule(
            meshes.map(([d, t], i) => job(`j${i}`, d, t)),
            free,
            all,
          );
          const used = result.flatMap((r) =>
            r.placement.kind === "start" ? r.placement.workers : [],
          );
          expect(new Set(used).size).to.equal(used.length);
          for (const { placement } of result) {
            if (placement.kind !== "start") continue;
            const gang = placement.workers.map((name) => free.find((w) => w.name === name));
            expect(gang.length).to.equal(
              placement.sizes.dataParallel * placement.sizes.tensorParallel,
            );
            expect(new Set(gang.map((w) => w?.fingerprint)).size).to.equal(1);
            expect(gang.every((w) => (w?.memoryLimitBytes ?? 0) >= placement.arenaBytes)).to.equal(
              true,
            );
          }
        },
      ),
    );
  });
});
