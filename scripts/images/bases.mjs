// Stand-ins for the images that deploy/Dockerfile starts from, made of Debian's packages and this machine's Node, so that
// no image registry is needed. They carry the names that the Dockerfile uses.
import { cpSync, existsSync, mkdirSync, readFileSync, realpathSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { run } from "./processes.mjs";

const SUITE = "bookworm";
const MIRROR = process.env.DEBIAN_MIRROR ?? "http://deb.debian.org/debian";

/** Names of the base images by the argument that holds them: NODE_IMAGE, DEBIAN_IMAGE, CUDA_IMAGE. */
export function baseNames(dockerfile) {
  const names = {};
  for (const [, key, name] of readFileSync(dockerfile, "utf8").matchAll(
    /^ARG (\w+_IMAGE)=(\S+)$/gm,
  ))
    names[key] = name;
  return names;
}

/** A minimal Debian in `folder`/rootfs. */
export async function bootstrap(folder, log) {
  const root = join(folder, "rootfs");
  await run(["debootstrap", "--variant=minbase", SUITE, root, MIRROR], { timeoutMs: 600_000, log });
  return root;
}

/** Puts this machine's Node and npm where the official image has them, in a copy of `root`. */
export async function withNode(root, folder) {
  const target = join(folder, "node-rootfs");
  await run(["cp", "-a", "--reflink=auto", root, target], { timeoutMs: 120_000 });
  const local = join(target, "usr/local");
  const npm = npmFolder();
  cpSync(realpathSync(process.execPath), join(local, "bin/node"));
  mkdirSync(join(local, "lib/node_modules"), { recursive: true });
  cpSync(npm, join(local, "lib/node_modules/npm"), { recursive: true, verbatimSymlinks: true });
  for (const name of ["npm", "npx"])
    symlinkSync(`../lib/node_modules/npm/bin/${name}-cli.js`, join(local, `bin/${name}`));
  return target;
}

/** Where the npm beside this Node is installed. */
function npmFolder() {
  const npm = join(dirname(dirname(realpathSync(process.execPath))), "lib/node_modules/npm");
  if (existsSync(join(npm, "bin/npm-cli.js"))) return npm;
  throw new Error(`no npm at ${npm}; install Node with its npm (https://nodejs.org)`);
}

/** Makes an image of a folder. */
export async function importImage(podman, root, name) {
  const script = 'root=$1 name=$2; shift 2; tar -C "$root" -c . | "$@" import - "$name"';
  await run(["bash", "-euo", "pipefail", "-c", script, "import", root, name, ...podman], {
    timeoutMs: 300_000,
  });
}
