import { hasOp, opDefinition } from "../compiler/ops/index.ts";
import type { ValueType } from "../compiler/ops/op.ts";
import { show } from "../compiler/ops/shapes.ts";
import { InvalidArgumentError } from "../shared/errors.ts";
import type { ForwardGraph, GraphInput, GraphNode, GraphParameter } from "../shared/graph/graph.ts";
import type { InitSpec } from "../shared/program/program.ts";

/** Rows that shapes are traced with; graphs leave the batch open, so any number serves. */
const TRACE_ROWS = 1;

/** What the elements of an input are: numbers, or ids such as tokens. */
export type InputType = GraphInput["dtype"];

/**
 * A value of the traced model. Its first dim is the batch; `dims` is what a forward may look at, its numbers do not
 * exist yet.
 */
export class SymbolicTensor {
  /** Dims after the batch. */
  readonly dims: readonly number[];
  readonly dtype: InputType;
  readonly #trace: Trace;
  readonly #value: ValueRef;

  constructor(trace: Trace, value: ValueRef, dims: readonly number[], dtype: InputType) {
    this.#trace = trace;
    this.#value = value;
    this.dims = dims;
    this.dtype = dtype;
  }

  static of(tensor: SymbolicTensor): { trace: Trace; value: ValueRef } {
    return { trace: tensor.#trace, value: tensor.#value };
  }
}

/** Value of a graph under construction: numbers are settled once all parameters are known. */
type ValueRef = { readonly kind: "input" | "parameter" | "node"; readonly index: number };

/**
 * A trainable tensor. Made in a module's constructor and named by the property that holds it; one that several modules
 * hold is one weight, named where it comes first.
 */
export class Parameter {
  readonly dims: readonly number[];
  readonly init: InitSpec;

  /**
   * @param init `{ kind: "uniform", bound }` on [-bound, bound), or `{ kind: "constant", value }`
   * @throws InvalidArgumentError when dims are no positive integers, or init is neither
   */
  constructor(dims: readonly number[], init: InitSpec) {
    if (!Array.isArray(dims) || dims.length > 8) {
      throw new InvalidArgumentError(
        `Parameter: dims must be a list of at most 8 sizes, got ${describe(dims)}`,
      );
    }
    for (const dim of dims) positiveInteger(dim, "Parameter", "every dim");
    // Whatever a user's JavaScript hands in.
    const { kind } = init as { readonly kind: unknown };
    if (kind !== "uniform" && kind !== "constant") {
      throw new InvalidArgumentError(
        `Parameter: init.kind must be "uniform" or "constant", got ${describe(kind)}`,
      );
    }
    const number = init.kind === "uniform" ? init.bound : init.value;
    if (!Number.isFinite(number) || (init.kind === "uniform" && number < 0)) {
      const what = init.kind === "uniform" ? "bound, at least 0" : "value";
      throw new InvalidArgumentError(
        `Parameter: ${init.kind} init needs a finite ${what}, got ${describe(number)}`,
      );
    }
    this.dims = dims;
    this.init = init;
  }
}

/**
 * Base of every model and layer. Layers, arrays of layers and parameters held in properties get the property's name:
 * `this.blocks = [new Linear(4, 4)]` names the weight `blocks.0.weight`. Nothing about parallelism is in a module.
 *
 * A model file exports a subclass, an instance, or a function that returns one. `static inputs = { x: [48] }` or
 * `{ tokens: { dims: [16], dtype: "int32" } }` gives the dims of its inputs after the batch, where the data does not tell
 * them; `static plan` is the plan used where a job has none.
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
    const { trace } = SymbolicTensor.of(first);
    if (trace !== active)
      throw new InvalidArgumentError(`${this.constructor.name}.call: ${FOREIGN}`);
    return trace.within(this, () => this.forward(...inputs));
  }
}

const FOREIGN = "a tensor of another model or trace";

/** The trace whose forward runs: a tensor kept from another one has no place in it. */
let active: Trace | undefined;

/** An input of a model: its dims after the batch, of float32 numbers where no dtype is given. */
export type InputSpec =
  | readonly number[]
  | { readonly dims: readonly number[]; readonly dtype?: InputType };

/** Inputs of a model by name. */
export type InputDims = Readonly<Record<string, InputSpec>>;

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
  const tensors = Object.entries(inputs).map(([name, spec]) =>
    tracing.input(
      "dims" in spec
        ? { name, dtype: spec.dtype ?? "float32", dims: spec.dims }
        : { name, dtype: "float32", dims: spec },
    ),
  );
  if (tensors.length === 0)
    throw new InvalidArgumentError(
      "the model has no inputs; give `static inputs = { x: [features] }`",
    );
  const outer = active;
  active = tracing;
  let output: unknown;
  try {
    output = tracing.within(model, () => model.forward(...tensors));
  } finally {
    active = outer;
  }
  if (!(output instanceof SymbolicTensor)) {
    throw new InvalidArgumentError(
      `${model.constructor.name}.forward must return a tensor, got ${describe(output)}`,
    );
  }
  if (SymbolicTensor.of(output).trace !== tracing) {
    throw new InvalidArgumentError(
      `${model.constructor.name}.forward must return a tensor of its own, got ${FOREIGN}`,
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
  private readonly draws = new Map<string, number>();
  private readonly stack: Module[] = [];

  constructor(model: Module) {
    this.name(model, "", new Set());
  }

  input(input: GraphInput): SymbolicTensor {
    this.inputs.push(input);
    const value: ValueRef = { kind: "input", index: this.inputs.length - 1 };
    return new SymbolicTensor(this, value, input.dims, input.dtype);
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
      if (found.trace !== this) throw new InvalidArgumentError(`${where}: ${FOREIGN}`);
      return found.value;
    });
    let type: ValueType;
    try {
      type = opDefinition(op).infer(
        operands.map((o) =>
          o instanceof Parameter
            ? { shape: o.dims, dtype: "float32" }
            : { shape: [TRACE_ROWS, ...o.dims], dtype: o.dtype },
        ),
        attrs,
      );
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      const shapes = operands.map((o) =>
        o instanceof Parameter
          ? show(o.dims)
          : `${o.dtype === "int32" ? "int32 " : ""}[${["batch", ...o.dims].join(", ")}]`,
      );
      throw new LocatedError(`${where}: operands ${shapes.join(" and ")}: ${error.message}`, error);
    }
    this.nodes.push({ op, inputs, attrs, layer });
    const value: ValueRef = { kind: "node", index: this.nodes.length - 1 };
    return new SymbolicTensor(this, value, type.shape.slice(1), inputType(type, where));
  }

