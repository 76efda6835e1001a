import { dtypeBytes, type Instruction, type Program, type Slot } from "./program.ts";

/**
 * A program as readable text, one line an instruction: what people read, golden tests pin and logs keep.
 * `%7 float32[4, 8] @512` is slot 7, its local shape, its offset in the arena.
 */
export function printProgram(program: Program): string {
  const lines: string[] = [];
  const mesh = program.mesh.axes.map((axis) => `${axis.name} ${axis.size}`).join(" x ");
  lines.push(`program ${JSON.stringify(program.name)} on ${mesh}`);
  const kinds = Object.entries(program.memoryByKind).map(([kind, bytes]) => `${kind} ${bytes}`);
  lines.push(`arena ${program.arenaBytes} bytes: ${kinds.join(", ")}`);
  const sent = sentBytes(program);
  lines.push(`sent ${sent} bytes a step and rank, over ${program.collectives.length} collectives`);
  lines.push("stored");
  for (const tensor of program.stored) {
    const role = tensor.role === "parameter" ? "" : ` ${tensor.role}`;
    lines.push(
      `  ${tensor.name}${role} [${tensor.globalShape.join(", ")}] (${tensor.layout.join(", ")}) = ${slotText(program, tensor.slot)}`,
    );
  }
  lines.push("inputs");
  for (const input of program.inputs) {
    lines.push(
      `  ${input.name} [${input.globalShape.join(", ")}] (${input.layout.join(", ")}) = ${slotText(program, input.slot)}`,
    );
  }
  section("body", program.body, program.microbatches);
  if (program.epilogue.length > 0) section("epilogue", program.epilogue, 1);
  const norm = program.gradNormSlot < 0 ? "" : `, gradient norm %${program.gradNormSlot}`;
  lines.push(`loss %${program.lossSlot}${norm}`);
  if (program.evaluation !== undefined) {
    const { body, epilogue, lossSlot } = program.evaluation;
    section("evaluation", body, program.microbatches);
    if (epilogue.length > 0) section("evaluation epilogue", epilogue, 1);
    lines.push(`evaluation loss %${lossSlot}`);
  }
  return `${lines.join("\n")}\n`;

  function section(name: string, instructions: readonly Instruction[], times: number): void {
    lines.push(times === 1 ? name : `${name} x ${times}`);
    for (const instruction of instructions)
      lines.push(`  ${instructionText(program, instruction)}`);
  }
}

/** Payload bytes that a rank sends in one step. */
export function sentBytes(program: Program): number {
  const of = (instructions: readonly Instruction[]): number =>
    instructions.reduce(
      (sum, i) =>
        sum + (i.kind === "start" ? (program.collectives[i.collective]?.wireBytes ?? 0) : 0),
      0,
    );
  return program.microbatches * of(program.body) + of(program.epilogue);
}

function instructionText(program: Program, instruction: Instruction): string {
  if (instruction.kind === "compute") {
    const attrs = Object.entries(instruction.attrs)
      .map(([key, value]) => ` ${key}=${value}`)
      .join("");
    const outputs = instruction.outputs.map((slot) => slotText(program, slot)).join(", ");
    const inputs = instruction.inputs.map((slot) => slotName(program, slot)).join(", ");
    return `${outputs} = ${[instruction.op, inputs].filter((part) => part !== "").join(" ")}${attrs}`;
  }
  const name = `c${instruction.collective}`;
  const c = program.collectives[instruction.collective];
  if (instruction.kind === "wait" || c === undefined) return `${instruction.kind} ${name}`;
  const axes = c.axes.map((axis) => program.mesh.axes[axis]?.name ?? axis).join(" x ");
  const moved = `${slotText(program, c.outputSlot)} = ${c.op} ${slotName(program, c.inputSlot)} over ${axes}`;
  const how = `${c.from} -> ${c.to}, ${c.algorithm}, payload ${c.payloadBytes}, sent ${c.wireBytes}`;
  return `start ${name} ${moved} (${how}) # ${c.phase}, ${c.label}`;
}

function slotName(program: Program, index: number): string {
  const name = program.slots[index]?.name ?? "?";
  return name.startsWith("%") ? `%${index}` : `${name}(%${index})`;
}

function slotText(program: Program, index: number): string {
  const slot: Slot | undefined = program.slots[index];
  if (slot === undefined) return `%${index}`;
  const count = slot.sizeBytes / dtypeBytes(slot.dtype);
  const shape = slot.shape.length === 0 && count === 1 ? "" : `[${slot.shape.join(", ")}]`;
  return `${slotName(program, index)} ${slot.dtype}${shape} @${slot.offsetBytes}`;
}
