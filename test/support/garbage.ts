import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Collects what nothing holds any more, so that weak references to it are empty. */
export async function collectGarbage(): Promise<void> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  // What a weak reference gave out stays until its turn of the event loop is over.
  await new Promise((resolve) => setTimeout(resolve, 10));
  collect();
}
