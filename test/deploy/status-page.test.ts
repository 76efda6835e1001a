import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { AxeResults } from "axe-core";
import { expect } from "chai";
import type { Browser, BrowserContextOptions, Locator, Page } from "playwright-core";
import { findChromium, launchChromium, NO_CHROMIUM, openPage } from "../support/browser.ts";
import { CoordinatorHarness, smallJob } from "../support/coordinator-harness.ts";
import type { FakeWorkerOptions } from "../support/fake-worker.ts";

/** Generous: the machine may be busy. What must be fast is measured by itself. */
const WAIT = { timeout: 30_000 };
const HOSTILE = '<img src=x onerror="document.title=`owned`">';
const DESKTOP = { width: 1280, height: 900 };
const PHONE = { width: 360, height: 780 };
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const chromium = findChromium();
const test: typeof it =
  chromium === undefined
    ? (((title: string) => it.skip(`${title} (${NO_CHROMIUM})`)) as typeof it)
    : it;

describe("the status page in Chromium", function () {
  this.timeout(120_000);
  let browser: Browser;
  let coordinator: CoordinatorHarness;
  /** Screenshots, for whoever looks into a failure: RANKMESH_KEEP_SHOTS leaves them there. */
  let shots: string;
  const closing: (() => Promise<unknown>)[] = [];

  before(async () => {
    if (chromium === undefined) return;
    browser = await launchChromium(chromium);
    shots = process.env["RANKMESH_KEEP_SHOTS"] ?? (await mkdtemp(join(tmpdir(), "rankmesh-page-")));
  });
  after(async () => {
    await browser?.close();
    if (shots !== undefined && process.env["RANKMESH_KEEP_SHOTS"] === undefined)
      await rm(shots, { recursive: true, force: true });
  });
  beforeEach(async () => {
    coordinator = await CoordinatorHarness.start();
    closing.push(() => coordinator.stop());
  });
  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  /** The page in a context of its own; at the end of `look` nothing may have gone wrong in it. */
  async function withPage<T>(
    look: (page: Page) => Promise<T>,
    options: BrowserContextOptions & { readonly hash?: string } = {},
  ): Promise<T> {
    const { hash = "", ...context } = options;
    const url = coordinator.handle.pageUrl;
    const watched = await openPage(browser, `${url}${hash}`, { viewport: DESKTOP, ...context });
    try {
      const result = await look(watched.page);
      expect(watched.faults, "errors in the browser").to.deep.equal([]);
      expect([...watched.origins]).to.deep.equal([new URL(url).origin]);
      return result;
    } finally {
      await watched.close();
    }
  }

  async function shot(page: Page, name: string): Promise<void> {
    await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
  }

  /** Workers whose ranks stop before step `step` until `release` is called. */
  function gate(step: number): { readonly release: () => void; readonly onStep: OnStep } {
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    return {
      release: () => release(),
      onStep: async (at) => {
        if (at === step) await released;
        return undefined;
      },
    };
  }

  test("shows a step's loss within 2 s of the step", async () => {
    const { release, onStep } = gate(1);
    await coordinator.joinMany(2, () => ({ onStep }));
    await withPage(async (page) => {
      await page.getByText("No job yet. The first one shows up here by itself.").waitFor(WAIT);
      const { jobId } = await coordinator.submit(smallJob(1, 2, { steps: 2 }));
      await page.getByText("step 1 of 2").waitFor(WAIT);
      release();
      await coordinator.finished(jobId);
      const doneMs = performance.now();
      await page.getByText("step 2 of 2").waitFor(WAIT);
      expect(performance.now() - doneMs).to.be.below(2_000);
      // Of step 1, as fake ranks report it.
      await page.locator(".figure", { hasText: /^Loss/ }).getByText("0.5").waitFor(WAIT);
    });
  });

  test("draws 8 ranks as a grid of 2 x 4, coloured by memory and told in words", async () => {
    const limit = 100_000;
    const peaks = [5_000, 30_000, 60_000, 80_000, 92_000, 98_000, 0, 20_000];
    const { release, onStep } = gate(2);
    await coordinator.joinMany(8, (rank) => ({
      memoryLimitBytes: limit,
      async onStep(step, worker) {
        await onStep(step, worker);
        return { peakMemoryBytes: peaks[rank] ?? 0 };
      },
    }));
    const { jobId } = await coordinator.submit(smallJob(2, 4, { steps: 4, data: DATA_OF_8 }));
    await withPage(async (page) => {
      const grid = page.getByRole("table", { name: /2 rows along dataParallel, 4 columns/ });
      await grid.getByText("98%").waitFor(WAIT);
      expect(await grid.getByRole("columnheader").allInnerTexts()).to.deep.equal([
        "tp 0",
        "tp 1",
        "tp 2",
        "tp 3",
      ]);
      expect(await grid.getByRole("rowheader").allInnerTexts()).to.deep.equal(["dp 0", "dp 1"]);
      const cells = grid.getByRole("cell");
      const cellsDrawn = await grid.locator(".cell").all();
      const levels = await Promise.all(cellsDrawn.map((cell) => cell.getAttribute("data-level")));
      expect(levels).to.deep.equal(["0", "1", "2", "3", "4", "5", "none", "0"]);
      // The first cell is the corner; rank 5 is at dp 1, tp 1.
      const text = await textOf(cells.filter({ hasText: "w5" }));
      expect(text).to.equal("5\u25b698%98.0 kBw5cpu:0running");
      await shot(page, "grid");
      release();
      await page.getByRole("heading", { name: "small" }).waitFor(WAIT);
      await coordinator.finished(jobId);
      await page.locator(".job-title-line .state", { hasText: "SUCCEEDED" }).waitFor(WAIT);
    });
  });

  test("says plainly why a job failed: the rank, its worker and the step", async () => {
    const { onStep } = gate(2);
    const [, guilty] = await coordinator.joinMany(2, () => ({ onStep }));
    await coordinator.submit(smallJob(1, 2, { name: "doomed", steps: 9 }));
    await withPage(async (page) => {
      await page.getByText("step 2 of 9").waitFor(WAIT);
      await guilty?.kill();
      const alert = page.getByRole("alert");
      await alert
        .getByText("Failed at step 2 \u00b7 rank 1 on w1 \u00b7 UNAVAILABLE")
        .waitFor(WAIT);
      expect(await textOf(alert)).to.contain("rank 1 (worker w1) was lost at step 2");
      const failed = page.locator('.cell[data-state="failed"]');
      expect(await textOf(failed)).to.contain("w1");
      await page
        .locator(".worker-list li", { hasText: "w1" })
        .getByText("lost", { exact: true })
        .waitFor(WAIT);
      await page.locator(".events tr", { hasText: "FAILED" }).waitFor(WAIT);
      expect(await textOf(page.locator("#announcement"))).to.match(/^Job doomed: FAILED\. rank 1/);
      expect(await page.title()).to.equal("FAILED doomed \u00b7 rankmesh");
      await shot(page, "failed");
    });
  });

  test("names the rank that holds up the others while a step takes long", async () => {
    let hangs = false;
    await coordinator.joinMany(4, (rank) => ({
      // In a ring each waits for the one before it: rank 2 alone waits for nobody.
      waitingFor: () => (hangs && rank !== 2 ? String((rank + 3) % 4) : ""),
      onStep: async (step) => {
        if (step < 2) return { seconds: 0.01 };
        hangs = true;
        return "hang";
      },
    }));
    await coordinator.submit(
      smallJob(1, 4, { steps: 5, model: { feedForward: { dim: 8, hidden: 8 } } }),
    );
    await withPage(async (page) => {
      await page
        .getByText(/^No step for 0:\d\d: the others wait for rank 2 \(w2\)\.$/)
        .waitFor(WAIT);
      await page.locator('.cell[data-state="waited for"]').waitFor(WAIT);
      expect(
        await page.locator('.cell[data-state="waited for"] .cell-worker').allTextContents(),
      ).to.deep.equal(["w2"]);
      await shot(page, "waiting");
    });
  });

  test("says what a queued job waits for, and selects jobs by the address's hash", async () => {
    const { release, onStep } = gate(1);
    await coordinator.joinMany(1, () => ({ onStep }));
    const { jobId: running } = await coordinator.submit(smallJob(1, 1, { name: "first" }));
    const { jobId } = await coordinator.submit(smallJob(1, 4, { name: "second" }));
    await withPage(
      async (page) => {
        await page.getByText(/^Waits: needs 4 workers/).waitFor(WAIT);
        await page.getByText("Queued 1").waitFor(WAIT);
        await shot(page, "queued");
        await page.getByRole("link", { name: /first/ }).click();
        await page.getByRole("heading", { name: "first" }).waitFor(WAIT);
        expect(new URL(page.url()).hash).to.equal(`#job=${running}`);
        await page.goBack();
        await page.getByRole("heading", { name: "second" }).waitFor(WAIT);
        await page.getByRole("link", { name: "follow the newest" }).click();
        await page.getByRole("heading", { name: "first" }).waitFor(WAIT);
      },
      { hash: `#job=${jobId}` },
    );
    release();
  });

  test("scrolls its list to the job that the address names", async () => {
    await coordinator.joinMany(1);
    const jobIds: string[] = [];
    for (let i = 0; i < 40; i++) {
      const { jobId } = await coordinator.submit(smallJob(1, 1, { name: `job-${i}`, steps: 1 }));
      jobIds.push(jobId);
    }
    await coordinator.finished(jobIds.at(-1) ?? "");
    await withPage(
      async (page) => {
        await page.getByRole("heading", { name: "job-0", exact: true }).waitFor(WAIT);
        const link = await page.getByRole("link", { name: /^job-0 / }).boundingBox();
        const list = await page.locator("#jobs").boundingBox();
        if (link === null || list === null) throw new Error("the list or the job is not drawn");
        expect(link.y).to.be.at.least(list.y);
        expect(link.y + link.height).to.be.at.most(list.y + list.height + 1);
      },
      { hash: `#job=${jobIds[0]}` },
    );
  });

  test("shows hostile names and errors as the text they are", async () => {
    await coordinator.join(HOSTILE, {
      onStep: async (step, worker) => {
        if (step < 1) return undefined;
        const { jobId = "" } = worker.assigned[0] ?? {};
        worker.send({
          failed: { jobId, generation: 1, rank: 0, code: "INTERNAL", message: HOSTILE },
        });
        return "hang";
      },
    });
    const { jobId } = await coordinator.submit(smallJob(1, 1, { name: HOSTILE }), {
      jobId: HOSTILE,
    });
    await coordinator.finished(jobId);
    await withPage(
      async (page) => {
        await page.getByRole("heading", { name: HOSTILE }).waitFor(WAIT);
        expect(await textOf(page.locator(".error-message"))).to.equal(
          `rank 0 (worker ${HOSTILE}): ${HOSTILE}`,
        );
        expect(await textOf(page.locator(".rank-worker"))).to.equal(HOSTILE);
        expect(await textOf(page.locator(".worker-name"))).to.equal(HOSTILE);
        expect(await page.locator("img").count()).to.equal(0);
        expect(await page.title()).to.contain(HOSTILE);
        await shot(page, "hostile");
      },
      { hash: `#job=${encodeURIComponent(HOSTILE)}` },
    );
  });

  test("says that a loss is not finite", async () => {
    await coordinator.joinMany(1, () => ({
      onStep: async (step) => (step === 2 ? { loss: Number.NaN } : undefined),
    }));
    const { jobId } = await coordinator.submit(smallJob(1, 1, { steps: 5 }));
    await coordinator.finished(jobId);
    await withPage(async (page) => {
      await page.getByText("The loss of 1 step is not finite, first at step 3.").waitFor(WAIT);
      expect(await textOf(page.getByRole("alert"))).to.contain("loss is NaN at step 2");
      const figure = page.locator(".figure", { hasText: /^Loss/ });
      expect(await textOf(figure)).to.contain("not finite");
    });
  });

  test("draws thousands of steps as a few hundred points, each with its bounds", async () => {
    await coordinator.joinMany(1, () => ({
      onStep: async (step) => ({ seconds: step === 1_000 ? 40 : 0.01 }),
    }));
    const { jobId } = await coordinator.submit(
      smallJob(1, 1, {
        steps: 3_000,
        reportGradNorm: true,
        eval: { every: 100, data: { random: { length: 4, seed: 2 } } },
      }),
    );
    await withPage(async (page) => {
      await coordinator.finished(jobId);
      await page.getByText("step 3,000 of 3,000").waitFor(WAIT);
      await page.reload();
      await page.getByText(/^A point is the mean of 8 steps/).waitFor(WAIT);
      const chart = page.getByRole("img", { name: /^Loss\./ });
      expect(await chart.getAttribute("aria-label")).to.match(
        /^Loss\. mean loss: \S+ at step 8, \S+ at step 3000, between \S+ and 1\. held-out: /,
      );
      await page
        .getByText("The longest step took 40 s, beyond the chart.", { exact: true })
        .waitFor(WAIT);
      await shot(page, "long");
      await page.getByText("Steps as a table").click();
      const rows = page.getByRole("table", { name: "The last steps, newest first" });
      expect(await textOf(rows.getByRole("row").nth(1))).to.match(/^2,993\u20133,000/);
    });
  });

  for (const [size, viewport] of [
    ["desktop", DESKTOP],
    ["phone", PHONE],
  ] as const) {
    for (const colorScheme of ["light", "dark"] as const) {
      test(`fits and is accessible: ${size}, ${colorScheme}`, async () => {
        const { release, onStep } = gate(3);
        await coordinator.joinMany(8, () => ({ onStep }));
        await coordinator.submit(
          smallJob(2, 4, {
            name: "a-name-long-enough-to-need-a-second-line-on-a-narrow-screen-as-names-may-be",
            steps: 8,
            reportGradNorm: true,
            data: DATA_OF_8,
          }),
        );
        await coordinator.submit(
          smallJob(1, 16, { name: "waits", model: { feedForward: { dim: 16, hidden: 16 } } }),
        );
        const options = { viewport, colorScheme, bypassCSP: true };
        await withPage(async (page) => {
          await page.getByText("step 3 of 8").waitFor(WAIT);
          await page.locator(".chart canvas").first().waitFor(WAIT);
          await page.getByText("Steps as a table").click();
          await shot(page, `${size}-${colorScheme}`);
          const width = await page.evaluate<number>("document.documentElement.scrollWidth");
          expect(width, "width of the page").to.be.at.most(viewport.width);
          expect(await violations(page)).to.deep.equal([]);
          release();
        }, options);
      });
    }
  }

  test("draws 64 ranks on a phone: their grid scrolls in its frame, not the page", async () => {
    const { release, onStep } = gate(1);
    await coordinator.joinMany(64, () => ({ onStep }));
    const dense = { model: { feedForward: { dim: 16, hidden: 32 } }, data: DATA_OF_8 };
    await coordinator.submit(smallJob(4, 16, dense));
    await withPage(
      async (page) => {
        const frame = page.getByRole("region", { name: "Ranks of the mesh" });
        await frame.getByText("dp 3").waitFor(WAIT);
        await page.getByText("step 1 of 3").waitFor(WAIT);
        expect(await frame.locator(".cell").count()).to.equal(64);
        await shot(page, "dense");
        const width = await page.evaluate<number>("document.documentElement.scrollWidth");
        expect(width, "width of the page").to.equal(PHONE.width);
        expect(await violations(page)).to.deep.equal([]);
        await page.getByRole("button", { name: "Show all 64 ranks" }).click();
        expect(await page.locator(".rank-number").count()).to.equal(64);
      },
      { viewport: PHONE, bypassCSP: true },
    );
    release();
  });

  test("is used by keyboard: skip link, jobs, tables that scroll", async () => {
    const { release, onStep } = gate(1);
    await coordinator.joinMany(1, () => ({ onStep }));
    await coordinator.submit(smallJob(1, 1, { name: "first" }));
    await coordinator.submit(smallJob(1, 1, { name: "second" }));
    await withPage(async (page) => {
      await page.getByText("step 1 of 3").waitFor(WAIT);
      const focused = () =>
        page.evaluate<{ text: string; id: string; outlineStyle: string }>(`(() => {
          const { textContent: text, id } = document.activeElement;
          return { text, id, outlineStyle: getComputedStyle(document.activeElement).outlineStyle };
        })()`);
      await page.keyboard.press("Tab");
      expect((await focused()).text).to.equal("Skip to the job");
      await page.keyboard.press("Enter");
      expect((await focused()).id).to.equal("main");
      await page.keyboard.press("Shift+Tab");
      // Back from the job: the last job of the list, with a visible focus.
      const link = await focused();
      expect(link.text).to.match(/^second/);
      expect(link.outlineStyle).to.equal("solid");
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { name: "second" }).waitFor(WAIT);
      expect((await focused()).text).to.match(/^second/);
      // A step of the other job redraws the list, and the focus stays.
      release();
      await page.locator(".job-list a", { hasText: "first" }).getByText("SUCCEEDED").waitFor(WAIT);
      expect((await focused()).text).to.match(/^second/);
    });
  });

  test("comes back by itself after the coordinator was restarted", async () => {
    await coordinator.joinMany(1);
    const { jobId } = await coordinator.submit(smallJob(1, 1, { name: "before" }));
    await coordinator.finished(jobId);
    const http = coordinator.handle.httpAddress;
    const watched = await openPage(browser, `${coordinator.handle.pageUrl}#job=${jobId}`);
    closing.push(() => watched.close());
    const { page } = watched;
    await page.getByRole("heading", { name: "before" }).waitFor(WAIT);
    await coordinator.stop();
    await page.getByText(/^no connection since/).waitFor(WAIT);
    await shot(page, "lost");
    coordinator = await CoordinatorHarness.start({ http });
    await page.getByText(`This coordinator knows no job ${jobId}`).waitFor(WAIT);
    expect(await textOf(page.locator("#connection"))).to.equal("live");
    await page.getByRole("link", { name: "follow the newest" }).click();
    await coordinator.joinMany(1);
    const { jobId: next } = await coordinator.submit(smallJob(1, 1, { name: "after" }));
    await coordinator.finished(next);
    await page.getByRole("heading", { name: "after" }).waitFor(WAIT);
    expect(
      watched.faults.filter((fault) => !/ERR_CONNECTION_REFUSED|ERR_EMPTY/.test(fault)),
    ).to.deep.equal([]);
  });
});

type OnStep = NonNullable<FakeWorkerOptions["onStep"]>;

const DATA_OF_8 = { batchSize: 8, random: { length: 8, seed: 1 } } as const;

async function textOf(locator: Locator): Promise<string> {
  return (await locator.textContent()) ?? "";
}

/** What axe finds against WCAG 2.2 A and AA: rule and place. */
async function violations(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  const options = JSON.stringify({ runOnly: { type: "tag", values: tags } });
  const results = await page.evaluate<AxeResults>(`axe.run(document, ${options})`);
  return results.violations.flatMap(({ id, nodes }) =>
    nodes.map((node) => `${id}: ${node.target.join(" ")}: ${node.failureSummary ?? ""}`),
  );
}
