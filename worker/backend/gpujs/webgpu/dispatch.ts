/**
 * Dispatches on their way to the device's thread, one after another as 32-bit words:
 * pipeline, groups in x and y, number of operands, number of parameter words; buffer, offset and size of each operand; parameters.
 */
export interface Dispatch {
  readonly pipeline: number;
  readonly groupsX: number;
  readonly groupsY: number;
  /** Buffer, offset and size of each operand. */
  readonly bindings: Uint32Array;
  readonly parameters: Uint32Array;
}

const HEAD = 5;
const BINDING = 3;

/** Words that a dispatch takes. */
export function dispatchWords({ bindings, parameters }: Dispatch): number {
  return HEAD + bindings.length + parameters.length;
}

/** Writes a dispatch at word `at`; returns where it ends. */
export function writeDispatch(words: Uint32Array, at: number, dispatch: Dispatch): number {
  const { pipeline, groupsX, groupsY, bindings, parameters } = dispatch;
  words[at] = pipeline;
  words[at + 1] = groupsX;
  words[at + 2] = groupsY;
  words[at + 3] = bindings.length / BINDING;
  words[at + 4] = parameters.length;
  words.set(bindings, at + HEAD);
  words.set(parameters, at + HEAD + bindings.length);
  return at + dispatchWords(dispatch);
}

export function readDispatch(
  words: Uint32Array<ArrayBuffer>,
  at: number,
): Dispatch & { readonly end: number } {
  const [pipeline = 0, groupsX = 0, groupsY = 0, operands = 0, parameters = 0] = words.subarray(
    at,
    at + HEAD,
  );
  const first = at + HEAD;
  const middle = first + operands * BINDING;
  const end = middle + parameters;
  return {
    pipeline,
    groupsX,
    groupsY,
    bindings: words.subarray(first, middle),
    parameters: words.subarray(middle, end),
    end,
  };
}
