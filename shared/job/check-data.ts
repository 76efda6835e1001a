import type { ForwardGraph } from "../graph/graph.ts";
import { quote } from "../quote.ts";
import type { FaultList, Path } from "./faults.ts";
import type { DataSourceSpec, JobSpec, ModelSpec } from "./job-spec.ts";
import { MAX_ACTIVATION } from "./limits.ts";
import { listOf } from "./schema-types.ts";
import { sequenceLength, sourceKey, takesTokens } from "./sequences.ts";

/** Faults between model and data. What is in `broken` holds stand-ins, of which nothing is said. */
export function checkData(
  spec: JobSpec,
  isSourceStandIn: boolean,
  broken: ReadonlySet<string>,
  faults: FaultList,
): void {
  const key = sourceKey(spec.data);
  const isSourceBroken = isSourceStandIn || broken.has(`data.${key}`);
  if (!isSourceBroken) {
    checkSource(spec, spec.data, ["data", key], broken, faults);
    checkTarget(spec, key, broken, faults);
    checkSize(spec, key, broken, faults);
  }
  checkEvaluation(spec, isSourceBroken, broken, faults);
}

function checkSource(
  { model }: JobSpec,
  source: DataSourceSpec,
  path: Path,
  broken: ReadonlySet<string>,
  faults: FaultList,
): void {
  if ("module" in model) return;
  if ("graph" in model) {
    checkGraphSource(model.graph, source, path, faults);
    return;
  }
  const name = modelKey(model);
  const length = sequenceLength(source);
  const isText = "text" in source || "tokens" in source;
  if (!takesTokens(model)) {
    if (isText) {
      const message = `gives tokens, but model.${name} takes x; use safetensors, random or stream`;
      faults.add(path, message);
    } else if (length !== undefined) {
      const message = `is ${length}; model.${name} takes no sequences of tokens, leave it out`;
      faults.add([...path, "seqLen"], message);
    }
    return;
  }
  if (length === undefined && !("safetensors" in source)) {
    const message = `is missing; model.${name} takes sequences of tokens, and it says how many a row has`;
    faults.add([...path, "seqLen"], message);
  }
  if (length !== undefined && "gpt2" in model && !broken.has("model.gpt2.contextLength")) {
    const { contextLength } = model.gpt2;
    if (length > contextLength) {
      const message = `is ${length}; model.gpt2 has positions for contextLength ${contextLength}`;
      faults.add([...path, "seqLen"], message);
    }
  }
}

/** A graph was traced for one sequence length, and says by itself what it takes. */
function checkGraphSource(
  graph: ForwardGraph,
  source: DataSourceSpec,
  path: Path,
  faults: FaultList,
): void {
  const length = sequenceLength(source);
  if ("text" in source || "tokens" in source) {
    const other = graph.inputs.filter(({ name, dtype, dims }) => {
      return name !== "tokens" || dtype !== "int32" || dims.length !== 1;
    });
    if (other.length > 0) {
      const shown = other.slice(0, 3).map(({ name, dtype, dims }) => {
        return `${quote(name)} [${["rows", ...dims].join(", ")}] ${dtype}`;
      });
      const message = `gives "tokens" [rows, seqLen] int32 and nothing else for the model, but it takes ${listOf(shown)}`;
      faults.add(path, message);
      return;
    }
  }
  const tokens = graph.inputs.find(({ name, dtype }) => name === "tokens" && dtype === "int32");
  const [wanted] = tokens?.dims ?? [];
  if (length !== undefined && wanted !== undefined && length !== wanted) {
    const message = `is ${length}; the model was traced for ${wanted} tokens`;
    faults.add([...path, "seqLen"], message);
  }
}

function checkTarget(
  spec: JobSpec,
  key: string,
  broken: ReadonlySet<string>,
  faults: FaultList,
): void {
  const isText = "text" in spec.data || "tokens" in spec.data;
  if (spec.loss !== "mse" || !isText || broken.has("loss")) return;
  const message = `"mse" needs a target y, which data.${key} does not give; use cross_entropy`;
  faults.add(["loss"], message);
}

/** Keeps every size of the step exact in a double. */
function checkSize(
  { model, data }: JobSpec,
  key: string,
  broken: ReadonlySet<string>,
  faults: FaultList,
): void {
  const length = sequenceLength(data);
  if (length === undefined || broken.has("data.batchSize")) return;
  let widest = 1;
  if ("llama" in model) widest = Math.max(model.llama.dim, model.llama.hidden, model.llama.vocab);
  if ("gpt2" in model) widest = Math.max(4 * model.gpt2.dim, model.gpt2.vocab);
  const elements = data.batchSize * length * widest;
  if (elements <= MAX_ACTIVATION) return;
  const message = `${data.batchSize} rows of ${length} tokens make an activation of ${elements} numbers; at most ${MAX_ACTIVATION}`;
  faults.add(["data", key, "seqLen"], message);
}

function checkEvaluation(
  spec: JobSpec,
  isSourceBroken: boolean,
  broken: ReadonlySet<string>,
  faults: FaultList,
): void {
  const { every, data } = spec.eval;
  if (data === undefined) {
    if (every > 0 && !broken.has("eval.data")) {
      const message = `is missing; an evaluation every ${every} steps needs held-out data, as text, tokens, safetensors or random`;
      faults.add(["eval", "data"], message);
    }
    return;
  }
  const key = sourceKey(data);
  const path = ["eval", "data", key];
  if (broken.has(`eval.data.${key}`)) return;
  const before = faults.count;
  checkSource(spec, data, path, broken, faults);
  const length = sequenceLength(data);
  const trained = isSourceBroken ? undefined : sequenceLength(spec.data);
  const differs = length !== undefined && trained !== undefined && length !== trained;
  if (faults.count === before && differs) {
    const message = `is ${length}; it must be that of the training data, ${trained}`;
    faults.add([...path, "seqLen"], message);
  }
}

function modelKey(model: ModelSpec): string {
  return Object.keys(model)[0] ?? "";
}
