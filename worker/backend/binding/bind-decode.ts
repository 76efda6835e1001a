import { sampleUniform } from "../../../compiler/ops/sample-token.ts";
import { attentionOperands } from "./bind-attention.ts";
import { type Binder, perStep } from "./binder.ts";

const attentionCached: Binder = (o, context) => {
  const { q, k, v, sizes } = attentionOperands(o, context, 0, true);
  const [B, T, H, KV, headDim, group, shift] = sizes;
  if (B * T !== 1) o.fail(`${B * T} tokens where one is needed`);
  const [keys, values] = [o.updated(3, 1), o.updated(4, 2)];
  const positions = keys.n / k.n;
  if (!Number.isSafeInteger(positions) || positions < 1 || values.n !== keys.n) {
    o.fail(`caches of ${keys.n} and ${values.n} elements for keys of ${k.n}`);
  }
  const out = o.output(0, q.n);
  const { kernels } = context;
  return perStep(({ step }) => {
    kernels.attentionCached(
      q.address,
      k.address,
      v,
      keys.address,
      values.address,
      out.address,
      H,
      KV,
      headDim,
      group,
      shift,
      step % positions,
    );
  });
};

const sampleToken: Binder = (o, { kernels }) => {
  const [z, id] = [o.input(0), o.output(0, 1)];
  const [temperature, topK] = [o.attr("temperature"), o.attr("topK")];
  if (z.n < 1) o.fail("no logits");
  if (!(temperature >= 0) || !Number.isSafeInteger(topK) || topK < 0) {
    o.fail(`a draw at temperature ${temperature} among ${topK}`);
  }
  return perStep(({ step }) => {
    const u = sampleUniform(o.attrs, step);
    kernels.sampleToken(z.address, z.n, temperature, topK, u, id.address);
  });
};

export const DECODE_BINDERS: readonly (readonly [op: string, binder: Binder])[] = [
  ["attentionCached", attentionCached],
  ["sampleToken", sampleToken],
];
