#!/usr/bin/env node
// Builds the images of deploy/Dockerfile and runs those of docker-compose.yml's profile `cpu` by its own settings, without a
// Docker engine and without an image registry: buildah and podman on base images made here (scripts/images/bases.mjs).
// Needs root on Debian or Ubuntu. All lies in one temporary folder and runs in namespaces of its own: what is left when this
// ends, or is killed, is nothing. The last line is `N passed, N failed`.
//   RANKMESH_ROOTFS=DIR   takes the minimal Debian that is there, or leaves it there for the next time
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const PROGRAMS = ["podman", "buildah", "crun", "debootstrap", "unshare", "nsenter", "ip", "tar"];
const PACKAGES = "podman buildah crun catatonit debootstrap iproute2 util-linux tar";
/** Of everything: an image from scratch takes some minutes. */
const LIMIT_MS = 40 * 60_000;

function refuse(why) {
  console.error(`test-images: ${why}`);
  process.exit(2);
}

if (process.platform !== "linux") refuse("runs on Linux alone");
if (process.getuid() !== 0)
  refuse("needs root, for debootstrap and for containers; run it with sudo");
process.env.PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const missing = PROGRAMS.filter(
  (program) => spawnSync("sh", ["-c", `command -v ${program}`]).status !== 0,
);
if (missing.length > 0)
  refuse(
    `not installed: ${missing.join(", ")}; apt-get install --no-install-recommends ${PACKAGES}`,
  );

const folder = mkdtempSync(join(tmpdir(), "rankmesh-images-"));
// What engines keep outside of the storage they are given. The host's own is hidden from them, as they from it.
const KEPT = ["/run/containers", "/run/crun", "/run/libpod", "/var/lib/containers"];
const made = KEPT.filter((path) => mkdirSync(path, { recursive: true }) !== undefined);
// A mount and a process namespace: with the first process in it all containers end, and all mounts go. Engines want
// cgroups of version 2; where the host has the older view, they get the newer one. The shell takes in orphans.
const script = `
  if ! [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    umount -l /sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 none /sys/fs/cgroup
  fi
  for path in ${KEPT.join(" ")} /dev/shm; do mount -t tmpfs tmpfs "$path"; done
  "$@"
  exit $?`;
const inside = fileURLToPath(new URL("images/inside.mjs", import.meta.url));
const child = spawn(
  "unshare",
  [
    ...["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"],
    ...["bash", "-euc", script, "inside", process.execPath, inside, folder],
  ],
  // TMPDIR: buildah's own is /var/tmp.
  { stdio: ["ignore", "inherit", "inherit"], env: { ...process.env, TMPDIR: folder } },
);
let killed;
const kill = (why) => {
  killed ??= why;
  child.kill("SIGKILL");
};
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => kill(signal));
const timer = setTimeout(() => kill(`${LIMIT_MS / 60_000} minutes have passed`), LIMIT_MS);
const code = await new Promise((resolve) => {
  child.once("error", (error) => {
    console.error(`test-images: unshare could not be started: ${error.message}`);
    resolve(1);
  });
  child.once("close", resolve);
});
clearTimeout(timer);
rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
for (const path of made) {
  try {
    rmdirSync(path);
  } catch {
    // Not empty: an engine of the host has come to use it since.
  }
}
if (killed !== undefined) console.error(`test-images: ended early: ${killed}`);
process.exitCode = killed === undefined ? (code ?? 1) : 1;
