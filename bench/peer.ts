import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import type { LlamaModel } from "../shared/job/job-spec.ts";
import { REPOSITORY } from "./repository.ts";
import { runProcess } from "./run-process.ts";

/** What the PyTorch program says of one run. */
export interface PeerRun {
  readonly medianSeconds: number;
  readonly minSeconds: number;
  /** One per rank. */
  readonly peakRssBytes: readonly number[];
  /** Of those, what the interpreter held before the model was made. */
  readonly baselineRssBytes: readonly number[];
}

interface PeerSettings {
  readonly world: number;
  readonly threads: number;
  readonly batch: number;
  readonly steps: number;
}

export interface PeerTask extends PeerSettings {
  readonly dim: number;
}

export interface LlamaPeerTask extends PeerSettings {
  readonly model: Pick<LlamaModel, "dim" | "layers" | "heads" | "kvHeads" | "hidden" | "vocab">;
  readonly seqLen: number;
}

const TIMEOUT_MS = 300_000;
/** The first python3 of the path may be another than the system's, which has Debian's PyTorch package. */
const PYTHONS = ["python3", "/usr/bin/python3"];

/** The programs to beat: plain PyTorch over gloo, in a folder outside the repository. They may be absent. */
export class Peers {
  /** Why there are none; undefined where they are there. */
  readonly missing: string | undefined;
  /** PyTorch's version. */
  readonly version: string;
  readonly #python: string;
  readonly #folder: string;
  readonly #signal: AbortSignal;
  readonly #memory = new Map<string, PeerRun>();

  private constructor(
    found: { python: string; version: string; folder: string } | { missing: string },
    signal: AbortSignal,
  ) {
    this.#signal = signal;
    this.missing = "missing" in found ? found.missing : undefined;
    this.version = "version" in found ? found.version : "";
    this.#python = "python" in found ? found.python : "";
    this.#folder = "folder" in found ? found.folder : "";
  }

  /** Looks in $RANKMESH_PEER_DIR, else beside the repository, and for a Python that has PyTorch. */
  static async find(signal: AbortSignal): Promise<Peers> {
    const folder = resolve(process.env["RANKMESH_PEER_DIR"] ?? join(REPOSITORY, "../shared/peer"));
    if (!existsSync(join(folder, "torch_tp.py"))) {
      const missing = "no torch_tp.py; set RANKMESH_PEER_DIR to the folder that holds it";
      return new Peers({ missing }, signal);
    }
    for (const python of PYTHONS) {
      try {
        const args = ["-c", "import torch; print(torch.__version__)"];
        const version = (await runProcess(python, args, { timeoutMs: 60_000, signal })).trim();
        return new Peers({ python, version, folder }, signal);
      } catch {
        signal.throwIfAborted();
      }
    }
    const missing = "no python3 with PyTorch; on Debian: apt-get install python3-torch";
    return new Peers({ missing }, signal);
  }

  static none(): Peers {
    return new Peers({ missing: "switched off" }, new AbortController().signal);
  }

  /** Trains the reference program. @throws Error when it fails; only where peers are not `missing` */
  async feedForward({ world, threads, dim, batch, steps }: PeerTask): Promise<PeerRun> {
    const flags = { world, threads, batch, steps, dim, hidden: dim };
    const run = await this.#train("feedforward", flags);
    this.#memory.set(`${world} ${dim} ${batch}`, run);
    return run;
  }

  /** As `feedForward`, but a run made before serves: memory does not depend on the load of the machine. */
  async feedForwardMemory(task: PeerTask): Promise<PeerRun> {
    const { world, dim, batch } = task;
    return this.#memory.get(`${world} ${dim} ${batch}`) ?? (await this.feedForward(task));
  }

  /** Trains a Llama, tensor-parallel over `world` ranks. @throws Error as `feedForward` */
  llama({ world, threads, batch, steps, model, seqLen }: LlamaPeerTask): Promise<PeerRun> {
    const { kvHeads, ...sizes } = model;
    const flags = { world, threads, batch, steps, ...sizes, "kv-heads": kvHeads, seq: seqLen };
    return this.#train("llama", flags);
  }

  async #train(model: string, flags: Readonly<Record<string, number>>): Promise<PeerRun> {
    const options = { ...flags, port: await freePort() };
    const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const stdout = await runProcess(
      this.#python,
      [join(this.#folder, "torch_tp.py"), model, ...args],
      { timeoutMs: TIMEOUT_MS, signal: this.#signal },
    );
    const said = JSON.parse(stdout) as {
      median_step_s: number;
      min_step_s: number;
      peak_rss_bytes: number[];
      baseline_rss_bytes: number[];
    };
    return {
      medianSeconds: said.median_step_s,
      minSeconds: said.min_step_s,
      peakRssBytes: said.peak_rss_bytes,
      baselineRssBytes: said.baseline_rss_bytes,
    };
  }
}

function freePort(): Promise<number> {
  return new Promise((done, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => done(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}
