import { type Fault, InvalidArgumentError } from "../shared/errors.ts";
import { groupOf, type Mesh, worldSize } from "../shared/mesh/mesh.ts";
import { type Layout, localShape } from "../shared/mesh/placement.ts";
import { type DType, dtypeBytes, type Program } from "../shared/program/program.ts";
import { decodeProgramText } from "../shared/program/wire.ts";
import { quote } from "../shared/quote.ts";

/** Faults reported at most: a wrong program is wrong in many places. */
const MAX_FAULTS = 10;
/** `koffi.view` ends the process past this. */
const MAX_VIEW_BYTES = 2 ** 32;
const MAX_RANKS = 1 << 16;

type Json = Readonly<Record<string, unknown>>;

/**
 * Reads a program as it came over the wire, and proves that no index and no offset in it leads outside of its
 * tables or its arena: a worker computes on raw memory.
 * @throws InvalidArgumentError with the faults found, by field path
 */
export function parseProgram(json: Uint8Array): Program {
  let value: unknown;
  try {
    value = JSON.parse(decodeProgramText(json));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const fault = { path: "program_json", message: `${json.length} bytes are not JSON: ${reason}` };
    throw new InvalidArgumentError([fault], { cause });
  }
  const checker = new ProgramChecker();
  checker.check(value);
  if (checker.faults.length > 0) throw new InvalidArgumentError(checker.faults);
  return value as Program;
}

class ProgramChecker {
  readonly faults: Fault[] = [];
  #numSlots = 0;
  #numCollectives = 0;
  readonly #slotBytes: number[] = [];
  readonly #slotDtypes: unknown[] = [];

