import { expect } from "chai";
import type { WorkerHandle, WorkerOptions } from "../../worker/worker-daemon.ts";
import { CoordinatorHarness } from "./coordinator-harness.ts";
import { type LookAlike, lookAlike } from "./look-alike.ts";
import { WorkerHarness } from "./worker-harness.ts";

/**
 * Workers of this process on the look-alike's GPU, and their coordinator: fresh ones for each test of the suite that makes this,
 * after which nothing may be left on the device.
 */
export class CudaRanks {
  readonly #workers = new WorkerHarness();
  #coordinator: CoordinatorHarness | undefined;

  constructor() {
    before(() => {
      lookAlike();
    });
    beforeEach(async () => {
      this.device.clear();
      this.#coordinator = await CoordinatorHarness.start({ limits: { leaseMs: 60_000 } });
    });
    afterEach(async () => {
      await this.stopWorkers();
      await this.coordinator.stop();
      this.device.clear();
      expect(this.device.leaks()).to.deep.equal([]);
    });
  }

  get device(): LookAlike {
    return lookAlike();
  }

  get coordinator(): CoordinatorHarness {
    if (this.#coordinator === undefined) throw new Error("there is a coordinator during tests");
    return this.#coordinator;
  }

  /** Workers that serve ranks, one for each of these options; as many are idle when it returns. */
  async join(all: readonly Partial<WorkerOptions>[]): Promise<WorkerHandle[]> {
    const { coordinator } = this;
    const handles: WorkerHandle[] = [];
    for (const options of all) {
      const address = coordinator.handle.grpcAddress;
      handles.push(await this.#workers.worker(address, { backend: "cuda", ...options }));
    }
    await coordinator.until(`${all.length} idle workers`, async () => {
      const found = await coordinator.listWorkers();
      return found.filter(({ state }) => state === "idle").length >= all.length;
    });
    return handles;
  }

  stopWorkers(): Promise<void> {
    return this.#workers.stop();
  }
}
