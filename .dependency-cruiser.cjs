/** Which folder may import which: the arrows of ARCHITECTURE.md. */
const only = (name, from, allowed, comment) => ({
  name,
  comment,
  severity: "error",
  from: { path: `^${from}/` },
  to: {
    path: "^(bench|cli|client|compiler|coordinator|models|shared|test|worker)/",
    pathNot: `^(${[from, ...allowed].join("|")})/`,
  },
});

/** @type {import("dependency-cruiser").IConfiguration} */
module.exports = {
  forbidden: [
    {
      name: "no-cycles",
      comment: "Files that import each other cannot be read, tested or moved alone.",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    only("shared-imports-only-itself", "shared", []),
    only("compiler-imports-only-shared", "compiler", ["shared"]),
    only("models-import-compiler-and-shared", "models", ["compiler", "shared"]),
    only(
      "worker-imports-shared-and-ops",
      "worker",
      ["shared", "compiler/ops"],
      "Worker and coordinator meet only in protos and shared/.",
    ),
    only("coordinator-imports-compiler-models-shared", "coordinator", [
      "compiler",
      "models",
      "shared",
    ]),
    only("client-imports-no-daemon", "client", ["compiler", "models", "shared"]),
    {
      name: "compiler-is-pure",
      comment: "The compiler is a function of its inputs: no files, network or clock.",
      severity: "error",
      from: { path: "^(compiler|models)/" },
      to: { dependencyTypes: ["core"] },
    },
    {
      name: "compiler-has-no-packages",
      comment: "The compiler stands on shared/ alone.",
      severity: "error",
      from: { path: "^(compiler|models)/" },
      to: { dependencyTypes: ["npm", "npm-dev", "npm-optional", "npm-peer"] },
    },
    {
      name: "no-dev-packages-at-run-time",
      severity: "error",
      from: { path: "^(cli|client|compiler|coordinator|models|shared|worker)/" },
      to: { dependencyTypes: ["npm-dev"], dependencyTypesNot: ["type-only"] },
    },
    { name: "resolvable", severity: "error", from: {}, to: { couldNotResolve: true } },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.base.json" },
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["import", "require", "node", "default"],
    },
  },
};
