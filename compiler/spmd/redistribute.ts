import { InternalError } from "../../shared/errors.ts";
import { isShard, type Layout, type Placement, shardDim } from "../../shared/mesh/placement.ts";

/** One move on one axis. */
export interface Move {
  readonly kind:
    | "slice"
    | "mask"
    | "reduceScatter"
    | "allReduce"
    | "merge"
    | "allToAll"
    | "allGather";
  readonly axis: number;
  readonly from: Placement;
  readonly to: Placement;
}

/**
 * Moves that turn one layout into another, smallest payloads first: slices, then reduce-scatters, all-reduces, all-to-alls, gathers.
 *
 * Where two axes split one dim, the later axis is the outer split: it can be split or gathered only while no
 * earlier axis splits that dim, so an earlier split in the way is gathered first and cut again afterwards.
 */
export function movesBetween(from: Layout, to: Layout): Move[] {
  const current = [...from];
  const moves: Move[] = [];
  const at = (axis: number): Placement => current[axis] ?? "R";
  const wanted = (axis: number): Placement => to[axis] ?? "R";
  const apply = (move: Move): void => {
    moves.push(move);
    current[move.axis] = move.to;
  };
  const innerSplit = (axis: number, dim: number): number =>
    current.findIndex((p, inner) => inner < axis && shardDim(p) === dim);

  const candidate = (axis: number): Move | undefined => {
    const [now, target] = [at(axis), wanted(axis)];
    if (now === target) return undefined;
    if (now === "R" && target === "P") return { kind: "mask", axis, from: now, to: target };
    if (now === "L") return { kind: "merge", axis, from: now, to: "R" };
    if (now === "R") return { kind: "slice", axis, from: now, to: target };
    if (now === "P")
      return { kind: target === "R" ? "allReduce" : "reduceScatter", axis, from: now, to: target };
    return directly(axis, now, target)
      ? { kind: "allToAll", axis, from: now, to: target }
      : { kind: "allGather", axis, from: now, to: "R" };
  };
  /** A split may change its dim in one exchange where no earlier axis splits either dim, and later ones are done with both. */
  const directly = (axis: number, now: Placement, target: Placement): boolean =>
    isShard(target) &&
    current.every((other, a) => {
      if (a === axis || (a > axis && other === wanted(a))) return true;
      return [other, wanted(a)].every((p) => p !== now && p !== target);
    });
  const order: readonly Move["kind"][] = [
    "slice",
    "mask",
    "reduceScatter",
    "allReduce",
    "merge",
    "allToAll",
    "allGather",
  ];

  for (let guard = 0; guard <= 4 * from.length; guard++) {
    const open = current.map((_, axis) => candidate(axis)).filter((m) => m !== undefined);
    if (open.length === 0) return moves;
    const blockedBy = (move: Move): number => {
      const dim = shardDim(isShard(move.to) ? move.to : move.from);
      return dim < 0 ? -1 : innerSplit(move.axis, dim);
    };
    // An outer cut of a dim comes before the inner one.
    const legal = open.filter((m) => blockedBy(m) < 0 && !cutsBeforeOuter(m));
    const next = order.flatMap((kind) => legal.filter((m) => m.kind === kind))[0];
    if (next !== undefined) {
      apply(next);
      continue;
    }
    const blocked = open.find((m) => blockedBy(m) >= 0);
    if (blocked === undefined) break;
    const axis = blockedBy(blocked);
    apply({ kind: "allGather", axis, from: at(axis), to: "R" });
  }
  throw new InternalError(`no way from (${from.join(", ")}) to (${to.join(", ")})`);

  /** Whether cutting along this dim now would get in the way of a later axis that still has to cut it. */
  function cutsBeforeOuter(move: Move): boolean {
    const dim = shardDim(move.to);
    if (dim < 0) return false;
    return current.some(
      (now, outer) =>
        outer > move.axis &&
        now !== wanted(outer) &&
        [now, wanted(outer)].some((p) => shardDim(p) === dim),
    );
  }
}

/** Price of the moves in bytes received or sent, for picking the best copy to start from: `bytesOf(layout)` is a rank's part. */
export function bytesMoved(
  from: Layout,
  moves: readonly Move[],
  size: (axis: number) => number,
  globalBytes: number,
): number {
  const current = [...from];
  let total = 0;
  for (const move of moves) {
    const local =
      globalBytes / current.reduce((parts, p, axis) => parts * (isShard(p) ? size(axis) : 1), 1);
    const n = size(move.axis);
    if (move.kind === "allGather" || move.kind === "merge") total += local * (n - 1);
    else if (move.kind === "allReduce") total += (2 * local * (n - 1)) / n;
    else if (move.kind === "reduceScatter" || move.kind === "allToAll")
      total += (local * (n - 1)) / n;
    else total += 1;
    current[move.axis] = move.to;
  }
  return total;
}
