import { hasOp, opDefinition } from "../compiler/ops/index.ts";
import { show } from "../compiler/ops/shapes.ts";
import { InvalidArgumentError } from "../shared/errors.ts";
import type { ForwardGraph, GraphInput, GraphNode, GraphParameter } from "../shared/graph/graph.ts";
import type { InitSpec } from "../shared/program/program.ts";

/** Rows that shapes are traced with; graphs leave the batch open, so any number serves. */
const TRACE_ROWS = 1;

/**
 * A value of the traced model. Its first dim is the batch; `shape` is what a forward may look at, its numbers do not
 * exist yet.
 */
export class SymbolicTensor {
  /** Dims after the batch. */
  readonly dims: readonly number[];
  readonly #trace: Trace;
  readonly #value: ValueRef;

  constructor(trace: Trace, value: ValueRef, dims: readonly number[]) {
    this.#trace = trace;
    this.#value = value;
    this.dims = dims;
  }

  static of(tensor: SymbolicTensor): { trace: Trace; value: ValueRef } {
    return { trace: tensor.#trace, value: tensor.#value };
  }
}

/** Value of a graph under construction: numbers are settled once all parameters are known. */
type ValueRef = { readonly kind: "input" | "parameter" | "node"; readonly index: number };

/** A trainable tensor. Made in a module's constructor; named by the property that holds it. */
export class Parameter {
  readonly dims: readonly number[];
  readonly init: InitSpec;

  constructor(dims: readonly number[], init: InitSpec) {
    this.dims = dims;
    this.init = init;
  }
}

/**
 * Base of every model and layer. Layers, arrays of layers and parameters held in properties get the property's name:
 * `this.blocks = [new Linear(4, 4)]` names the weight `blocks.0.weight`. Nothing about parallelism is in a module.
 *
 * A model file exports a subclass, an instance, or a function that returns one. `static inputs = { x: [48] }` gives the
 * dims of its inputs after the batch, where the data does not tell them; `static plan` is the plan used where a job has none.
 */
export abstract class Module {
  /** The forward pass: symbolic tensors in, one out. Called once. */
  abstract forward(...inputs: SymbolicTensor[]): SymbolicTensor;

  /** Runs this module inside another's forward, under its own name. */
  call(...inputs: SymbolicTensor[]): SymbolicTensor {
    const [first] = inputs;
    if (!(first instanceof SymbolicTensor)) {
      throw new InvalidArgumentError(
        `${this.constructor.name}.call: expected the model's tensors, got ${describe(first)}`,
      );
    }
    return SymbolicTensor.of(first).trace.within(this, () => this.forward(...inputs));
  }
}

/** y = x w^T + b for x [..., in]; weight [out, in] and bias [out] start uniform on +-1/sqrt(in). */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias?: Parameter;

  constructor(inFeatures: number, outFeatures: number, options: { readonly bias?: boolean } = {}) {
    super();
    for (const [what, value] of [
      ["inFeatures", inFeatures],
      ["outFeatures", outFeatures],
    ] as const) {
      if (!Number.isSafeInteger(value) || value < 1) {
        throw new InvalidArgumentError(
          `Linear: ${what} must be a positive integer, got ${describe(value)}`,
        );
      }
    }
    const init: InitSpec = { kind: "uniform", bound: 1 / Math.sqrt(inFeatures) };
    this.weight = new Parameter([outFeatures, inFeatures], init);
    if (options.bias === true) this.bias = new Parameter([outFeatures], init);
  }

  override forward(x: SymbolicTensor): SymbolicTensor {
    const y = apply("linear", [x, this.weight]);
    return this.bias === undefined ? y : apply("bias", [y, this.bias]);
  }
}

