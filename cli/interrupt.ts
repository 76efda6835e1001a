import { EXIT, ExitRequest } from "./exit-codes.ts";

/** Why a command was cut short. */
export class Interrupted extends ExitRequest {
  constructor() {
    super(EXIT.interrupted);
  }
}

export interface Interrupt {
  /** Aborted, with an `Interrupted` as its reason, by the first Ctrl-C or SIGTERM. */
  readonly signal: AbortSignal;
  /** Gives the signals back to Node. */
  dispose(): void;
}

/** Turns Ctrl-C and SIGTERM into an abort; a second one ends the process at once. */
export function catchInterrupt(): Interrupt {
  const controller = new AbortController();
  const onSignal = () => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    controller.abort(new Interrupted());
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  return {
    signal: controller.signal,
    dispose() {
      process.off("SIGINT", onSignal);
      process.off("SIGTERM", onSignal);
    },
  };
}
