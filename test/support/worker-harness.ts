import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type Logger, pino } from "pino";
import { startWorker, type WorkerHandle, type WorkerOptions } from "../../worker/worker-daemon.ts";
import { FAKE_BACKEND } from "./fake-backend.ts";
import {
  FakeCoordinator,
  type FakeCoordinatorOptions,
  type FakeSession,
} from "./fake-coordinator.ts";

const PROCESS = fileURLToPath(new URL("./worker-process.js", import.meta.url));

/** Silent, unless a person wants to see: `TEST_LOG=debug`. */
export function testLogger(): Logger {
  return pino(
    { level: process.env["TEST_LOG"] ?? "silent" },
    pino.destination({ dest: 2, sync: true }),
  );
}

/** Workers and coordinators of one test, ended by `stop`. */
export class WorkerHarness {
  readonly #workers: WorkerHandle[] = [];
  readonly #coordinators: FakeCoordinator[] = [];
  readonly #children: ChildProcess[] = [];

  async coordinator(options: FakeCoordinatorOptions = {}): Promise<FakeCoordinator> {
    const started = await FakeCoordinator.start(options);
    this.#coordinators.push(started);
    return started;
  }

  /** A worker in this process, on the fake backend. */
  async worker(coordinator: string, options: Partial<WorkerOptions> = {}): Promise<WorkerHandle> {
    const started = await startWorker({
      coordinator,
      name: `w${this.#workers.length}`,
      logger: testLogger(),
      backendModule: FAKE_BACKEND,
      ...options,
    });
    started.done.catch(() => undefined);
    this.#workers.push(started);
    return started;
  }

  /** A worker as a process of its own. */
  async process(coordinator: string, name: string): Promise<ChildProcess> {
    const child = spawn(process.execPath, [PROCESS, coordinator, name], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#children.push(child);
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: child.stdout }).once("line", () => resolve());
      child.once("exit", (code) => reject(new Error(`worker process ended with ${code}`)));
    });
    return child;
  }

  /** `ranks` workers of this process, registered with a coordinator. */
  async gang(
    ranks: number,
    options: FakeCoordinatorOptions = {},
    workerOptions: Partial<WorkerOptions> = {},
  ): Promise<{ fake: FakeCoordinator; sessions: FakeSession[]; handles: WorkerHandle[] }> {
    const fake = await this.coordinator(options);
    const handles: WorkerHandle[] = [];
    for (let i = 0; i < ranks; i++) handles.push(await this.worker(fake.address, workerOptions));
    return { fake, sessions: await fake.registered(ranks), handles };
  }

  async stop(): Promise<void> {
    await Promise.all(this.#workers.splice(0).map((handle) => handle.stop(1_000)));
    for (const child of this.#children.splice(0)) child.kill("SIGKILL");
    await Promise.all(this.#coordinators.splice(0).map((fake) => fake.kill()));
  }
}
