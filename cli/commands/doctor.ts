import { createServer } from "node:net";
import type { Command } from "commander";
import { RankmeshClient } from "../../client/client.ts";
import { FailedPreconditionError } from "../../shared/errors.ts";
import { formatBytes } from "../../shared/format-bytes.ts";
import { JOB_PRECISION } from "../../shared/job/precision.ts";
import { parseHostPort } from "../../shared/rpc/address.ts";
import { BACKEND_MODULE, loadBackend } from "../../worker/compute/backend-loader.ts";
import { type CommandContext, printLines } from "../command-context.ts";
import { EXIT, ExitRequest } from "../exit-codes.ts";
import { plural } from "../format.ts";
import { checkHealth } from "../health.ts";
import { machineMemoryBytes, numCores } from "../machine.ts";
import { envOption, hostPort } from "../option-values.ts";

interface DoctorFlags {
  readonly address?: string;
  readonly health: boolean;
  readonly json: boolean;
}

/** One thing looked at. */
export interface Finding {
  readonly name: string;
  readonly ok: boolean;
  /** What was found. */
  readonly detail: string;
  /** What to do about it, when it is not well. */
  readonly advice?: string;
  /** Not here, and no fault: nothing needs it. */
  readonly absent?: boolean;
}

const LEAST_NODE = [20, 19] as const;
/** Ports of the daemons' defaults. */
const DEFAULT_PORTS = [50051, 8080] as const;

export function addDoctorCommand(program: Command, context: CommandContext): void {
  program
    .command("doctor")
    .description("say what this machine has and lacks, and whether a coordinator answers")
    .addOption(
      envOption("--address <host:port>", "a coordinator or worker to ask", "ADDRESS").argParser(
        hostPort,
      ),
    )
    .option(
      "--health",
      "only ask the daemon at --address for its health; for container health checks",
      false,
    )
    .option("--json", "print JSON", false)
    .action((flags: DoctorFlags) => doctor(flags, context));
}

async function doctor(flags: DoctorFlags, context: CommandContext): Promise<void> {
  const findings = flags.health
    ? [await healthFinding(flags.address ?? "127.0.0.1:50051")]
    : await allFindings(flags.address);
  const ok = findings.every((finding) => finding.ok);
  if (flags.json) {
    context.stdout.write(`${JSON.stringify({ ok, findings }, null, 2)}\n`);
  } else {
    printLines(context.stdout, findings.flatMap(findingLines));
  }
  if (ok) return;
  const unreachable = findings.some(({ name, ok: well }) => !well && REMOTE_NAMES.includes(name));
  throw new ExitRequest(unreachable ? EXIT.unreachable : EXIT.jobFailed);
}

const REMOTE_NAMES = ["coordinator", "health"];

function findingLines(finding: Finding): string[] {
  const mark = finding.absent === true ? "--  " : finding.ok ? "ok  " : "FAIL";
  const line = `${mark}  ${finding.name}: ${finding.detail}`;
  return finding.advice === undefined ? [line] : [line, `      ${finding.advice}`];
}

async function allFindings(address: string | undefined): Promise<Finding[]> {
  const findings = [nodeFinding(process.versions.node), coresFinding(), memoryFinding()];
  for (const backend of BACKENDS) findings.push(await backendFinding(backend));
  findings.push(...(await gpuFindings()));
  for (const port of DEFAULT_PORTS) findings.push(await portFinding(port));
  if (address !== undefined)
    findings.push(await healthFinding(address), await coordinatorFinding(address));
  return findings;
}

/** Whether the running Node is new enough. */
export function nodeFinding(version: string): Finding {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const [leastMajor, leastMinor] = LEAST_NODE;
  const ok = major > leastMajor || (major === leastMajor && minor >= leastMinor);
  return {
    name: "node",
    ok,
    detail: version,
    ...(ok ? {} : { advice: `install Node ${leastMajor}.${leastMinor} or newer` }),
  };
}

function coresFinding(): Finding {
  return { name: "cores", ok: true, detail: `${numCores()} that this process may use` };
}

function memoryFinding(): Finding {
  const { available, total } = machineMemoryBytes();
  return {
    name: "memory",
    ok: true,
    detail: `${formatBytes(available)} of ${formatBytes(total)} available`,
  };
}

const BACKENDS = ["cuda", "cpu", "gpujs", "reference"];
/** Backends that ask for what not every machine has. */
const OPTIONAL: ReadonlySet<string> = new Set(["cuda", "gpujs"]);

async function backendFinding(backend: string): Promise<Finding> {
  const name = `backend ${backend}`;
  try {
    const loaded = await loadBackend(BACKEND_MODULE, { backend, device: "", threads: undefined });
    const { device, precisions, note } = loaded;
    loaded.close();
    const words = precisions.map((precision) => JOB_PRECISION[precision]);
    const more = note === undefined ? [] : [note];
    const detail = [device, `computes in ${words.join(", ")}`, ...more];
    return { name, ok: true, detail: detail.join("; ") };
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    // The message says what to install for it.
    if (OPTIONAL.has(backend) && error instanceof FailedPreconditionError) {
      return { name, ok: true, detail: detail.replace(`${backend} backend: `, ""), absent: true };
    }
    return {
      name,
      ok: false,
      detail,
      advice:
        "run `npm run setup`, which installs and builds what it needs or says what to install",
    };
  }
}

/** The GPUs that `--device` knows. */
async function gpuFindings(): Promise<Finding[]> {
  const { cudaDevices } = await import("../../worker/backend/local-devices.ts");
  try {
    return cudaDevices().map((device) => ({
      name: `GPU ${device.ordinal}`,
      ok: true,
      detail:
        `${device.name}, ${device.uuid}, compute capability ${device.computeCapability}, ` +
        `${formatBytes(device.memoryBytes)} of memory, driver of CUDA ${device.driver}`,
    }));
  } catch {
    return []; // Told of its backend already.
  }
}

/** A port in use is no fault: it may be a daemon of ours. */
async function portFinding(port: number): Promise<Finding> {
  const free = await new Promise<boolean>((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ host: "127.0.0.1", port, exclusive: true }, () =>
      server.close(() => resolve(true)),
    );
  });
  return {
    name: `port ${port}`,
    ok: true,
    detail: free
      ? "free"
      : "in use (by a coordinator? choose another with --listen or --http otherwise)",
  };
}

async function healthFinding(address: string): Promise<Finding> {
  try {
    parseHostPort(address);
    const status = await checkHealth(address);
    return { name: "health", ok: status === "SERVING", detail: `${address} is ${status}` };
  } catch (error) {
    return {
      name: "health",
      ok: false,
      detail: error instanceof Error ? error.message : String(error),
      advice: "start the daemon, or name its address with --address or RANKMESH_ADDRESS",
    };
  }
}

async function coordinatorFinding(address: string): Promise<Finding> {
  const client = new RankmeshClient({ address, deadlineMs: 5000 });
  try {
    const workers = await client.workers();
    const lost = workers.filter((worker) => worker.state === "lost").map((worker) => worker.name);
    return {
      name: "coordinator",
      ok: true,
      detail: `${plural(workers.length, "worker")}${lost.length === 0 ? "" : `, lost: ${lost.join(", ")}`}`,
    };
  } catch (error) {
    return {
      name: "coordinator",
      ok: false,
      detail: error instanceof Error ? error.message : String(error),
      advice: "start one with `rankmesh coordinator`, or name another with --address",
    };
  } finally {
    client.close();
  }
}
