/** Bytes for people, in decimal units: 1 GB is 1e9 bytes, as the reference prints memory. */

const BYTE_UNITS = [
  { unit: "TB", bytes: 1e12 },
  { unit: "GB", bytes: 1e9 },
  { unit: "MB", bytes: 1e6 },
  { unit: "kB", bytes: 1e3 },
] as const;

/** `2.42 GB`, `316.5 MB`, `12 B`. */
export function formatBytes(bytes: number): string {
  for (const { unit, bytes: size } of BYTE_UNITS) {
    if (bytes >= size) {
      const value = bytes / size;
      return `${value >= 100 ? value.toFixed(1) : value.toFixed(2)} ${unit}`;
    }
  }
  return `${bytes} B`;
}
