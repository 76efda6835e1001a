import Mocha from "mocha";

const fullTitle = (test: Mocha.Runnable): string => test.fullTitle();

/** How long after the last test something may still keep the process alive. */
const LINGER_MS = 10_000;

/**
 * A line per suite, skipped tests with their titles, failures in full, and as the last line
 * `N passed, N failed, N skipped`.
 */
class SummaryReporter extends Mocha.reporters.Base {
  readonly #skipped: string[] = [];
  readonly #suite = { title: "", passed: 0, failed: 0, skipped: 0, durationMs: 0 };
  /** Suites that are open. Files that ran beside each other tell of themselves one after the other. */
  #depth = 0;

  constructor(runner: Mocha.Runner, options: Mocha.MochaOptions) {
    super(runner, options);
    const { constants } = Mocha.Runner;
    runner.on(constants.EVENT_SUITE_BEGIN, (suite) => {
      if (suite.root) return;
      if (this.#depth++ > 0) return;
      const { title } = suite;
      Object.assign(this.#suite, { title, passed: 0, failed: 0, skipped: 0, durationMs: 0 });
    });
    runner.on(constants.EVENT_SUITE_END, (suite) => {
      if (!suite.root && --this.#depth === 0) this.#printSuite();
    });
    runner.on(constants.EVENT_TEST_END, (test) => {
      this.#suite.durationMs += test.duration ?? 0;
    });
    runner.on(constants.EVENT_TEST_PASS, () => {
      this.#suite.passed++;
    });
    runner.on(constants.EVENT_TEST_PENDING, (test) => {
      this.#suite.skipped++;
      this.#skipped.push(fullTitle(test));
    });
    runner.on(constants.EVENT_TEST_FAIL, (test) => {
      this.#suite.failed++;
      print(`  FAILED  ${fullTitle(test)}`);
    });
    runner.once(constants.EVENT_RUN_END, () => this.#printSummary());
  }

  #printSuite(): void {
    const { title, passed, failed, skipped, durationMs } = this.#suite;
    const counts = [`${passed} passed`];
    if (failed > 0) counts.push(`${failed} failed`);
    if (skipped > 0) counts.push(`${skipped} skipped`);
    const seconds = (durationMs / 1000).toFixed(1);
    print(`${failed > 0 ? "not ok" : "ok"}  ${title}: ${counts.join(", ")} (${seconds} s)`);
  }

  #printSummary(): void {
    const failed = this.failures.length;
    if (this.#skipped.length > 0) {
      print(`\nskipped:\n${this.#skipped.map((title) => `  ${title}`).join("\n")}`);
    }
    if (failed > 0) Mocha.reporters.Base.list(this.failures);
    print(`\n${this.stats.passes} passed, ${failed} failed, ${this.stats.pending} skipped`);
    // A forgotten server or child process would keep the run from ending: name it, and end.
    setTimeout(() => {
      const resources = [...new Set(process.getActiveResourcesInfo())].join(", ");
      process.stderr.write(`tests left open after ${LINGER_MS} ms: ${resources}; ending anyway\n`);
      process.exit(failed > 0 ? 1 : 0);
    }, LINGER_MS).unref();
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

// Mocha loads a reporter by its default export.
export default SummaryReporter;
