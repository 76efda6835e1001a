// Samples of embeddings, norms, gates, dropout and views.
import type { Sample } from "./op-samples.ts";

const three = [12, 24, 36];
const eps = { eps: 0.01 };
const noise = { rate: 0.3, nameLow: 1, nameHigh: 2, seedLow: 3, seedHigh: 4, microbatches: 1 };

export const MODEL_SAMPLES: Readonly<Record<string, readonly Sample[]>> = {
  embedding: [
    { inputs: [[12], [24, 36]], ids: { 0: 24 } },
    {
      inputs: [
        [12, 24],
        [24, 36],
      ],
      ids: { 0: 24 },
    },
  ],
  embeddingDw: [
    { inputs: [[12, 36], [12]], output: [24, 36], ids: { 1: 24 } },
    { inputs: [three, [12, 24]], output: [48, 36], ids: { 1: 48 } },
  ],
  addPosition: [{ inputs: [three, [50, 36]] }],
  addPositionDp: [{ inputs: [three], output: [50, 36] }],
  rmsNorm: [
    { inputs: [[12, 24], [24]], attrs: eps },
    { inputs: [three, [36]], attrs: eps },
  ],
  rmsNormDx: [{ inputs: [three, three, [36]], attrs: eps }],
  rmsNormDg: [{ inputs: [three, three], attrs: eps }],
  layerNorm: [{ inputs: [three, [36], [36]], attrs: eps }],
  layerNormDx: [{ inputs: [three, three, [36]], attrs: eps }],
  layerNormDg: [{ inputs: [three, three], attrs: eps }],
  swiglu: [{ inputs: [three, three] }],
  swigluDa: [{ inputs: [three, three, three] }],
  swigluDb: [{ inputs: [three, three] }],
  dropout: [
    { inputs: [[12]], attrs: noise },
    { inputs: [[12, 24, 12]], attrs: noise },
  ],
  reshape: [
    { inputs: [three], attrs: { rank: 2, d1: 24 * 36 } },
    { inputs: [[12, 24 * 12, 1, 36]], attrs: { rank: 5, d1: 24, d2: 12, d3: 12, d4: 3 } },
    { inputs: [[12, 1, 12, 12, 24]], attrs: { rank: 3, d1: 24, d2: 12 * 12 } },
  ],
  transpose: [
    { inputs: [[12, 24, 36, 12]], attrs: { a: 1, b: 3 } },
    { inputs: [three], attrs: { a: 2, b: 1 } },
  ],
};
