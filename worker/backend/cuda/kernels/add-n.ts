import type { Address, HostTable, Kernels } from "../../kernels.ts";
import type { Launch, Launcher } from "../launcher.ts";
import { blocksOf, STREAM_THREADS } from "./blocks.ts";

/** Of one thread, and operands of the two kinds of table: as in add_n.cu. */
const ELEMENTS = 8;
const FEW = 16;
const MANY = 480;

type Operands = HostTable<BigUint64Array>;

/** `operand_table` of add_n.cu, as a launch takes it. */
interface Table {
  readonly many: boolean;
  readonly bytes: BigUint64Array;
  /** All operands lie at multiples of 16 bytes. */
  readonly aligned: boolean;
}

export function addKernels(
  l: Launcher,
  suffix: "f32" | "bf16",
): Pick<Kernels, "addN" | "addNDouble"> {
  const launches = (type: string, kinds: string): readonly [few: Launch, many: Launch] => [
    l.kernel("add_n", `rm_add_few_${type}`, kinds),
    l.kernel("add_n", `rm_add_many_${type}`, kinds),
  ];
  const floats = launches(suffix, "tani");
  const doubles = launches("f64", "tan");
  const tables = new WeakMap<Operands, Table>();
  const tableFor = (operands: Operands): Table => {
    const table = tables.get(operands) ?? tableOf([...operands.values]);
    tables.set(operands, table);
    return table;
  };

  const addFloats = (table: Table, y: Address, n: number): void => {
    const vectors = table.aligned && y % 16 === 0 ? 1 : 0;
    const blocks = blocksOf(n, ELEMENTS);
    floats[table.many ? 1 : 0](blocks, STREAM_THREADS, 0, table.bytes, y, n, vectors);
  };
  const addDoubles = (table: Table, y: Address, n: number): void =>
    doubles[table.many ? 1 : 0](blocksOf(n, 1), STREAM_THREADS, 0, table.bytes, y, n);

  const summing =
    (add: typeof addFloats, elementBytes: number): Kernels["addN"] =>
    (operands, y, n) => {
      if (operands.values.length <= MANY) add(tableFor(operands), y, n);
      else addInGroups(operands.values, y, n, elementBytes, l.scratch, add);
    };

  return {
    addN: summing(addFloats, suffix === "f32" ? 4 : 2),
    addNDouble: summing(addDoubles, 8),
  };
}

function tableOf(operands: readonly bigint[]): Table {
  const many = operands.length > FEW;
  const most = many ? MANY : FEW;
  const bytes = new BigUint64Array(most + 1);
  bytes.set(operands);
  bytes[most] = BigInt(operands.length);
  return { many, bytes, aligned: operands.every((address) => address % 16n === 0n) };
}

/**
 * More operands than a launch takes: a sum of some goes on with the next. It is kept in scratch, stretch by stretch, since y may be
 * an operand that is still to come.
 */
function addInGroups(
  operands: BigUint64Array,
  y: Address,
  n: number,
  elementBytes: number,
  scratch: { readonly address: Address; readonly bytes: number },
  add: (table: Table, y: Address, n: number) => void,
): void {
  const most = Math.floor(scratch.bytes / elementBytes);
  for (let first = 0; first < n; first += most) {
    const [length, offset] = [Math.min(most, n - first), first * elementBytes];
    let done = 0;
    while (done < operands.length) {
      const carried = done === 0 ? [] : [BigInt(scratch.address)];
      const next = operands.subarray(done, done + MANY - carried.length);
      done += next.length;
      const table = tableOf([...carried, ...[...next].map((x) => x + BigInt(offset))]);
      add(table, done === operands.length ? y + offset : scratch.address, length);
    }
  }
}