  check(value: unknown): void {
    const program = this.#object(value, "program");
    if (program === undefined) return;
    if (program["formatVersion"] !== 1) {
      this.#fault(
        "program.formatVersion",
        `is ${quote(program["formatVersion"])}, this worker reads 1; run coordinator and workers of one version`,
      );
      return;
    }
    this.#text(program["name"], "program.name");
    const mesh = this.#mesh(program["mesh"]);
    const arenaBytes = this.#whole(program["arenaBytes"], "program.arenaBytes");
    this.#kinds(program["memoryByKind"], arenaBytes);
    this.#slots(program["slots"], arenaBytes);
    this.#whole(program["microbatches"], "program.microbatches", 1);
    this.#optimizer(program["optimizer"], program["schedule"]);
    if (this.faults.length > 0 || mesh === undefined) return;
    this.#stored(program["stored"], mesh);
    this.#inputs(program["inputs"], mesh);
    this.#collectives(program["collectives"], mesh);
    this.#section(program["body"], "program.body");
    this.#section(program["epilogue"], "program.epilogue");
    this.#evaluation(program["evaluation"]);
    this.#scalarSlot(program["lossSlot"], "program.lossSlot", "float32");
    if (program["gradNormSlot"] !== -1) {
      this.#scalarSlot(program["gradNormSlot"], "program.gradNormSlot", "float64");
    }
  }

  #mesh(value: unknown): Mesh | undefined {
    const before = this.faults.length;
    const axes = this.#list(this.#object(value, "program.mesh")?.["axes"], "program.mesh.axes");
    axes.forEach((item, i) => {
      const axis = this.#object(item, `program.mesh.axes[${i}]`);
      this.#text(axis?.["name"], `program.mesh.axes[${i}].name`);
      this.#whole(axis?.["size"], `program.mesh.axes[${i}].size`, 1);
    });
    if (this.faults.length > before) return undefined;
    const mesh = value as Mesh;
    if (worldSize(mesh) > MAX_RANKS) {
      this.#fault("program.mesh", `has ${worldSize(mesh)} ranks, more than ${MAX_RANKS}`);
      return undefined;
    }
    return mesh;
  }

  #kinds(value: unknown, arenaBytes: number): void {
    const kinds = this.#object(value, "program.memoryByKind");
    if (kinds === undefined) return;
    let sum = 0;
    for (const [kind, bytes] of Object.entries(kinds)) {
      sum += this.#whole(bytes, `program.memoryByKind.${kind}`);
    }
    if (sum !== arenaBytes) {
      this.#fault("program.memoryByKind", `adds up to ${sum} bytes, arenaBytes is ${arenaBytes}`);
    }
  }

  #slots(value: unknown, arenaBytes: number): void {
    const slots = this.#list(value, "program.slots");
    this.#numSlots = slots.length;
    slots.forEach((item, i) => {
      const path = `program.slots[${i}]`;
      const slot = this.#object(item, path);
      if (slot === undefined) return;
      this.#text(slot["name"], `${path}.name`);
      const dtype = this.#dtype(slot["dtype"], `${path}.dtype`);
      const elements = this.#shape(slot["shape"], `${path}.shape`);
      const offset = this.#whole(slot["offsetBytes"], `${path}.offsetBytes`);
      const size = this.#whole(slot["sizeBytes"], `${path}.sizeBytes`);
      if (dtype === undefined) return;
      const bytes = elements * dtypeBytes(dtype);
      this.#slotBytes[i] = bytes;
      this.#slotDtypes[i] = dtype;
      if (bytes > size) this.#fault(path, `its shape takes ${bytes} bytes, sizeBytes is ${size}`);
      if (offset + size > arenaBytes) {
        this.#fault(path, `ends at ${offset + size}, the arena has ${arenaBytes} bytes`);
      }
      if (offset % dtypeBytes(dtype) !== 0) {
        this.#fault(path, `offset ${offset} is not a multiple of ${dtypeBytes(dtype)}`);
      }
    });
  }

  #optimizer(optimizerValue: unknown, scheduleValue: unknown): void {
    const optimizer = this.#object(optimizerValue, "program.optimizer");
    const schedule = this.#object(scheduleValue, "program.schedule");
    if (optimizer === undefined || schedule === undefined) return;
    this.#number(optimizer["lr"], "program.optimizer.lr");
    if (optimizer["kind"] === "adamw") {
      const betas = this.#list(optimizer["betas"], "program.optimizer.betas");
      if (betas.length !== 2)
        this.#fault("program.optimizer.betas", `has ${betas.length} entries, not 2`);
      for (const [i, beta] of betas.entries()) this.#number(beta, `program.optimizer.betas[${i}]`);
      this.#number(optimizer["eps"], "program.optimizer.eps");
      this.#number(optimizer["weightDecay"], "program.optimizer.weightDecay");
    } else if (optimizer["kind"] === "sgd") {
      this.#number(optimizer["momentum"], "program.optimizer.momentum");
    } else this.#fault("program.optimizer.kind", `${quote(optimizer["kind"])} is not adamw or sgd`);
    switch (schedule["kind"]) {
      case "constant":
        return;
      case "linearWarmup":
        this.#whole(schedule["steps"], "program.schedule.steps");
        return;
      case "cosine":
        this.#whole(schedule["warmupSteps"], "program.schedule.warmupSteps");
        this.#number(schedule["minLr"], "program.schedule.minLr");
        this.#whole(schedule["totalSteps"], "program.schedule.totalSteps");
        return;
      default:
        this.#fault(
          "program.schedule.kind",
          `${quote(schedule["kind"])} is not constant, linearWarmup or cosine`,
        );
    }
  }

  #stored(value: unknown, mesh: Mesh): void {
    this.#list(value, "program.stored").forEach((item, i) => {
      const path = `program.stored[${i}]`;
      const tensor = this.#object(item, path);
      if (tensor === undefined) return;
      this.#text(tensor["name"], `${path}.name`);
      if (!isOneOf(tensor["role"], ["parameter", "moment1", "moment2", "cache"])) {
        this.#fault(
          `${path}.role`,
          `${quote(tensor["role"])} is not parameter, moment1, moment2 or cache`,
        );
      }
      this.#tensor(tensor, path, mesh);
      const init = this.#object(tensor["init"], `${path}.init`);
      if (init === undefined) return;
      if (init["kind"] === "uniform") this.#number(init["bound"], `${path}.init.bound`);
      else if (init["kind"] === "constant") this.#number(init["value"], `${path}.init.value`);
      else this.#fault(`${path}.init.kind`, `${quote(init["kind"])} is not uniform or constant`);
    });
  }

  #inputs(value: unknown, mesh: Mesh): void {
    this.#list(value, "program.inputs").forEach((item, i) => {
      const path = `program.inputs[${i}]`;
      const input = this.#object(item, path);
      if (input === undefined) return;
      this.#text(input["name"], `${path}.name`);
      const dtype = this.#dtype(input["dtype"], `${path}.dtype`);
      this.#tensor(input, path, mesh);
      const held = this.#slotDtypes[Number(input["slot"])];
      if (dtype !== undefined && held !== undefined && held !== dtype) {
        this.#fault(`${path}.slot`, `holds ${quote(held)}, the input is ${dtype}`);
      }
    });
  }

  /** What stored tensors and inputs share. */
  #tensor(tensor: Json, path: string, mesh: Mesh): void {
    this.#shape(tensor["globalShape"], `${path}.globalShape`);
    const layout = this.#list(tensor["layout"], `${path}.layout`);
    if (layout.length !== mesh.axes.length) {
      this.#fault(
        `${path}.layout`,
        `has ${layout.length} placements, the mesh has ${mesh.axes.length} axes`,
      );
    }
    layout.forEach((placement, axis) => {
      if (typeof placement !== "string" || !/^(R|P|S\d{1,3})$/.test(placement)) {
        this.#fault(`${path}.layout[${axis}]`, `${quote(placement)} is no placement`);
      }
    });
    const slot = this.#slotIndex(tensor["slot"], `${path}.slot`);
    if (this.faults.length > 0) return;
    try {
      const shape = localShape(tensor["globalShape"] as number[], layout as Layout, mesh);
      const dtype = this.#slotDtypes[slot] as DType;
      const bytes = shape.reduce((product, dim) => product * dim, dtypeBytes(dtype));
      if (bytes !== this.#slotBytes[slot]) {
        this.#fault(
          path,
          `a rank's part takes ${bytes} bytes, its slot holds ${this.#slotBytes[slot]}`,
        );
      }
    } catch (error) {
      this.#fault(path, error instanceof Error ? error.message : String(error));
    }
  }

  #collectives(value: unknown, mesh: Mesh): void {
    const collectives = this.#list(value, "program.collectives");
    this.#numCollectives = collectives.length;
    collectives.forEach((item, i) => {
      const path = `program.collectives[${i}]`;
      const collective = this.#object(item, path);
      if (collective === undefined) return;
      const dtype = this.#dtype(collective["dtype"], `${path}.dtype`);
      const axes = this.#list(collective["axes"], `${path}.axes`);
      for (const axis of axes) {
        if (!Number.isInteger(axis) || mesh.axes[Number(axis)] === undefined) {
          this.#fault(`${path}.axes`, `${quote(axis)} is no axis of the mesh`);
        }
      }
      this.#whole(collective["segmentBytes"], `${path}.segmentBytes`, 1);
      const outer = this.#whole(collective["outer"], `${path}.outer`);
      const chunk = this.#whole(collective["chunkElements"], `${path}.chunkElements`);
      if (!isOneOf(collective["algorithm"], ["direct", "ring"])) {
        this.#fault(`${path}.algorithm`, `${quote(collective["algorithm"])} is not direct or ring`);
      }
      const input = this.#slotIndex(collective["inputSlot"], `${path}.inputSlot`);
      const output = this.#slotIndex(collective["outputSlot"], `${path}.outputSlot`);
      if (dtype === undefined || this.faults.length > 0) return;
      const part = outer * chunk * dtypeBytes(dtype);
      const whole = part * groupOf(mesh, axes as number[], 0).length;
      const needs = {
        allReduce: [part, part],
        allGather: [part, whole],
        reduceScatter: [whole, part],
        allToAll: [whole, whole],
      };
      const op = collective["op"];
      if (op !== "allReduce" && op !== "allGather" && op !== "reduceScatter" && op !== "allToAll") {
        this.#fault(
          `${path}.op`,
          `${quote(op)} is not allReduce, allGather, reduceScatter or allToAll`,
        );
        return;
      }
      [input, output].forEach((slot, end) => {
        const held = this.#slotBytes[slot] ?? 0;
        const needed = needs[op][end] ?? 0;
        const side = end === 0 ? "input" : "output";
        if (held !== needed)
          this.#fault(path, `its ${side} slot holds ${held} bytes, the ${op} needs ${needed}`);
        if (held > MAX_VIEW_BYTES)
          this.#fault(path, `its ${side} slot of ${held} bytes is over ${MAX_VIEW_BYTES}`);
      });
    });
  }

  #section(value: unknown, path: string): void {
    const open = new Set<number>();
    this.#list(value, path).forEach((item, i) => {
      const at = `${path}[${i}]`;
      const instruction = this.#object(item, at);
      if (instruction === undefined) return;
      if (instruction["kind"] === "compute") {
        this.#text(instruction["op"], `${at}.op`);
        for (const field of ["inputs", "outputs"]) {
          const slots = this.#list(instruction[field], `${at}.${field}`);
          for (const [j, slot] of slots.entries()) this.#slotIndex(slot, `${at}.${field}[${j}]`);
        }
        const attrs = this.#object(instruction["attrs"], `${at}.attrs`);
        for (const [name, attr] of Object.entries(attrs ?? {}))
          this.#number(attr, `${at}.attrs.${name}`);
        return;
      }
      const collective = this.#index(
        instruction["collective"],
        this.#numCollectives,
        `${at}.collective`,
      );
      const started = open.has(collective);
      if (instruction["kind"] === "start") {
        if (started)
          this.#fault(at, `starts collective ${collective} a second time before its wait`);
        open.add(collective);
      } else if (instruction["kind"] === "wait") {
        if (!started) this.#fault(at, `waits for collective ${collective}, which was not started`);
        open.delete(collective);
      } else
        this.#fault(`${at}.kind`, `${quote(instruction["kind"])} is not compute, start or wait`);
    });
    for (const collective of open)
      this.#fault(path, `ends without waiting for collective ${collective}`);
  }

  #evaluation(value: unknown): void {
    if (value === undefined) return;
    const evaluation = this.#object(value, "program.evaluation");
    if (evaluation === undefined) return;
    this.#section(evaluation["body"], "program.evaluation.body");
    this.#section(evaluation["epilogue"], "program.evaluation.epilogue");
    this.#scalarSlot(evaluation["lossSlot"], "program.evaluation.lossSlot", "float32");
  }

  #scalarSlot(value: unknown, path: string, dtype: DType): void {
    const slot = this.#slotIndex(value, path);
    if (this.#slotDtypes[slot] !== dtype || this.#slotBytes[slot] !== dtypeBytes(dtype)) {
      this.#fault(path, `slot ${slot} is not one ${dtype}`);
    }
  }

  #slotIndex(value: unknown, path: string): number {
    return this.#index(value, this.#numSlots, path);
  }

  #index(value: unknown, count: number, path: string): number {
    const index = this.#whole(value, path);
    if (index >= count) this.#fault(path, `is ${index}, the table has ${count} entries`);
    return index;
  }

  /** Elements of a shape. */
  #shape(value: unknown, path: string): number {
    const shape = this.#list(value, path);
    let elements = 1;
    shape.forEach((dim, i) => {
      elements *= this.#whole(dim, `${path}[${i}]`);
    });
    if (!Number.isSafeInteger(elements * 8)) this.#fault(path, `has ${elements} elements`);
    return elements;
  }

  #dtype(value: unknown, path: string): DType | undefined {
    const known = DTYPES.find((dtype) => dtype === value);
    if (known === undefined) this.#fault(path, `${quote(value)} is not ${DTYPES.join(", ")}`);
    return known;
  }

  #whole(value: unknown, path: string, least = 0): number {
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= least) return value;
    this.#fault(path, `${quote(value)} is not a whole number of at least ${least}`);
    return 0;
  }

  #number(value: unknown, path: string): void {
    if (typeof value !== "number") this.#fault(path, `${quote(value)} is not a number`);
  }

  #text(value: unknown, path: string): void {
    if (typeof value !== "string") this.#fault(path, `${quote(value)} is not a string`);
  }

  #list(value: unknown, path: string): readonly unknown[] {
    if (Array.isArray(value)) return value;
    this.#fault(path, `${quote(value)} is not a list`);
    return [];
  }

  #object(value: unknown, path: string): Json | undefined {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
    this.#fault(path, `${quote(value)} is not an object`);
    return undefined;
  }

  #fault(path: string, message: string): void {
    if (this.faults.length < MAX_FAULTS) this.faults.push({ path, message });
  }
}

const DTYPES: readonly DType[] = ["float32", "float64", "int32", "bfloat16"];

function isOneOf(value: unknown, choices: readonly string[]): boolean {
  return typeof value === "string" && choices.includes(value);
}
