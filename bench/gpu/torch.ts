import { sourcePath } from "../repository.ts";
import { runProcess } from "../run-process.ts";
import type { Sizes } from "./sizes.ts";

/** What PyTorch says of one run. */
export interface TorchRun {
  readonly medianSeconds: number;
  readonly p90Seconds: number;
  /** Device memory that its allocator held in tensors at most. */
  readonly peakBytes: number;
}

export type TorchFlag = "fused" | "compile";

const TIMEOUT_MS = 240_000;
/** The first steps choose algorithms and allocate. */
const WARMUP_STEPS = 5;
const PYTHONS = ["python3", "/usr/bin/python3"];

/** PyTorch on the same GPU: bench/gpu/torch_peer.py. It may be absent. */
export class Torch {
  /** Why there is none; undefined where it is there. */
  readonly missing: string | undefined;
  readonly version: string;
  readonly #python: string;
  readonly #device: string;
  readonly #signal: AbortSignal;

  private constructor(
    found: { python: string; version: string; device: string } | { missing: string },
    signal: AbortSignal,
  ) {
    this.#signal = signal;
    this.missing = "missing" in found ? found.missing : undefined;
    this.version = "version" in found ? found.version : "";
    this.#python = "python" in found ? found.python : "";
    this.#device = "device" in found ? found.device : "";
  }

  /** Looks for a Python whose PyTorch sees a GPU. @param ordinal of the GPU to use */
  static async find(ordinal: number, signal: AbortSignal): Promise<Torch> {
    const probe = "import torch; assert torch.cuda.is_available(); print(torch.__version__)";
    for (const python of PYTHONS) {
      try {
        const said = await runProcess(python, ["-c", probe], { timeoutMs: 120_000, signal });
        return new Torch({ python, version: said.trim(), device: `cuda:${ordinal}` }, signal);
      } catch {
        signal.throwIfAborted();
      }
    }
    return new Torch({ missing: "no python3 whose PyTorch sees a GPU" }, signal);
  }

  static none(): Torch {
    return new Torch({ missing: "switched off" }, new AbortController().signal);
  }

  /** @throws Error when it fails; only where PyTorch is not `missing` */
  feedForward(
    { feedForward }: Sizes,
    steps: number,
    flags: readonly TorchFlag[],
  ): Promise<TorchRun> {
    const { dim, batch } = feedForward;
    return this.#train("feedforward", { dim, hidden: dim, batch, steps }, flags);
  }

  /** @throws as `feedForward` */
  llama(
    { llama }: Sizes,
    precision: "fp32" | "bf16",
    steps: number,
    flags: readonly TorchFlag[],
  ): Promise<TorchRun> {
    const { model, seqLen, batch } = llama;
    const { kvHeads, ...sizes } = model;
    const options = { ...sizes, "kv-heads": kvHeads, seq: seqLen, batch, steps, precision };
    return this.#train("llama", options, flags);
  }

  async #train(
    model: string,
    options: Readonly<Record<string, number | string>>,
    flags: readonly TorchFlag[],
  ): Promise<TorchRun> {
    const all = { ...options, warmup: WARMUP_STEPS, device: this.#device };
    const args = Object.entries(all).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const switches = flags.map((flag) => `--${flag}`);
    const script = sourcePath("bench/gpu/torch_peer.py");
    const stdout = await runProcess(this.#python, [script, model, ...args, ...switches], {
      timeoutMs: TIMEOUT_MS,
      signal: this.#signal,
    });
    const said = JSON.parse(stdout) as Record<"median_s" | "p90_s" | "peak_bytes", number>;
    return {
      medianSeconds: said.median_s,
      p90Seconds: said.p90_s,
      peakBytes: said.peak_bytes,
    };
  }
}
