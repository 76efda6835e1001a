import type { Program } from "../../../shared/program/program.ts";
import type { Backend, LoadedProgram } from "../backend.ts";
import { MemoryLedger } from "../memory-account.ts";
import { ReferenceProgram } from "./reference-program.ts";

/**
 * Plain loops in JavaScript with sums in float64, straight from the op registry: the truth that other backends
 * are tested against, and a backend for hosts that can run nothing else. Some hundred times slower than `cpu`.
 */
export class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly precisions = ["float32", "bfloat16"] as const;
  readonly device = "plain JavaScript loops, 1 thread";
  readonly fingerprint = `reference; V8 ${process.versions.v8}; ${process.arch}`;
  readonly memory = new MemoryLedger();
  readonly workspaceBytes = 0;

  load(program: Program, rank: number): LoadedProgram {
    return new ReferenceProgram(program, rank, this.memory);
  }

  close(): void {}
}
