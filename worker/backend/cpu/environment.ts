/** What a BLAS reads from the environment when its library is loaded, and the value it gets unless the user set one. */
const DEFAULTS: Readonly<Record<string, string>> = {
  // This backend calls a BLAS from threads of its own. Threads of the BLAS would only spin beside them.
  OPENBLAS_NUM_THREADS: "1",
  MKL_NUM_THREADS: "1",
  BLIS_NUM_THREADS: "1",
  VECLIB_MAXIMUM_THREADS: "1",
  OMP_WAIT_POLICY: "PASSIVE",
};

/**
 * Sets the process's environment for the native libraries. It works on the main thread only, before a BLAS is
 * loaded: a worker thread's `process.env` is a copy that no library sees.
 */
export function prepareNativeEnvironment(): void {
  for (const [name, value] of Object.entries(DEFAULTS)) process.env[name] ??= value;
}
