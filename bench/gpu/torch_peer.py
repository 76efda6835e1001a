#!/usr/bin/env python3
"""The peer to beat on a GPU: the benchmark's models in plain PyTorch, as one would write them to be fast.

  torch_peer.py feedforward [--dim 8192 --hidden 8192 --batch 8] [--fused]
  torch_peer.py llama --precision bf16 [--dim 2048 --layers 8 ... --seq 2048 --batch 4] [--fused] [--compile]

Trains with AdamW on random data and prints one JSON line: seconds of a step (median, 90th percentile, least) and the
most bytes that its tensors held. AdamW is PyTorch's default on a GPU (foreach), or its fused kernel. float32 is float32:
TF32 stays off. bf16 is autocast with float32 weights. Attention is scaled_dot_product_attention, the norm rms_norm where
this PyTorch has it. --compile puts the model through torch.compile. Steps are timed by events on the device and follow one
another without a wait, as they would in training; a step is forward, backward, update and clearing of gradients.
--device cpu runs the same, to try the script out.
"""
import argparse
import contextlib
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("model", choices=["feedforward", "llama"])
    p.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    p.add_argument("--device", default="cuda")
    p.add_argument("--fused", action="store_true")
    p.add_argument("--compile", action="store_true")
    sizes = dict(dim=8192, hidden=8192, batch=8, steps=30, warmup=5, layers=8, heads=16, kv_heads=16, vocab=32000, seq=2048)
    for name, value in sizes.items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    return p.parse_args()


def weight(o, i, device):
    return torch.nn.Parameter((torch.rand(o, i, device=device) * 2 - 1) / math.sqrt(i))


def feed_forward(a, device):
    w1, w3, w2 = weight(a.hidden, a.dim, device), weight(a.hidden, a.dim, device), weight(a.dim, a.hidden, device)
    data = torch.randn(64, a.dim, device=device).repeat(2, 1)

    def loss(x):
        return F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), w2).sum()

    def batch(step):
        first = step * a.batch % 64
        return (data[first : first + a.batch],)

    return [w1, w2, w3], loss, batch


def llama(a, device):
    head = a.dim // a.heads

    def gain():
        return torch.nn.Parameter(torch.ones(a.dim, device=device))

    layers = [
        dict(
            q=weight(a.heads * head, a.dim, device), k=weight(a.kv_heads * head, a.dim, device),
            v=weight(a.kv_heads * head, a.dim, device), o=weight(a.dim, a.heads * head, device),
            w1=weight(a.hidden, a.dim, device), w3=weight(a.hidden, a.dim, device), w2=weight(a.dim, a.hidden, device),
            n1=gain(), n2=gain(),
        )
        for _ in range(a.layers)
    ]
    embedding, output, last = weight(a.vocab, a.dim, device), weight(a.vocab, a.dim, device), gain()
    angle = torch.outer(torch.arange(a.seq).float(), 500000.0 ** (-torch.arange(0, head, 2).float() / head))
    cos, sin = angle.cos().to(device)[:, None], angle.sin().to(device)[:, None]

    def norm(x, g):
        if hasattr(F, "rms_norm"):
            return F.rms_norm(x, (a.dim,), g, 1e-5)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * g

    def rope(x):
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)

    def attend(q, k, v):
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if a.kv_heads != a.heads:
            k, v = (t.repeat_interleave(a.heads // a.kv_heads, 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    def loss(tokens, targets):
        x = F.embedding(tokens, embedding)
        b, t = tokens.shape
        for l in layers:
            y = norm(x, l["n1"])
            q, k, v = (F.linear(y, l[n]).view(b, t, -1, head) for n in "qkv")
            x = x + F.linear(attend(rope(q), rope(k), v).reshape(b, t, -1), l["o"])
            y = norm(x, l["n2"])
            x = x + F.linear(F.silu(F.linear(y, l["w1"])) * F.linear(y, l["w3"]), l["w2"])
        return F.cross_entropy(F.linear(norm(x, last), output).view(b * t, -1), targets.reshape(-1))

    rows = torch.randint(0, a.vocab, (64, a.batch, a.seq + 1), device=device)

    def batch(step):
        tokens = rows[step % 64]
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    return [embedding, output, last, *(w for l in layers for w in l.values())], loss, batch


class Clock:
    """Seconds from one mark to the next: by the device's events where there is one, which does not hold it up."""

    def __init__(self, device):
        self.on_gpu = device.type == "cuda"
        self.marks = []

    def mark(self):
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self):
        pairs = zip(self.marks, self.marks[1:])
        if not self.on_gpu:
            return [end - start for start, end in pairs]
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]


def main():
    a = parse()
    device = torch.device(a.device)
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    parameters, loss_of, batch = (feed_forward if a.model == "feedforward" else llama)(a, device)
    if a.compile:
        loss_of = torch.compile(loss_of)
    half = a.precision == "bf16"
    precision = torch.autocast(device.type, dtype=torch.bfloat16) if half else contextlib.nullcontext()
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, **(dict(fused=True) if a.fused else {}))
    clock = Clock(device)
    for step in range(a.warmup + a.steps):
        if step >= a.warmup:
            clock.mark()
        with precision:
            loss = loss_of(*batch(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    clock.mark()
    times = sorted(clock.seconds())
    last = float(loss)
    if not math.isfinite(last):
        raise SystemExit(f"loss of the last step is {last}")
    print(json.dumps(dict(
        torch=torch.__version__, median_s=statistics.median(times), p90_s=times[math.ceil(0.9 * len(times)) - 1],
        min_s=times[0], last_loss=last,
        peak_bytes=torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
    )))


main()
