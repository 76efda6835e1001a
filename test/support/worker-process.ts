import { startWorker } from "../../worker/worker-daemon.ts";
import { FAKE_BACKEND } from "./fake-backend.ts";
import { testLogger } from "./worker-harness.ts";

/** A worker on the fake backend as a process: `worker-process.js COORDINATOR NAME`. Ends with SIGTERM or its stdin. */
const [coordinator = "", name = ""] = process.argv.slice(2);
const handle = await startWorker({
  coordinator,
  name,
  logger: testLogger(),
  backendModule: FAKE_BACKEND,
});
process.stdout.write(`${handle.grpcAddress}\n`);
process.stdin.on("end", () => process.exit(1)).resume();
process.once("SIGTERM", () => {
  handle.stop(2_000).then(
    () => process.exit(0),
    () => process.exit(1),
  );
});
