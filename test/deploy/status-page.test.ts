import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { Browser } from "playwright-core";
import {
  findChromium,
  launchChromium,
  NO_CHROMIUM,
  openPage,
  type WatchedPage,
} from "../support/browser.ts";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";

/** Generous: the machine may be busy. What must be fast is measured by itself. */
const WAIT = { timeout: 30_000 };

describe("the status page in Chromium", function () {
  this.timeout(120_000);
  let browser: Browser;
  let coordinator: CoordinatorHarness;
  let shots: string;
  let watched: WatchedPage | undefined;

  before(async function () {
    const path = findChromium();
    if (path === undefined) {
      process.stderr.write(`skipped: ${NO_CHROMIUM}\n`);
      this.skip();
    }
    browser = await launchChromium(path);
    shots = await mkdtemp(join(tmpdir(), "rankmesh-page-"));
  });
  after(() => browser?.close());
  beforeEach(async () => {
    coordinator = await CoordinatorHarness.start();
  });
  afterEach(async () => {
    await watched?.close();
    watched = undefined;
    await coordinator.stop();
  });

  it("shows a step's loss within 2 s of the step", async () => {
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    await coordinator.joinMany(2, () => ({
      onStep: async (step) => {
        if (step === 1) await released;
        return undefined;
      },
    }));
    watched = await openPage(browser, coordinator.handle.pageUrl);
    const { page, faults } = watched;
    await page.getByText("No job yet. The first one shows up here by itself.").waitFor(WAIT);
    const { jobId } = await coordinator.submit(smallJob(1, 2, { steps: 2 }));
    await page.getByText("step 1 of 2").waitFor(WAIT);
    release();
    await coordinator.finished(jobId);
    const doneMs = performance.now();
    await page.getByText("step 2 of 2").waitFor(WAIT);
    expect(performance.now() - doneMs).to.be.below(2_000);
    await page.screenshot({ path: join(shots, "live.png"), fullPage: true });
    expect(faults).to.deep.equal([]);
  });
});
