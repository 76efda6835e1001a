import type { InitializeHook, ResolveHook } from "node:module";

/** Runs in Node's loader thread: makes `import ... from "rankmesh"` mean this installation, wherever the file lies. */
let packageUrl = "";

export const initialize: InitializeHook<{ readonly packageUrl: string }> = (data) => {
  packageUrl = data.packageUrl;
};

export const resolve: ResolveHook = (specifier, context, nextResolve) => {
  if (specifier === "rankmesh") return { url: packageUrl, shortCircuit: true };
  return nextResolve(specifier, context);
};
