/** Numbers as tables show them. */

export function milliseconds(seconds: number): string {
  const ms = seconds * 1e3;
  return ms.toFixed(ms >= 100 ? 0 : ms >= 1 ? 2 : 4);
}

/** In units of 1e9 bytes. */
export function gigabytes(bytes: number): string {
  return (bytes / 1e9).toFixed(2);
}

/** In units of 1e6 bytes. */
export function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(bytes >= 1e8 ? 1 : 2);
}

export function ratio(value: number): string {
  return value.toFixed(value >= 10 ? 1 : 3);
}

export function percent(fraction: number): string {
  return `${(fraction * 100).toFixed(2)}%`;
}
