// buildah and podman on a storage of their own, which knows nothing of the host's images and leaves none there.
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { run, tryRun } from "./processes.mjs";

/** In hosts without systemd nobody would run the timers of health checks: they are run by hand. */
const ENV = { DISABLE_HC_SYSTEMD: "true" };
/** A container gets no more files and processes than its host may give. */
const LIMITS = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096"];

/** An engine whose files lie in `folder`. */
export class Engine {
  #folder;
  #storage;
  #network;

  constructor(folder) {
    this.#folder = folder;
    const path = (name) => join(folder, name);
    this.#storage = ["--root", path("storage"), "--runroot", path("run"), "--storage-driver"];
    this.#network = path("network");
  }

  /** Chooses how layers lie on the disk: as overlays where the kernel has them, else as copies; and makes a network. */
  async start() {
    const overlay = await tryRun(["buildah", ...this.#storage, "overlay", "images"]);
    this.#storage.push(overlay.code === 0 ? "overlay" : "vfs");
    // Loopback alone: ports of the compose file are free here, whatever the host runs.
    writeFileSync(this.#network, "");
    await run(["unshare", `--net=${this.#network}`, "true"]);
    await run([...this.#inNetwork(), "ip", "link", "set", "lo", "up"]);
  }

  /** The podman of this engine, on the network of the containers. */
  get podman() {
    const libpod = join(this.#folder, "libpod");
    return [
      ...[...this.#inNetwork(), "podman", ...this.#storage, "--tmpdir", libpod],
      ...["--cgroup-manager", "cgroupfs", "--events-backend", "none"],
    ];
  }

  #inNetwork() {
    return ["nsenter", `--net=${this.#network}`, "--"];
  }

  /** Builds a target of a Dockerfile, with this machine's ways to Debian's and npm's packages. */
  async build({ dockerfile, context, target, tag, args, log }) {
    await run(
      [
        ...["buildah", ...this.#storage, "bud", "--isolation", "chroot", "--network", "host"],
        // Not OCI's own format, which has no health checks.
        ...["--pull-never", "--format", "docker", "--layers", "--target", target, "--tag", tag],
        ...Object.entries(args).flatMap(([key, value]) => ["--build-arg", `${key}=${value}`]),
        ...(await this.#packageSources()).flatMap((mount) => ["--volume", `${mount}:ro`]),
        ...["--file", dockerfile, context],
      ],
      { timeoutMs: 20 * 60_000, log },
    );
  }

  /** Mounts for a build: settings of apt and npm, and certificates. They are no part of the image. */
  async #packageSources() {
    const apt = await run(["apt-config", "dump"]);
    const file = join(this.#folder, "apt.conf");
    writeFileSync(
      file,
      apt
        .split("\n")
        .filter((line) => line.startsWith("Acquire"))
        .join("\n"),
    );
    const globalNpmrc = (await run(["npm", "config", "get", "globalconfig"])).trim();
    return [
      [file, "/etc/apt/apt.conf.d/00host"],
      ["/etc/ssl/certs", "/etc/ssl/certs"],
      [globalNpmrc, "/usr/local/etc/npmrc"],
      [join(homedir(), ".npmrc"), "/root/.npmrc"],
    ]
      .filter(([source]) => existsSync(source))
      .map((pair) => pair.join(":"));
  }

  /** Runs a container to its end. @returns code, stdout and stderr */
  runOnce(image, { flags = [], command = [], timeoutMs = 60_000 } = {}) {
    return tryRun(
      [...this.podman, "run", "--rm", ...this.#runFlags(), ...flags, image, ...command],
      { timeoutMs, env: ENV },
    );
  }

  /** Starts a container that stays. */
  async runService(image, flags, command) {
    await run(
      [...this.podman, "run", "--detach", ...this.#runFlags(), ...flags, image, ...command],
      { env: ENV },
    );
  }

  #runFlags() {
    return ["--pull=never", "--network=host", "--cgroups=disabled", ...LIMITS];
  }

  /** Runs a program in a container. @returns code, stdout and stderr */
  exec(name, command, timeoutMs = 30_000) {
    return tryRun([...this.podman, "exec", name, ...command], { env: ENV, timeoutMs });
  }

  /** Runs the container's own health check once. */
  async isHealthy(name) {
    return (await tryRun([...this.podman, "healthcheck", "run", name], { env: ENV })).code === 0;
  }

  /** @returns the value of a template of `podman inspect` */
  async inspect(kind, name, template) {
    const command = kind === "image" ? ["image", "inspect"] : ["container", "inspect"];
    return (await run([...this.podman, ...command, "--format", template, name])).trim();
  }

  async logs(name) {
    const { stdout, stderr } = await tryRun([...this.podman, "logs", "--tail", "30", name]);
    return `${stdout}${stderr}`;
  }

  /** SIGTERM, and SIGKILL after the container's own grace. */
  async stop(name) {
    await run([...this.podman, "stop", name], { timeoutMs: 120_000, env: ENV });
  }

  async removeAll() {
    await tryRun([...this.podman, "rm", "--force", "--all", "--time", "0"], { env: ENV });
  }

  /** A folder of this machine that a container may write to. */
  folder(name) {
    const path = join(this.#folder, name);
    mkdirSync(path, { recursive: true, mode: 0o777 });
    return path;
  }
}
