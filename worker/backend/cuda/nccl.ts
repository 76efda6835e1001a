import koffi, { type LibraryHandle } from "koffi";
import { DeviceError } from "../../../shared/errors.ts";
import { func, intOf, showArgument } from "./driver.ts";
import { openNccl } from "./libraries.ts";

/** NCCL_UNIQUE_ID_BYTES */
export const ID_BYTES = 128;

/** ncclResult_t */
const SUCCESS = 0;
export const IN_PROGRESS = 7;

/** ncclDataType_t */
export const NCCL_TYPES = { int32: 2, float32: 7, float64: 8, bfloat16: 9 } as const;

/** ncclRedOp_t */
export const SUM = 0;

/** The first whose communicators need not block. */
const LEAST_VERSION = 21_400;

/** A communicator's configuration as in nccl.h of 2.17; later versions take what they know more of by its default. */
const CONFIG_BYTES = 40;
const CONFIG_MAGIC = 0xcafebeef;
const CONFIG_VERSION = 21_700;
/** NCCL_CONFIG_UNDEF_INT */
const UNDEFINED = -(2 ** 31);

/** The functions of NCCL that collectives use, named as in nccl.h; each gives SUCCESS or IN_PROGRESS, all else is thrown. */
export interface Nccl {
  ncclCommInitRankConfig(
    comm: BigUint64Array,
    ranks: number,
    id: { readonly internal: Uint8Array },
    rank: number,
    config: Uint8Array,
  ): number;
  ncclGetUniqueId(id: Uint8Array): number;
  ncclCommAbort(comm: bigint): number;
  ncclAllReduce(
    from: number,
    to: number,
    count: number,
    type: number,
    op: number,
    comm: bigint,
    stream: number,
  ): number;
  ncclReduceScatter(
    from: number,
    to: number,
    count: number,
    type: number,
    op: number,
    comm: bigint,
    stream: number,
  ): number;
  ncclAllGather(
    from: number,
    to: number,
    count: number,
    type: number,
    comm: bigint,
    stream: number,
  ): number;
  ncclSend(
    from: number,
    count: number,
    type: number,
    peer: number,
    comm: bigint,
    stream: number,
  ): number;
  ncclRecv(
    to: number,
    count: number,
    type: number,
    peer: number,
    comm: bigint,
    stream: number,
  ): number;
  ncclGroupStart(): number;
  ncclGroupEnd(): number;
}

const SIGNATURES: Readonly<Record<keyof Nccl, readonly string[]>> = {
  ncclCommInitRankConfig: ["p", "i", "id", "i", "p"],
  ncclGetUniqueId: ["p"],
  ncclCommAbort: ["u"],
  ncclAllReduce: ["u", "u", "u", "i", "i", "u", "u"],
  ncclReduceScatter: ["u", "u", "u", "i", "i", "u", "u"],
  ncclAllGather: ["u", "u", "u", "i", "u", "u"],
  ncclSend: ["u", "u", "i", "i", "u", "u"],
  ncclRecv: ["u", "u", "i", "i", "u", "u"],
  ncclGroupStart: [],
  ncclGroupEnd: [],
};

/** NCCL of this process, with what it says of communicators. */
export interface NcclLibrary {
  /** `2.27.3` */
  readonly version: string;
  readonly calls: Nccl;
  /** The state of a communicator: SUCCESS, IN_PROGRESS, or what has failed since. */
  stateOf(comm: bigint): number;
  /** What NCCL says of a status. */
  explain(status: number): string;
}

let found: NcclLibrary | undefined;

/** NCCL, where this host has one that serves; undefined where it has none, or one older than 2.14. */
export function findNccl(): NcclLibrary | undefined {
  found ??= bind(openNccl());
  return found;
}

function bind(library: LibraryHandle | undefined): NcclLibrary | undefined {
  if (library === undefined) return undefined;
  const get = func(library, "ncclGetVersion", "p");
  const version = intOf((out) => get(out));
  if (version < LEAST_VERSION) return undefined;
  const error = library.func("ncclGetErrorString", "str", ["int"]) as (status: number) => string;
  const explain = (status: number): string => `${error(status)} (${status})`;
  // By value.
  const uniqueId = koffi.struct({ internal: koffi.array("uint8_t", ID_BYTES, "Typed") });
  const bound = Object.entries(SIGNATURES).map(([name, kinds]) => {
    const call = library.func(
      name,
      "int",
      kinds.map((kind) => (kind === "id" ? uniqueId : (TYPES[kind] ?? kind))),
    ) as (...args: unknown[]) => number;
    return [
      name,
      (...args: unknown[]) => {
        const status = call(...args);
        if (status !== SUCCESS && status !== IN_PROGRESS)
          throw ncclError(name, args, explain(status));
        return status;
      },
    ];
  });
  const state = func(library, "ncclCommGetAsyncError", "up");
  return {
    version: `${Math.floor(version / 10_000)}.${Math.floor(version / 100) % 100}.${version % 100}`,
    calls: Object.fromEntries(bound) as unknown as Nccl,
    stateOf: (comm) => {
      const out = new Int32Array(1);
      const status = state(comm, out);
      return status === SUCCESS ? (out[0] ?? 0) : status;
    },
    explain,
  };
}

const TYPES: Readonly<Record<string, string>> = { i: "int", u: "uint64_t", p: "void *" };

function ncclError(call: string, args: unknown[], status: string): DeviceError {
  const shown = args.map((arg) => (isId(arg) ? "id" : showArgument(arg)));
  return new DeviceError(
    `${call}(${shown.join(", ")}) failed: ${status}; NCCL_DEBUG=WARN in the worker's environment makes NCCL say more`,
    { code: "UNAVAILABLE", call, status, fatal: false },
  );
}

function isId(arg: unknown): boolean {
  return typeof arg === "object" && arg !== null && "internal" in arg;
}

/** ncclConfig_t of a communicator whose calls return at once. */
export function configOf(): Uint8Array {
  const bytes = new Uint8Array(new ArrayBuffer(CONFIG_BYTES));
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(CONFIG_BYTES), true);
  view.setUint32(8, CONFIG_MAGIC, true);
  view.setUint32(12, CONFIG_VERSION, true);
  // blocking
  view.setInt32(16, 0, true);
  // cgaClusterSize, minCTAs, maxCTAs; netName stays NULL.
  for (const at of [20, 24, 28]) view.setInt32(at, UNDEFINED, true);
  return bytes;
}
