/** Quantities as the page writes them. Pure. */

const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB", "PB"] as const;

/** `302.1 MB`, `2.42 GB`: three or four digits, decimal units as everywhere in rankmesh. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${BYTE_UNITS[unit]}`;
}

/** A loss or a norm: six digits. */
export function formatLoss(value: number | null): string {
  if (value === null) return "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e7 || size < 1e-4) return minus(value.toExponential(3));
  return minus(Number(value.toPrecision(6)).toLocaleString("en-US", { maximumFractionDigits: 6 }));
}

/** What an axis writes at its ticks: few characters. */
export function formatTick(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e9 || (size > 0 && size < 1e-3)) {
    return minus(value.toExponential(1).replace(".0e", "e").replace("e+", "e"));
  }
  if (size >= 1e6) return minus(`${trimmed(value / 1e6)}M`);
  if (size >= 1e3) return minus(`${trimmed(value / 1e3)}k`);
  return minus(trimmed(value));
}

/** `148 ms`, `2.31 s`, `3 min 5 s`. */
export function formatSeconds(seconds: number): string {
  if (seconds === 0) return "0";
  if (seconds < 0.000_999_5) return `${(seconds * 1e6).toPrecision(3)} \u00b5s`;
  if (seconds < 0.999_5) return `${Number((seconds * 1000).toPrecision(3))} ms`;
  if (seconds < 59.95) return `${Number(seconds.toPrecision(3))} s`;
  return formatDuration(seconds);
}

/** `0:12`, `5:03`, `1:02:03`, `3 d 4 h`. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const days = Math.floor(whole / 86_400);
  const hours = Math.floor((whole % 86_400) / 3600);
  if (days > 0) return `${days} d ${hours} h`;
  const minutes = Math.floor((whole % 3600) / 60);
  const rest = String(whole % 60).padStart(2, "0");
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** `53.9`, `1,204`: three digits, or all of a larger whole part. */
export function formatRate(perSecond: number): string {
  if (perSecond >= 999.5) return Math.round(perSecond).toLocaleString("en-US");
  return String(Number(perSecond.toPrecision(3)));
}

export function formatCount(count: number): string {
  return count.toLocaleString("en-US");
}

export function formatPercent(ratio: number): string {
  const percent = ratio * 100;
  if (percent > 0 && percent < 1) return "<1%";
  return `${percent < 99.5 ? Math.round(percent) : Math.floor(percent)}%`;
}

/** `12:03:20` in the reader's time zone; with the date where that is not today's. */
export function formatTime(iso: string, now: Date): string {
  const at = new Date(iso);
  const pad = (n: number): string => String(n).padStart(2, "0");
  const clock = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  if (at.toDateString() === now.toDateString()) return clock;
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${clock}`;
}

export function plural(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
}

function trimmed(value: number): string {
  return String(Number(value.toPrecision(4)));
}

function minus(text: string): string {
  return text.replaceAll("-", "\u2212");
}