export const silu = (x: SymbolicTensor): SymbolicTensor => apply("silu", [x]);
export const relu = (x: SymbolicTensor): SymbolicTensor => apply("relu", [x]);
/** x * Phi(x), the exact form. */
export const gelu = (x: SymbolicTensor): SymbolicTensor => apply("gelu", [x]);
export const tanh = (x: SymbolicTensor): SymbolicTensor => apply("tanh", [x]);
export const sigmoid = (x: SymbolicTensor): SymbolicTensor => apply("sigmoid", [x]);
/** Elementwise; shapes must be equal. */
export const add = (a: SymbolicTensor, b: SymbolicTensor): SymbolicTensor => apply("add", [a, b]);
export const sub = (a: SymbolicTensor, b: SymbolicTensor): SymbolicTensor => apply("sub", [a, b]);
export const mul = (a: SymbolicTensor, b: SymbolicTensor): SymbolicTensor => apply("mul", [a, b]);
export const scale = (x: SymbolicTensor, factor: number): SymbolicTensor => {
  if (!Number.isFinite(factor))
    throw new InvalidArgumentError(
      `scale: factor must be a finite number, got ${describe(factor)}`,
    );
  return apply("scale", [x], { factor });
};

/** Inputs of a model: name to dims after the batch. */
export type InputDims = Readonly<Record<string, readonly number[]>>;

/**
 * Runs the model once on symbolic tensors and returns its graph.
 * @throws InvalidArgumentError naming module and op when shapes do not fit or the forward fails
 */
export function trace(
  model: Module,
  inputs: InputDims,
  defaultPlan: Readonly<Record<string, string>> = {},
): ForwardGraph {
  const tracing = new Trace(model);
  const tensors = Object.entries(inputs).map(([name, dims]) =>
    tracing.input({ name, dtype: "float32", dims }),
  );
  if (tensors.length === 0)
    throw new InvalidArgumentError(
      "the model has no inputs; give `static inputs = { x: [features] }`",
    );
  const output = tracing.within(model, () => model.forward(...tensors));
  if (!(output instanceof SymbolicTensor)) {
    throw new InvalidArgumentError(
      `${model.constructor.name}.forward must return a tensor, got ${describe(output)}`,
    );
  }
  return tracing.finish(output, defaultPlan);
}

/** The graph under construction. One per trace; tensors carry it. */
class Trace {
  private readonly inputs: GraphInput[] = [];
  private readonly parameters: GraphParameter[] = [];
  private readonly nodes: (Omit<GraphNode, "inputs"> & { readonly inputs: readonly ValueRef[] })[] =
    [];
  private readonly parameterIndex = new Map<Parameter, number>();
  private readonly moduleNames = new Map<Module, string>();
  private readonly stack: Module[] = [];

  constructor(model: Module) {
    this.name(model, "", new Set());
  }

  input(input: GraphInput): SymbolicTensor {
    this.inputs.push(input);
    return new SymbolicTensor(this, { kind: "input", index: this.inputs.length - 1 }, input.dims);
  }

  within(module: Module, forward: () => SymbolicTensor): SymbolicTensor {
    if (!this.moduleNames.has(module)) {
      throw new InvalidArgumentError(
        `${module.constructor.name} is not held by the model: keep it in a property, so that its parameters have a name`,
      );
    }
    this.stack.push(module);
    try {
      return forward();
    } catch (error) {
      throw this.located(error, module);
    } finally {
      this.stack.pop();
    }
  }

  apply(
    op: string,
    operands: readonly (SymbolicTensor | Parameter)[],
    attrs: Readonly<Record<string, number>>,
  ): SymbolicTensor {
    const layer = this.currentName();
    const where = `${layer === "" ? "model" : `layer "${layer}"`}, op ${op}`;
    if (!hasOp(op)) throw new InvalidArgumentError(`${where}: no such op`);
    const inputs = operands.map((operand): ValueRef => {
      if (operand instanceof Parameter)
        return { kind: "parameter", index: this.indexOf(operand, where) };
      if (!(operand instanceof SymbolicTensor)) {
        throw new InvalidArgumentError(`${where}: expected a tensor, got ${describe(operand)}`);
      }
      const found = SymbolicTensor.of(operand);
      if (found.trace !== this)
        throw new InvalidArgumentError(`${where}: a tensor of another model or trace`);
      return found.value;
    });
    let shape: readonly number[];
    try {
      ({ shape } = opDefinition(op).infer(
        operands.map((o) => ({
          shape: o instanceof Parameter ? o.dims : [TRACE_ROWS, ...o.dims],
          dtype: "float32",
        })),
        attrs,
      ));
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      const shapes = operands.map((o) =>
        o instanceof Parameter ? show(o.dims) : `[batch, ${o.dims.join(", ")}]`,
      );
      throw new LocatedError(`${where}: operands ${shapes.join(" and ")}: ${error.message}`, error);
    }
    this.nodes.push({ op, inputs, attrs, layer });
    return new SymbolicTensor(this, { kind: "node", index: this.nodes.length - 1 }, shape.slice(1));
  }

