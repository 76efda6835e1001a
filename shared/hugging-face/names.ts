/** Pure: which tensors a Hugging Face Llama checkpoint has, and which of the model's parameters each one is. */
import type { LlamaModel } from "../job/job-spec.ts";

/** A parameter under both of its names. */
export interface HuggingFaceTensor {
  /** In the checkpoint: `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string;
  /** In the model: `layers.0.attention.wq.weight`. */
  readonly parameter: string;
  readonly shape: readonly number[];
  /** Features of a head where the rows of its heads are in rotary order (`rotary.ts`). */
  readonly rotaryHeadDim?: number;
}

/** Name of the output projection, which a tied model shares with the embedding. */
export const TIED_HEAD = "lm_head.weight";
export const EMBEDDING = "model.embed_tokens.weight";

/** Every parameter of the model. A tied model has no output projection of its own. */
export function huggingFaceTensors(model: LlamaModel): HuggingFaceTensor[] {
  const { dim, layers, heads, kvHeads, hidden, vocab, tied } = model;
  const headDim = dim / heads;
  const tensors: HuggingFaceTensor[] = [
    { name: EMBEDDING, parameter: "tok_embeddings.weight", shape: [vocab, dim] },
  ];
  for (let layer = 0; layer < layers; layer++) {
    const add = (
      name: string,
      parameter: string,
      shape: number[],
      rotaryHeadDim?: number,
    ): void => {
      tensors.push({
        name: `model.layers.${layer}.${name}.weight`,
        parameter: `layers.${layer}.${parameter}.weight`,
        shape,
        ...(rotaryHeadDim === undefined ? {} : { rotaryHeadDim }),
      });
    };
    add("input_layernorm", "attention_norm", [dim]);
    add("self_attn.q_proj", "attention.wq", [heads * headDim, dim], headDim);
    add("self_attn.k_proj", "attention.wk", [kvHeads * headDim, dim], headDim);
    add("self_attn.v_proj", "attention.wv", [kvHeads * headDim, dim]);
    add("self_attn.o_proj", "attention.wo", [dim, heads * headDim]);
    add("post_attention_layernorm", "ffn_norm", [dim]);
    add("mlp.gate_proj", "feed_forward.w1", [hidden, dim]);
    add("mlp.up_proj", "feed_forward.w3", [hidden, dim]);
    add("mlp.down_proj", "feed_forward.w2", [dim, hidden]);
  }
  tensors.push({ name: "model.norm.weight", parameter: "norm.weight", shape: [dim] });
  if (!tied) tensors.push({ name: TIED_HEAD, parameter: "output.weight", shape: [vocab, dim] });
  return tensors;
}

/** Tables that old checkpoints carry although they follow from the configuration. */
export function isDerivedTensor(name: string): boolean {
  return /^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$/.test(name);
}
