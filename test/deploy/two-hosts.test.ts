/**
 * docs/deploy.md alone, played on two hosts with a link between them: the blocks marked `host=a` and `host=b` in their order,
 * as they are written, down to the addresses.
 */
import { mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { poll } from "../support/cli.ts";
import { copyCheckout, removeCheckout } from "../support/document-copy.ts";
import { missingProgram } from "../support/document-programs.ts";
import { DocumentSession } from "../support/document-session.ts";
import { type Block, placeOf, readBlocks } from "../support/documents.ts";
import { Host, hostFault } from "../support/host.ts";

const DOCUMENT = "docs/deploy.md";
const ADDRESS = { a: "192.0.2.11", b: "192.0.2.12" };
/** Longest that a rank's silence may go unnoticed, with what a loaded machine adds. */
const FAILURE_MS = 60_000;

type HostName = keyof typeof ADDRESS;
const NAMES: readonly HostName[] = ["a", "b"];

const fault = hostFault();
const describeHosts = fault === undefined ? describe : describe.skip;

describeHosts(`two hosts by ${DOCUMENT}${fault === undefined ? "" : ` (${fault})`}`, function () {
  this.timeout(240_000);
  let folder = "";
  const hosts = new Map<HostName, Host>();
  const sessions = new Map<HostName, DocumentSession>();

  const host = (name: HostName) => required(hosts.get(name));
  const checkout = (name: HostName) => join(folder, name, "rankmesh");

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "rankmesh-hosts-"));
    for (const name of NAMES) {
      await copyCheckout(checkout(name));
      hosts.set(name, await Host.start(`host-${name}`));
      sessions.set(name, new DocumentSession(host(name), checkout(name)));
    }
    Host.link(host("a"), ADDRESS.a, host("b"), ADDRESS.b);
  });

  after(async () => {
    for (const each of hosts.values()) await each.stop();
    await removeCheckout(folder);
  });

  for (const block of readBlocks(DOCUMENT)) {
    for (const name of hostsOf(block)) {
      const title = `host ${name}, ${placeOf(block)}: ${titleOf(block)}`;
      const missing = missingProgram(block.mark?.options.get("needs")?.split(",") ?? []);
      if (missing !== undefined) {
        it.skip(`${title} (${missing})`);
        continue;
      }
      it(title, async () => {
        await required(sessions.get(name)).play(block);
      });
    }
  }

  it("trained one rank on each host, with the losses of a run on one host", async () => {
    const result = await readResult(join(checkout("a"), "result.json"));
    expect(result.state).to.equal("SUCCEEDED");
    expect(result.ranks.map(({ worker }) => worker).sort()).to.deep.equal(["host-a", "host-b"]);
    expect(result.loss).to.have.length(result.steps).and.to.not.include(null);
    const alone = await host("a").run(
      "npx rankmesh run examples/two-hosts.yaml --backend cpu --json alone.json",
      { cwd: checkout("a"), timeoutMs: 120_000 },
    );
    expect(alone.code, alone.stderr).to.equal(0);
    const oneHost = await readResult(join(checkout("a"), "alone.json"));
    expect(result.loss).to.deep.equal(oneHost.loss);
  });

  it("listens on the ports of the table, and only on the addresses that were given", async () => {
    const prometheus = missingProgram(["prometheus"]) === undefined ? ["127.0.0.1:9090"] : [];
    expect(await listeners(host("a"))).to.deep.equal([
      ...prometheus,
      "192.0.2.11:50051",
      "192.0.2.11:50052",
      "192.0.2.11:8080",
      "192.0.2.11:8081",
    ]);
    expect(await listeners(host("b"))).to.deep.equal(["192.0.2.12:50052", "192.0.2.12:8081"]);
  });

  it("is scraped across the link", async function () {
    if (missingProgram(["prometheus"]) !== undefined) return this.skip();
    let said = "";
    const query = "promtool query instant http://127.0.0.1:9090 'up{job=\"rankmesh-worker\"} == 1'";
    await poll(
      async () => {
        said = (await host("a").run(`${query} || true`, { cwd: "/" })).stdout;
        return /192\.0\.2\.11:8081/.test(said) && /192\.0\.2\.12:8081/.test(said)
          ? true
          : undefined;
      },
      "both workers in Prometheus",
      60_000,
      () => said,
    );
  });

  it("fails a job in bounded time when the link is cut, and names the rank and the worker that are gone", async () => {
    const spec = (await readFile(join(checkout("a"), "examples/two-hosts.yaml"), "utf8"))
      .replace(/^steps: .*$/m, "steps: 1000000")
      .replace(/^output: .*$/m, "");
    const submit = host("a").start(
      `cat > endless.yaml <<'END'\n${spec}END\nnpx rankmesh job submit endless.yaml --address ${ADDRESS.a}:50051 --json endless.json`,
      { cwd: checkout("a") },
    );
    await submit.waitFor(/step [1-9]\d*\/1000000/, 60_000);
    const cutAt = performance.now();
    host("b").cutLink();
    const result = await submit.end(FAILURE_MS);
    const elapsedMs = performance.now() - cutAt;
    expect(result.code, result.stderr).to.equal(1);
    const job = await readResult(join(checkout("a"), "endless.json"));
    expect(job.state).to.equal("FAILED");
    const guilty = job.ranks.find(({ worker }) => worker === "host-b");
    expect(job.error?.rank, JSON.stringify(job.error)).to.equal(guilty?.rank);
    expect(job.error?.message, `${elapsedMs} ms`).to.contain("host-b");
  });
});

/** The hosts that a block is for; none when it is for no host. */
function hostsOf(block: Block): HostName[] {
  const names = block.mark?.options.get("host")?.split(",") ?? [];
  return NAMES.filter((name) => names.includes(name));
}

function titleOf({ mark, text }: Block): string {
  return mark?.kind === "output" ? "shows what was written" : (text.trim().split("\n")[0] ?? "");
}

/** `address:port` of what processes of a host listen on, in order. */
async function listeners(host: Host): Promise<string[]> {
  const { stdout } = await host.run("cat /proc/net/tcp /proc/net/tcp6", { cwd: "/" });
  const LISTEN = "0A";
  const found = [...stdout.matchAll(/^ *\d+: ([0-9A-F]+):([0-9A-F]{4}) \S+ (\S\S) /gm)];
  return found
    .filter(([, , , state]) => state === LISTEN)
    .map(([, address = "", port = ""]) => `${dotted(address)}:${Number.parseInt(port, 16)}`)
    .sort();
}

/** An IPv4 address from the kernel's hexadecimal form of it; another one as it is. */
function dotted(hex: string): string {
  if (hex.length !== 8) return hex;
  return Buffer.from(hex, "hex").reverse().join(".");
}

interface Result {
  readonly state: string;
  readonly steps: number;
  readonly loss: readonly (number | null)[];
  readonly error?: { readonly rank?: number; readonly message: string };
  readonly ranks: readonly { readonly rank: number; readonly worker: string }[];
}

async function readResult(path: string): Promise<Result> {
  return JSON.parse(await readFile(path, "utf8")) as Result;
}

function required<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("the host did not start");
  return value;
}
