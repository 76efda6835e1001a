import { stat } from "node:fs/promises";
import { register } from "node:module";
import { pathToFileURL } from "node:url";
import { Module, trace } from "../models/module.ts";
import { InvalidArgumentError } from "../shared/errors.ts";
import type { ForwardGraph } from "../shared/graph/graph.ts";
import { declaredStatic, modelInputs } from "./model-inputs.ts";

let registered = false;

/** Lets files anywhere import this package by its name, with no node_modules beside them. */
function registerPackageName(): void {
  if (registered) return;
  registered = true;
  register("./rankmesh-resolver.js", import.meta.url, {
    data: { packageUrl: new URL("../client/index.js", import.meta.url).href },
  });
}

/**
 * Loads a user's model file and traces it.
 *
 * @param spec the raw job spec, which names the data that input dims are taken from when the model does not give them
 * @param folder that the spec's paths are relative to
 * @throws InvalidArgumentError when the file does not load, exports no model, or its forward fails
 */
export async function traceModelFile(
  path: string,
  spec: Readonly<Record<string, unknown>>,
  folder: string,
): Promise<ForwardGraph> {
  const exported = await importDefault(path);
  const model = await instantiate(exported, path);
  const inputs = await modelInputs(model, spec, folder, path);
  return within(path, () => trace(model, inputs, declaredPlan(model, path)));
}

async function importDefault(path: string): Promise<unknown> {
  const isFile = await stat(path).then(
    (s) => s.isFile(),
    () => false,
  );
  if (!isFile) throw new InvalidArgumentError(`model file ${path}: there is no such file`);
  registerPackageName();
  const loaded = await withinAsync(
    path,
    () => import(pathToFileURL(path).href) as Promise<Readonly<Record<string, unknown>>>,
  );
  const exported = loaded["default"];
  if (exported === undefined) {
    throw new InvalidArgumentError(
      `model file ${path} has no default export; write "export default class Net extends Module { ... }"`,
    );
  }
  return exported;
}

/** A subclass of Module, an instance, or a function (async too) that returns either. */
async function instantiate(exported: unknown, path: string): Promise<Module> {
  const value =
    isModuleClass(exported) || exported instanceof Module ? exported : await call(exported, path);
  if (value instanceof Module) return value;
  if (isModuleClass(value)) return withinAsync(path, async () => new value());
  throw new InvalidArgumentError(
    `model file ${path}: the default export is ${kindOf(value)}; export a class that extends Module, an instance of one, or a function that returns one`,
  );
}

async function call(exported: unknown, path: string): Promise<unknown> {
  if (typeof exported !== "function") return exported;
  return withinAsync(path, async () => await (exported as () => unknown)());
}

function isModuleClass(value: unknown): value is new () => Module {
  return typeof value === "function" && value.prototype instanceof Module;
}

/** `plan = { w1: "colwise" }`, static or on the instance: used where the job gives none. */
function declaredPlan(model: Module, path: string): Readonly<Record<string, string>> {
  const plan = declaredStatic(model, "plan");
  if (plan === undefined) return {};
  if (
    typeof plan !== "object" ||
    plan === null ||
    !Object.values(plan).every((style) => typeof style === "string")
  ) {
    throw new InvalidArgumentError(
      `model file ${path}: plan must map layer patterns to styles, for example { w1: "colwise" }`,
    );
  }
  return plan as Readonly<Record<string, string>>;
}

function within<T>(path: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw modelError(path, error);
  }
}

async function withinAsync<T>(path: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    throw modelError(path, error);
  }
}

/** An error of the user's own code, with the line of their file where the stack tells it. */
function modelError(path: string, error: unknown): InvalidArgumentError {
  const text = error instanceof Error ? error.message : String(error);
  const line = error instanceof Error ? lineIn(path, error) : undefined;
  return new InvalidArgumentError(`model file ${path}${line ?? ""}: ${text}`, { cause: error });
}

function lineIn(path: string, error: Error): string | undefined {
  const url = pathToFileURL(path).href;
  for (let source: unknown = error; source instanceof Error; source = source.cause) {
    const frame = source.stack?.split("\n").find((line) => line.includes(url));
    const at = frame?.slice(frame.indexOf(url) + url.length).match(/^:\d+(?=:\d+)/)?.[0];
    if (at !== undefined) return at;
  }
  return undefined;
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "an array" : `of type ${typeof value}`;
}
