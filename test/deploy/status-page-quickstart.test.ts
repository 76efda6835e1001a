import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import type { Browser, Page } from "playwright-core";
import { findChromium, launchChromium, NO_CHROMIUM, openPage } from "../support/browser.ts";
import { CliProcess } from "../support/cli.ts";

/** Where the README's screenshots lie; `npm run screenshots` makes them again, of a quickstart at full size. */
const IMAGES = fileURLToPath(new URL("../../../docs/images/", import.meta.url));
const UPDATES = process.env["UPDATE_SCREENSHOTS"] === "1";
const WAIT = { timeout: UPDATES ? 500_000 : 120_000 };
const SIZES = UPDATES
  ? { flags: ["--steps", "40", "--tp", "1,2,4,8"], tp: [1, 2, 4, 8], steps: 40 }
  : {
      flags: [
        "--dim",
        "512",
        "--hidden",
        "512",
        "--steps",
        "12",
        "--tp",
        "1,2",
        "--backend",
        "cpu",
      ],
      tp: [1, 2],
      steps: 12,
    };

const chromium = findChromium();
const test: typeof it =
  chromium === undefined
    ? (((title: string) => it.skip(`${title} (${NO_CHROMIUM})`)) as typeof it)
    : it;

describe("the status page of a quickstart", function () {
  this.timeout(600_000);
  let browser: Browser;
  let quickstart: CliProcess | undefined;

  before(async () => {
    if (chromium !== undefined) browser = await launchChromium(chromium);
  });
  after(() => browser?.close());
  afterEach(() => quickstart?.child.kill("SIGKILL"));

  test("has one address for all runs, follows them live, and stays until Ctrl-C", async () => {
    quickstart = new CliProcess(["quickstart", ...SIZES.flags, "--stay"]);
    const [, url = ""] = await quickstart.waitFor(/^status page: (http:\S+)$/m);
    const desktop = await openPage(browser, url, { viewport: { width: 1280, height: 960 } });
    const { page, faults } = desktop;
    const last = SIZES.tp.at(-1) ?? 1;
    // Nobody touches the page: it goes from run to run by itself.
    await page.getByRole("heading", { name: `quickstart-${last}`, exact: true }).waitFor(WAIT);
    await page.getByText(new RegExp(`^step \\d+ of ${SIZES.steps}$`)).waitFor(WAIT);
    if (UPDATES) await takeImages(url, page);
    await page.getByText(`step ${SIZES.steps} of ${SIZES.steps}`).waitFor(WAIT);
    await quickstart.waitFor(/the status page stays at/, WAIT.timeout);
    await page.getByText(`Ended ${SIZES.tp.length}`).waitFor(WAIT);
    const listed = await page.locator(".job-list .job-name").allTextContents();
    expect(listed).to.deep.equal(SIZES.tp.map((tp) => `quickstart-${tp}`).reverse());
    const memory = await page.locator(".bar-text").allTextContents();
    expect(memory).to.have.length(last);
    for (const text of memory) expect(text).to.contain("measured, as predicted to the byte");
    expect(quickstart.stdout).to.match(/measured = predicted on every rank/);
    expect(quickstart.stderr.match(/^status page: /gm)).to.have.length(1);
    expect(faults).to.deep.equal([]);
    quickstart.child.kill("SIGINT");
    expect((await quickstart.ended).code).to.equal(0);
    await page.getByText(/^no connection since/).waitFor(WAIT);
    await desktop.close();
  });

  /** While the last run is half through: nothing is staged. */
  async function takeImages(url: string, desktop: Page): Promise<void> {
    await mkdir(dirname(join(IMAGES, "x")), { recursive: true });
    const phone = await openPage(browser, url, {
      viewport: { width: 390, height: 1400 },
      isMobile: true,
    });
    await desktop.getByText(/^step (1[5-9]|2\d|3\d) of/).waitFor(WAIT);
    await desktop.screenshot({ path: join(IMAGES, "status-page.png") });
    await phone.page.screenshot({ path: join(IMAGES, "status-page-phone.png") });
    await phone.close();
  }
});