  /** A name for the random numbers of one call: no parameter has it, and no other call of the model. */
  drawName(): string {
    const layer = this.currentName();
    const call = this.draws.get(layer) ?? 0;
    this.draws.set(layer, call + 1);
    return `${layer}#${call}`;
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
    if (this.parameterIndex.has(parameter)) return; // a shared weight has the name that came first
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

/**
 * Adds one op to the model under trace: the module whose forward runs is its layer.
 * @throws InvalidArgumentError naming layer and op when operands or attributes do not fit
 */
export function apply(
  op: string,
  operands: readonly (SymbolicTensor | Parameter)[],
  attrs: Readonly<Record<string, number>> = {},
): SymbolicTensor {
  return traceOf(op, operands).apply(op, operands, attrs);
}

/** A name for the random numbers that one call of `op` on these operands draws. */
export function drawName(op: string, operands: readonly SymbolicTensor[]): string {
  return traceOf(op, operands).drawName();
}

function traceOf(op: string, operands: readonly (SymbolicTensor | Parameter)[]): Trace {
  const tensor = operands.find((o) => o instanceof SymbolicTensor);
  if (!(tensor instanceof SymbolicTensor)) {
    throw new InvalidArgumentError(`${op}: expected a tensor, got ${describe(operands[0])}`);
  }
  return active ?? SymbolicTensor.of(tensor).trace;
}

function inputType(type: ValueType, where: string): InputType {
  if (type.dtype !== "float64") return type.dtype;
  throw new InvalidArgumentError(`${where}: gives float64, which models do not take`);
}

/** @throws InvalidArgumentError saying whose `what` it is */
export function positiveInteger(value: unknown, owner: string, what: string): void {
  if (Number.isSafeInteger(value) && Number(value) > 0) return;
  throw new InvalidArgumentError(
    `${owner}: ${what} must be a positive integer, got ${describe(value)}`,
  );
}

export function describe(value: unknown): string {
  if (value instanceof Module) return `a module (call it: ${value.constructor.name}.call(x))`;
  if (Array.isArray(value)) return "an array";
  if (value instanceof Promise) return "a promise (a forward can't be async)";
  return typeof value === "object" && value !== null ? "an object" : String(value).slice(0, 40);
}
