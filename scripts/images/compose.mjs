// What docker-compose.yml says of a service, as arguments of `podman run`.
import { readFileSync } from "node:fs";
import { parse } from "yaml";

/**
 * Keys of a service that mean nothing here, or are read elsewhere: the image is built beforehand, nothing is started or
 * restarted by an engine, and the health check is the image's (podman 4.3 takes no other as a list of words).
 */
const IGNORED = new Set([
  "healthcheck",
  "build",
  "image",
  "pull_policy",
  "depends_on",
  "logging",
  "ports",
  "profiles",
  "restart",
  "stop_grace_period",
  "environment",
  "command",
]);

/** `${NAME:-default}` and `${NAME:?why}` with nothing set, and `$$`. */
function interpolated(text) {
  return text.replace(/\$\$|\$\{(\w+)(?::-([^}]*)|:\?([^}]*))?\}/g, (whole, name, otherwise) => {
    if (whole === "$$") return "$";
    if (otherwise === undefined) throw new Error(`${name} has no default in ${whole}`);
    return otherwise;
  });
}

/** The services of a compose file with all defaults, by name. */
export function readServices(path) {
  const strings = (_key, value) => (typeof value === "string" ? interpolated(value) : value);
  return parse(readFileSync(path, "utf8"), strings, { merge: true }).services;
}

/** `60s`, `2m`, `1m30s` in seconds. */
export function seconds(text) {
  const match = /^(?:(\d+)m)?(?:(\d+)s)?$/.exec(text);
  if (match === null || text === "") throw new Error(`"${text}" is no duration such as 60s`);
  return Number(match[1] ?? 0) * 60 + Number(match[2] ?? 0);
}

/** Each key of a service that says how its container runs, and the flags for it. */
const FLAGS = {
  hostname: (name) => ["--hostname", name],
  user: (user) => ["--user", user],
  init: (on) => (on ? ["--init"] : []),
  read_only: (on) => (on ? ["--read-only"] : []),
  tmpfs: (list) => list.flatMap((entry) => ["--tmpfs", entry]),
  cap_drop: (list) => list.flatMap((name) => ["--cap-drop", name]),
  security_opt: (list) =>
    list.flatMap((option) => ["--security-opt", option.replace(/:true$/, "")]),
  volumes: (list) => list.flatMap((entry) => ["--volume", entry]),
};

/**
 * Flags of `podman run` for a service, without image and command.
 * @throws Error for a key that nothing here knows, so that none is passed over in silence
 */
export function flagsOf(name, service) {
  const flags = ["--name", name, "--stop-timeout", String(seconds(service.stop_grace_period))];
  for (const [key, value] of Object.entries(service)) {
    if (IGNORED.has(key)) continue;
    const toFlags = FLAGS[key];
    if (toFlags === undefined) throw new Error(`service ${name}: nothing here knows "${key}"`);
    flags.push(...toFlags(value));
  }
  for (const [key, value] of Object.entries(service.environment ?? {}))
    flags.push("--env", `${key}=${value}`);
  return flags;
}