  finish(output: SymbolicTensor, defaultPlan: Readonly<Record<string, string>>): ForwardGraph {
    const number = ({ kind, index }: ValueRef): number =>
      kind === "input"
        ? index
        : kind === "parameter"
          ? this.inputs.length + index
          : this.inputs.length + this.parameters.length + index;
    return {
      inputs: this.inputs,
      parameters: this.parameters,
      nodes: this.nodes.map((node) => ({ ...node, inputs: node.inputs.map(number) })),
      output: number(SymbolicTensor.of(output).value),
      defaultPlan,
    };
  }

  private name(module: Module, path: string, above: ReadonlySet<Module>): void {
    if (above.has(module)) throw new InvalidArgumentError(`module "${path}" contains itself`);
    const known = this.moduleNames.get(module);
    if (known !== undefined)
      throw new InvalidArgumentError(
        `one module has two names, "${known}" and "${path}"; hold it in one property`,
      );
    this.moduleNames.set(module, path);
    const inside = new Set([...above, module]);
    const visit = (value: unknown, name: string): void => {
      if (value instanceof Module) this.name(value, name, inside);
      else if (value instanceof Parameter) this.addParameter(value, name);
      else if (Array.isArray(value)) value.forEach((item, i) => void visit(item, `${name}.${i}`));
    };
    for (const [key, value] of Object.entries(module))
      visit(value, path === "" ? key : `${path}.${key}`);
  }

  private addParameter(parameter: Parameter, name: string): void {
    if (this.parameterIndex.has(parameter))
      throw new InvalidArgumentError(
        `parameter "${name}" is held twice; sharing weights is not available in this version`,
      );
    this.parameterIndex.set(parameter, this.parameters.length);
    this.parameters.push({ name, dims: parameter.dims, init: parameter.init });
  }

  private indexOf(parameter: Parameter, where: string): number {
    const index = this.parameterIndex.get(parameter);
    if (index === undefined)
      throw new InvalidArgumentError(`${where}: a parameter that no module of the model holds`);
    return index;
  }

  private currentName(): string {
    const module = this.stack.at(-1);
    return module === undefined ? "" : (this.moduleNames.get(module) ?? "");
  }

  /** An error in a user's forward, with the module it happened in. */
  private located(error: unknown, module: Module): Error {
    if (error instanceof LocatedError) return error;
    const path = this.moduleNames.get(module) ?? "";
    const text = error instanceof Error ? error.message : String(error);
    const where = path === "" ? module.constructor.name : `"${path}" (${module.constructor.name})`;
    return new LocatedError(`forward of ${where}: ${text}`, error);
  }
}

/** Already says where it happened. */
class LocatedError extends InvalidArgumentError {
  constructor(message: string, cause: unknown) {
    super(message, { cause });
  }
}

function apply(
  op: string,
  operands: readonly (SymbolicTensor | Parameter)[],
  attrs: Readonly<Record<string, number>> = {},
): SymbolicTensor {
  const [tensor] = operands.filter((o) => o instanceof SymbolicTensor);
  if (!(tensor instanceof SymbolicTensor)) {
    throw new InvalidArgumentError(`${op}: expected a tensor, got ${describe(operands[0])}`);
  }
  return SymbolicTensor.of(tensor).trace.apply(op, operands, attrs);
}

function describe(value: unknown): string {
  if (value instanceof Module) return `a module (call it: ${value.constructor.name}.call(x))`;
  if (Array.isArray(value)) return "an array";
  return typeof value === "object" && value !== null ? "an object" : String(value).slice(0, 40);
}
