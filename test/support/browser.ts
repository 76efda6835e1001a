/** A real Chromium without a window. */
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/** Path of the browser; undefined where there is none. */
export function findChromium(): string | undefined {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return folders
    .flatMap((folder) => NAMES.map((name) => join(folder, name)))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** Why a test is skipped where there is no browser. */
export const NO_CHROMIUM =
  "no Chromium on the PATH; install one (Debian, Ubuntu: apt-get install chromium)";

export async function launchChromium(executablePath: string): Promise<Browser> {
  return await chromium.launch({
    executablePath,
    // A container's root has no sandbox; what is opened here is our own page.
    args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
  });
}

/** A page with all that a test wants to hear of: what went wrong, and which origins it asked. */
export interface WatchedPage {
  readonly page: Page;
  /** Errors and warnings of the console, uncaught errors and failed requests. */
  readonly faults: string[];
  readonly origins: Set<string>;
  close(): Promise<void>;
}

export async function openPage(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<WatchedPage> {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const faults: string[] = [];
  const origins = new Set<string>();
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") faults.push(message.text());
  });
  page.on("pageerror", (error) => faults.push(`uncaught: ${error.message}`));
  page.on("request", (request) => origins.add(new URL(request.url()).origin));
  await page.goto(url);
  return { page, faults, origins, close: () => context.close() };
}
