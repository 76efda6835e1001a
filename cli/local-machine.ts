import { RankmeshError } from "../shared/errors.ts";
import type { LocalDevice } from "../worker/backend/local-devices.ts";
import { UsageError } from "./exit-codes.ts";
import { plural } from "./format.ts";
import { machineMemoryBytes, numCores } from "./machine.ts";

/** Memory that local ranks share. */
export interface SharedMemory {
  /** `memory`, `memory of GPU 0 (NVIDIA H100)` */
  readonly name: string;
  readonly available: number;
  readonly total: number;
}

/** What one worker process of this machine computes with. */
export interface LocalRank {
  readonly backend: string;
  /** Empty: the backend's own choice. */
  readonly device: string;
  readonly memory: SharedMemory;
  /** Its share of that memory. */
  readonly memoryLimitBytes: number;
  /** What its backend takes beside a program. */
  readonly workspaceBytes: number;
}

/** How local ranks are dealt over what this machine has. */
export interface LocalMachine {
  /** Ranks of a mesh whose size is `auto`: one a GPU, or one a core. */
  readonly numWorkers: number;
  /** @throws UsageError when more backends are named than there are ranks */
  place(ranks: number): LocalRank[];
}

export interface LocalMachineOptions {
  /** Backends of the ranks, in turn. */
  readonly backends: readonly string[];
  /** Devices in turn, for the ranks whose backend has any; empty: all GPUs of the host. */
  readonly devices: readonly string[];
  /** @default the driver's */
  readonly findDevices?: FindDevices;
  /** @default this machine's */
  readonly hostMemory?: Omit<SharedMemory, "name">;
}

type FindDevices = (choices: readonly string[]) => LocalDevice[];

/** Backends that compute on the host's processor and have no devices to choose among. */
const HOST_ONLY: ReadonlySet<string> = new Set(["cpu", "reference"]);

/**
 * @throws FailedPreconditionError when a backend is `cuda` and cannot run here; InvalidArgumentError for a device that is not
 * there
 */
export async function localMachine(options: LocalMachineOptions): Promise<LocalMachine> {
  const { backends, devices } = options;
  const findDevices = options.findDevices ?? (await driverDevices());
  const host = { name: "memory", ...(options.hostMemory ?? machineMemoryBytes()) };
  const onlyCuda = backends.every((name) => name === "cuda" || name === "auto");
  // Where other backends take devices too, not all those named are GPUs: each is looked up for its rank.
  const gpus = backends.some(mayUseCuda)
    ? findGpus(backends, onlyCuda ? devices : [], findDevices)
    : [];
  const memories = new Map<number, SharedMemory>();
  const memoryOf = ({ ordinal, name, memoryBytes }: LocalDevice): SharedMemory => {
    const known = memories.get(ordinal) ?? {
      name: `memory of GPU ${ordinal} (${name})`,
      available: memoryBytes,
      total: memoryBytes,
    };
    memories.set(ordinal, known);
    return known;
  };
  const place = (ranks: number): LocalRank[] => {
    if (backends.length > ranks) {
      throw new UsageError(
        `--backend names ${plural(backends.length, "backend")} for ${plural(ranks, "rank")}; name one for all, or one for each`,
      );
    }
    const names = Array.from({ length: ranks }, (_, i) => backends[i % backends.length] ?? "auto");
    const none = names.every((name) => HOST_ONLY.has(name));
    let dealt = 0;
    const placed = names.map((backend) => {
      // To a backend without devices only where nothing else could take them, for its error.
      const takes = none || !HOST_ONLY.has(backend);
      const given = takes ? devices[dealt % Math.max(1, devices.length)] : undefined;
      const gpu = mayUseCuda(backend) ? gpuFor(given, dealt) : undefined;
      if (takes) dealt++;
      return gpu === undefined
        ? { backend, device: given ?? "", memory: host, workspaceBytes: 0 }
        : {
            backend,
            device: String(gpu.ordinal),
            memory: memoryOf(gpu),
            workspaceBytes: gpu.workspaceBytes,
          };
    });
    return placed.map((rank) => {
      const sharing = placed.filter(({ memory }) => memory === rank.memory).length;
      return { ...rank, memoryLimitBytes: Math.floor(rank.memory.available / sharing) };
    });
  };
  const gpuFor = (given: string | undefined, turn: number): LocalDevice | undefined =>
    given === undefined || onlyCuda || gpus.length === 0
      ? gpus[turn % Math.max(1, gpus.length)]
      : findDevices([given])[0];
  const numWorkers =
    backends.length > 1 ? backends.length : gpus.length > 0 ? gpus.length : numCores();
  return { numWorkers, place };
}

/** Loaded when it is needed: most commands have no use for native libraries. */
async function driverDevices(): Promise<FindDevices> {
  const { cudaDevices } = await import("../worker/backend/local-devices.ts");
  return cudaDevices;
}

function mayUseCuda(backend: string): boolean {
  return backend === "cuda" || backend === "auto";
}

/** The GPUs to deal out; none where `auto` will take something else, and say why. */
function findGpus(
  backends: readonly string[],
  choices: readonly string[],
  find: FindDevices,
): LocalDevice[] {
  try {
    return find(choices);
  } catch (error) {
    if (backends.includes("cuda") || !(error instanceof RankmeshError)) throw error;
    return [];
  }
}
