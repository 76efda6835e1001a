import { once } from "node:events";
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { expect } from "chai";
import { anyPath, insideRoot, noPaths, resolveJobPaths } from "../../../coordinator/data/paths.ts";
import { InvalidArgumentError } from "../../../shared/errors.ts";
import { requireJobSpec } from "../../../shared/job/resolve.ts";
import { caught } from "../../support/caught.ts";
import { withFolder } from "../../support/data.ts";

/** A root with a file, a folder, links and a socket in it, and a secret beside it. */
async function withRoot(body: (root: string, outside: string) => Promise<void>): Promise<void> {
  await withFolder(async (folder) => {
    const root = join(folder, "root");
    const outside = join(folder, "outside");
    await mkdir(join(root, "sub"), { recursive: true });
    await mkdir(outside);
    await mkdir(`${root}-evil`);
    await writeFile(join(root, "data"), "d");
    await writeFile(join(outside, "secret"), "s");
    await writeFile(join(`${root}-evil`, "file"), "s");
    await symlink(join(outside, "secret"), join(root, "link-out"));
    await symlink(outside, join(root, "folder-out"));
    await symlink("data", join(root, "link-in"));
    await symlink(join(root, "data"), join(outside, "link-to-data"));
    await symlink("loop", join(root, "loop"));
    const server = createServer().listen(join(root, "socket"));
    await once(server, "listening");
    try {
      await body(root, outside);
    } finally {
      server.close();
    }
  });
}

const OUTSIDE = "lies outside the data root; give a path inside it";
const DOTS = 'must not have ".." in it; give a path inside the data root';

describe("paths under a data root", () => {
  it("are relative to it, or absolute with a real path inside", () =>
    withRoot(async (root, outside) => {
      const policy = insideRoot(root);
      for (const given of [
        "data",
        "./data",
        "link-in",
        join(root, "data"),
        join(outside, "link-to-data"),
      ]) {
        const path = await policy.input(given, "f");
        expect(path).to.deep.equal({ field: "f", given, real: join(root, "data") });
      }
      expect((await policy.output("sub/new", "f")).real).to.equal(join(root, "sub/new"));
      expect((await policy.output("data", "f")).real).to.equal(join(root, "data"));
    }));

  const inputs: readonly [string, string][] = [
    ["../outside/secret", DOTS],
    ["sub/../../outside/secret", DOTS],
    ["sub/../data", DOTS],
    ["/etc/passwd", OUTSIDE],
    ["/no/such/file", OUTSIDE],
    ["OUTSIDE/secret", OUTSIDE],
    ["OUTSIDE/none", OUTSIDE],
    ["OUTSIDE", OUTSIDE],
    ["EVIL/file", OUTSIDE],
    ["link-out", OUTSIDE],
    ["folder-out", OUTSIDE],
    ["folder-out/secret", OUTSIDE],
    ["none", "no such file"],
    ["data/below", "a part of it is a file, not a folder"],
    ["sub", "is a folder; name a file"],
    ["socket", "is no regular file"],
    ["loop", "has links that lead in a circle"],
    ["n".repeat(300), "is longer than the file system allows"],
    ["da\0ta", "must have no NUL character"],
    ["", "is empty"],
  ];
  for (const [given, reason] of inputs) {
    it(`refuse to read ${JSON.stringify(given.slice(0, 30))}: ${reason}`, () =>
      withRoot(async (root, outside) => {
        const path = given.replace("OUTSIDE", outside).replace("EVIL", `${root}-evil`);
        const error = await caught(insideRoot(root).input(path, "data.safetensors.path"));
        expect(error).to.be.instanceOf(InvalidArgumentError);
        expect(error.message).to.match(/^data\.safetensors\.path: "/);
        expect(error.message.slice(-reason.length)).to.equal(reason);
      }));
  }

  const outputs: readonly [string, string][] = [
    ["../new", DOTS],
    ["OUTSIDE/new", OUTSIDE],
    ["folder-out/new", OUTSIDE],
    ["/no/such/folder/new", OUTSIDE],
    ["none/new", "its folder does not exist"],
    ["data/new", "its folder is a file"],
    ["sub", "is a folder; name a file"],
    ["link-out", "is a link; name the file itself"],
    ["socket", "is no regular file"],
    [".", "is a folder; name a file"],
  ];
  for (const [given, reason] of outputs) {
    it(`refuse to write ${JSON.stringify(given)}: ${reason}`, () =>
      withRoot(async (root, outside) => {
        const path = given.replace("OUTSIDE", outside);
        const error = await caught(insideRoot(root).output(path, "output.safetensors"));
        expect(error.message.slice(-reason.length)).to.equal(reason);
      }));
  }

  it("say that the root itself is missing", () =>
    withFolder(async (folder) => {
      const error = await caught(insideRoot(join(folder, "none")).input("data", "f"));
      expect(error.message).to.match(/data root does not exist/);
    }));
});

describe("paths of a user's own process", () => {
  it("are any, relative to the job file", () =>
    withRoot(async (root, outside) => {
      const policy = anyPath(join(root, "sub"));
      expect((await policy.input("../data", "f")).real).to.equal(join(root, "data"));
      expect((await policy.input("../link-out", "f")).real).to.equal(join(outside, "secret"));
      expect((await policy.output(join(outside, "new"), "f")).real).to.equal(join(outside, "new"));
      expect((await caught(policy.input("none", "f"))).message).to.equal('f: "none": no such file');
    }));
});

describe("the paths of a job", () => {
  const job = requireJobSpec({
    model: { feedForward: {} },
    init: { safetensors: "init" },
    data: { safetensors: { path: "data" } },
    output: { safetensors: "none/final" },
  });

  it("are resolved with all their faults", () =>
    withRoot(async (root) => {
      const { paths, faults } = await resolveJobPaths(job, insideRoot(root));
      expect(paths.data.file?.real).to.equal(join(root, "data"));
      expect(faults).to.deep.equal([
        { path: "init.safetensors", message: '"init": no such file' },
        { path: "output.safetensors", message: '"none/final": its folder does not exist' },
      ]);
    }));

  it("are all refused without a data root, and none is needed for a job without files", async () => {
    const { faults } = await resolveJobPaths(job, noPaths());
    expect(faults.map((fault) => fault.path)).to.deep.equal([
      "data.safetensors.path",
      "init.safetensors",
      "output.safetensors",
    ]);
    expect(faults[0]?.message).to.match(/has no data root.*--data-root DIR/);
    const bare = requireJobSpec({ model: { feedForward: {} }, data: { random: {} } });
    expect((await resolveJobPaths(bare, noPaths())).faults).to.deep.equal([]);
  });

  it("may not write over the data that they read", () =>
    withRoot(async (root) => {
      const over = { ...job, init: { seed: 0 }, output: { safetensors: "data" } };
      const { faults } = await resolveJobPaths(
        { ...over, data: { ...job.data, safetensors: { path: "link-in" } } },
        insideRoot(root),
      );
      expect(faults).to.deep.equal([
        {
          path: "output.safetensors",
          message: '"data" is the file that the data comes from; write to another one',
        },
      ]);
    }));
});
