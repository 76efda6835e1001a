import { describeRecordedSteps } from "../support/recorded-steps-suite.ts";
import { driver, makeBackend } from "./cuda.ts";

let replays = 0;
let counting = false;

/** Counts the recordings that the driver is told to launch. */
function count(): void {
  if (counting) return;
  counting = true;
  const bound = driver();
  const launch = bound.cuGraphLaunch;
  bound.cuGraphLaunch = (exec, stream) => {
    replays++;
    launch(exec, stream);
  };
}

describeRecordedSteps(
  "cuda",
  () => {
    count();
    return makeBackend();
  },
  () => replays,
);
