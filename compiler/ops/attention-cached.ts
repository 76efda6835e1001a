import { InvalidArgumentError } from "../../shared/errors.ts";
import { productFlops } from "./attention.ts";
import { AttentionShape, headPositions, localHeads } from "./attention-heads.ts";
import type { OpDefinition, ValueType } from "./op.ts";
import { registerOps } from "./registry.ts";
import { at, inputOf, operand, outputOf, show } from "./shapes.ts";

// Legend: L positions that the caches hold, H query heads, KV key-value heads; hd features of one head.

/**
 * Attention of one more token of a sequence: [q [1, 1, H * hd], k and v [1, 1, KV * hd], caches of keys and values
 * [L, KV * hd]] -> o [1, 1, H * hd]. Writes k and v to the row of the token's position, step mod L, and attends to the rows
 * up to it: after L tokens another sequence begins.
 * attrs: as attention. No strategies: a decoder puts it in place of an attention that is placed already.
 */
const attentionCached: OpDefinition = {
  name: "attentionCached",
  infer([q, k, v, keys, values], attrs) {
    const shape = new AttentionShape("attentionCached", attrs, q);
    shape.keyed("k", k);
    shape.keyed("v", v);
    const [batch, tokens] = q?.shape ?? [];
    if (batch !== 1 || tokens !== 1) {
      throw new InvalidArgumentError(
        `attentionCached: q ${show(q?.shape ?? [])} must be one token of one sequence, [1, 1, features]`,
      );
    }
    for (const cache of [keys, values]) {
      if (cache?.shape.length !== 2 || cache.shape[1] !== k?.shape[2]) {
        throw new InvalidArgumentError(
          `attentionCached: a cache of ${show(cache?.shape ?? [])} for keys ${show(k?.shape ?? [])}; needs [positions, features]`,
        );
      }
    }
    return operand([q], 0) as ValueType;
  },
  strategies: () => [],
  flops: ([q, , , keys]) => 2 * productFlops(q) * (keys?.shape[0] ?? 0),
  positions: headPositions(0, 1),
  alsoWrites: () => [3, 4],
  reference(call) {
    const [q, k, v] = [inputOf(call, 0).data, inputOf(call, 1).data, inputOf(call, 2).data];
    const [o, keys, values] = [outputOf(call), outputOf(call, 1), outputOf(call, 2)];
    const { H, KV, headDim, scale, kvHead } = localHeads(call, 0, 1);
    const width = KV * headDim;
    const position = call.scalars.step % (keys.shape[0] ?? 1);
    for (let d = 0; d < width; d++) {
      keys.data[position * width + d] = at(k, d);
      values.data[position * width + d] = at(v, d);
    }
    for (let h = 0; h < H; h++) {
      const [query, head] = [h * headDim, kvHead(h) * headDim];
      const scores = Array.from({ length: position + 1 }, (_, s) => {
        let sum = 0;
        for (let d = 0; d < headDim; d++)
          sum += at(q, query + d) * at(keys.data, s * width + head + d);
        return sum * scale;
      });
      const max = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
      const weights = scores.map((score) => Math.exp(score - max));
      const total = weights.reduce((a, b) => a + b, 0);
      for (let d = 0; d < headDim; d++) {
        let sum = 0;
        weights.forEach((weight, s) => {
          sum += weight * at(values.data, s * width + head + d);
        });
        o.data[query + d] = sum / total;
      }
    }
  },
};

registerOps(attentionCached);
