import type { RankView } from "./api.ts";

/** Steps of the colour scale of memory in use, by the share of the limit from which on each holds. */
export const MEMORY_SCALE: readonly { readonly from: number; readonly label: string }[] = [
  { from: 0, label: "under 25%" },
  { from: 0.25, label: "25 to 50%" },
  { from: 0.5, label: "50 to 75%" },
  { from: 0.75, label: "75 to 90%" },
  { from: 0.9, label: "90 to 97%" },
  { from: 0.97, label: "97% and more" },
];

/** Share of its limit that a rank has used at its peak; undefined while that is not known. */
export function usedShare({ peakBytes, limitBytes }: RankView): number | undefined {
  return peakBytes > 0 && limitBytes > 0 ? peakBytes / limitBytes : undefined;
}

/** Place on `MEMORY_SCALE`; undefined where the share is. */
export function memoryLevel(share: number | undefined): number | undefined {
  if (share === undefined) return undefined;
  return MEMORY_SCALE.findLastIndex(({ from }) => share >= from);
}
