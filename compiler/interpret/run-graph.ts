import { InternalError } from "../../shared/errors.ts";
import { stepScalars } from "../../shared/optimizer/step-scalars.ts";
import type { CompileRequest } from "../compile.ts";
import type { TrainingGraph } from "../ir/training-graph.ts";
import { opDefinition } from "../ops/index.ts";
import type { ReferenceTensor } from "../ops/op.ts";
import { elements } from "../ops/shapes.ts";
import type { GlobalTensors, StepResult } from "./run-program.ts";

/**
 * Runs the unpartitioned training graph on one imaginary device, in float64 and plain loops: what every program must
 * equal. Knows nothing of placements, fusion, schedules or memory. One microbatch only: the job's meaning does not
 * depend on their number.
 */
export class OneDevice {
  private readonly values = new Map<number, Float64Array>();
  private step = 0;
  private readonly request: CompileRequest;
  private readonly training: TrainingGraph;

  constructor(request: CompileRequest, training: TrainingGraph, parameters: GlobalTensors) {
    if (request.microbatches !== 1)
      throw new InternalError("the one-device interpreter runs one microbatch");
    this.request = request;
    this.training = training;
    for (const { leaf, name, moment1, moment2 } of training.parameters) {
      const initial = parameters.get(name);
      if (initial === undefined) throw new InternalError(`no initial value of ${name}`);
      this.values.set(leaf, initial.slice());
      for (const moment of [moment1, moment2]) {
        if (moment !== undefined) this.values.set(moment, new Float64Array(initial.length));
      }
    }
  }

  runStep(batch: GlobalTensors): StepResult {
    const { graph, inputs } = this.training;
    for (const { name, leaf } of inputs) {
      const data = batch.get(name);
      if (data === undefined) throw new InternalError(`no batch tensor ${name}`);
      this.values.set(leaf, data.slice());
    }
    const scalars = stepScalars(this.request.optimizer, this.request.schedule, this.step++);
    for (const node of graph.nodes) {
      if (node.leaf !== undefined) continue;
      const definition = opDefinition(node.op);
      const operands = node.inputs.map(
        (id): ReferenceTensor => ({ data: this.data(id), shape: graph.node(id).type.shape }),
      );
      const taken = definition.inPlace === undefined ? undefined : node.inputs[definition.inPlace];
      const states = definition.alsoWrites?.(node.attrs) ?? [];
      const output =
        taken === undefined ? new Float64Array(elements(node.type.shape)) : this.data(taken);
      this.values.set(node.id, output);
      definition.reference({
        inputs: operands,
        outputs: [
          { data: output, shape: node.type.shape },
          ...states.map((index) => operands[index] ?? { data: output, shape: [] }),
        ],
        attrs: node.attrs,
        scalars,
        mesh: { axes: [] },
        coordinates: [],
      });
    }
    const loss = this.data(this.training.loss)[0] ?? Number.NaN;
    const gradNorm =
      this.training.gradNorm === undefined ? undefined : this.data(this.training.gradNorm)[0];
    return { loss, gradNorm };
  }

  parameter(name: string): Float64Array {
    const found = this.training.parameters.find((p) => p.name === name);
    if (found === undefined) throw new InternalError(`no parameter ${name}`);
    return this.data(found.leaf);
  }

  private data(id: number): Float64Array {
    const data = this.values.get(id);
    if (data === undefined) throw new InternalError(`%${id} is read before it is computed`);
    return data;
  }
}
