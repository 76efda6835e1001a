import type { Backend } from "../backend/backend.ts";

/** Which backend to make, as the command line says it. */
export interface BackendChoice {
  /** `auto`, or a backend's name. */
  readonly backend: string;
  /** Device of that backend; empty: its default. */
  readonly device: string;
  /** Threads it computes with; undefined: its default. */
  readonly threads: number | undefined;
}

/** A backend, and why it is this one where there was a choice. */
export type LoadedBackend = Backend & {
  readonly reason?: string;
  /** Why it computes in the way it does, where a host has no better one. */
  readonly note?: string;
  /** What `device` has to say to get this very one again, where it was left to the backend. */
  readonly settledDevice?: string;
};

/** Module that makes the project's own backends. */
export const BACKEND_MODULE = new URL("../backend/create-backend.js", import.meta.url).href;

/**
 * Makes a backend in the calling thread.
 * @param module URL of a module that exports `createBackend`
 * @throws RankmeshError when the backend is unknown or cannot run here
 */
export async function loadBackend(module: string, choice: BackendChoice): Promise<LoadedBackend> {
  const { createBackend } = (await import(module)) as {
    createBackend: (choice: BackendChoice) => LoadedBackend | Promise<LoadedBackend>;
  };
  return createBackend(choice);
}
