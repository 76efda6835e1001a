/**
 * Bounds of a job spec. They stand far above what any job needs and keep every product of sizes, in bytes too,
 * exact in a double.
 */

/** Features, rows of a batch, elements of one row of an input. */
export const MAX_DIM = 2 ** 24;
/** Elements of one parameter. */
export const MAX_ELEMENTS = 2 ** 40;
/** Ranks of a mesh, along each axis and together. */
export const MAX_RANKS = 4096;
export const MAX_NAME_BYTES = 256;
export const MAX_LAYER_NAME_BYTES = 512;
export const MAX_PATH_BYTES = 4096;
export const MAX_PLAN_ENTRIES = 16384;
/**
 * Size of a model: layers of an mlp, parameters and nodes of a graph. A compile takes seconds here, and nothing else is
 * served meanwhile; programs of larger models are too long for a worker anyway.
 */
export const MAX_LAYERS = 1024;
/** Blocks of a transformer: what Llama 3 405B has, and just within the parameters that a model may have. */
export const MAX_BLOCKS = 126;
/** Tokens of one row. */
export const MAX_SEQUENCE = 2 ** 20;
/** Elements of one activation over the whole batch. */
export const MAX_ACTIVATION = 2 ** 44;
export const MAX_PARAMETERS = 2048;
export const MAX_NODES = 8192;
