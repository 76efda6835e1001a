/** Of a job: whether values between the blocks are split along the sequence; auto: where it divides. */
export type SequenceParallel = "auto" | boolean;

export interface SequenceStyles {
  /** Of the token embedding. Its vocabulary is split where it divides. */
  readonly embedding: string;
  /** Of the layers whose outputs are summed over the ranks and added to the stream between blocks. */
  readonly rowwise: string;
  /** The plan's entry for a norm layer: none without sequence parallelism. */
  norm(pattern: string): Readonly<Record<string, string>>;
}

/**
 * The styles of a transformer's default plan that sequence parallelism changes. With it an all-reduce becomes a
 * reduce-scatter before a norm and an all-gather after it: the same bytes, and norms and residual sums are split.
 */
export function sequenceStyles(sequenceParallel: SequenceParallel): SequenceStyles {
  if (sequenceParallel === false) {
    return { embedding: "rowwise(optional)", rowwise: "rowwise", norm: () => ({}) };
  }
  const isOptional = sequenceParallel === "auto";
  const style = isOptional ? "sequence(optional)" : "sequence";
  return {
    embedding: "rowwise(output=shard(1), optional)",
    rowwise: isOptional ? "rowwise(output=shard(1), optional)" : "rowwise(output=shard(1))",
    norm: (pattern) => ({ [pattern]: style }),
  };
}
