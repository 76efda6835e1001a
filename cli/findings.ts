import { createServer } from "node:net";
import { RankmeshClient } from "../client/client.ts";
import { FailedPreconditionError } from "../shared/errors.ts";
import { formatBytes } from "../shared/format-bytes.ts";
import { JOB_PRECISION } from "../shared/job/precision.ts";
import { parseHostPort } from "../shared/rpc/address.ts";
import { BACKEND_MODULE, loadBackend } from "../worker/compute/backend-loader.ts";
import type { Finding } from "./finding.ts";
import { plural } from "./format.ts";
import { checkHealth } from "./health.ts";
import { machineMemoryBytes, numCores } from "./machine.ts";

const LEAST_NODE = [20, 19] as const;
/** Ports of the daemons' defaults. */
const DEFAULT_PORTS = [50051, 8080] as const;

/** All that a machine has and lacks for rankmesh; with an address, whether a daemon answers there. */
export async function allFindings(address: string | undefined): Promise<Finding[]> {
  const findings = [nodeFinding(process.versions.node), coresFinding(), memoryFinding()];
  for (const backend of BACKENDS) findings.push(await backendFinding(backend));
  findings.push(...(await gpuFindings()));
  for (const port of DEFAULT_PORTS) findings.push(await portFinding(port));
  if (address !== undefined)
    findings.push(await healthFinding(address), await coordinatorFinding(address));
  return findings;
}

/** Whether the running Node is new enough. */
function nodeFinding(version: string): Finding {
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
  const { cudaDevices } = await import("../worker/backend/local-devices.ts");
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

/** What a daemon says of its health over gRPC. */
export async function healthFinding(address: string): Promise<Finding> {
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
