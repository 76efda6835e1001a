import { InternalError } from "../errors.ts";

/** One named axis of the mesh; ranks along the last axis are neighbours in rank order. */
export interface MeshAxis {
  readonly name: string;
  readonly size: number;
}

/** An n-d grid of ranks, row-major: the last axis varies fastest. */
export interface Mesh {
  readonly axes: readonly MeshAxis[];
}

export function worldSize(mesh: Mesh): number {
  return mesh.axes.reduce((product, axis) => product * axis.size, 1);
}

/** Coordinate of `rank` on every axis. */
export function coordinates(mesh: Mesh, rank: number): number[] {
  const coords = new Array<number>(mesh.axes.length).fill(0);
  let rest = rank;
  for (let a = mesh.axes.length - 1; a >= 0; a--) {
    const size = axisSize(mesh, a);
    coords[a] = rest % size;
    rest = Math.floor(rest / size);
  }
  if (rest !== 0 || rank < 0)
    throw new InternalError(`rank ${rank} is outside a mesh of ${worldSize(mesh)}`);
  return coords;
}

export function axisSize(mesh: Mesh, axis: number): number {
  const found = mesh.axes[axis];
  if (found === undefined) throw new InternalError(`mesh has no axis ${axis}`);
  return found.size;
}

/**
 * The ranks that differ from `rank` only on `axes`, ascending. A collective over `axes` runs in this group;
 * the position in the list is the rank's index in the group.
 */
export function groupOf(mesh: Mesh, axes: readonly number[], rank: number): number[] {
  const own = coordinates(mesh, rank);
  const group: number[] = [];
  for (let other = 0; other < worldSize(mesh); other++) {
    const coords = coordinates(mesh, other);
    if (coords.every((c, a) => axes.includes(a) || c === own[a])) group.push(other);
  }
  return group;
}
