import type { Command } from "commander";
import { UnavailableError } from "../../shared/errors.ts";
import { formatHostPort, parseHostPort } from "../../shared/rpc/address.ts";
import { type CommandContext, printLines } from "../command-context.ts";
import { EXIT, ExitRequest } from "../exit-codes.ts";
import type { Finding } from "../finding.ts";
import { askHealthz, dialled } from "../healthz.ts";
import { envOption, hostPort } from "../option-values.ts";

/** The coordinator's default. */
const DEFAULT_HTTP = "127.0.0.1:8080";

interface DoctorFlags {
  readonly address?: string;
  readonly http?: string;
  readonly health: boolean;
  readonly json: boolean;
}

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
      "only ask a daemon for its health: /healthz at --http, or gRPC at --address; for containers",
      false,
    )
    .addOption(
      envOption(
        "--http <host:port>",
        `where the daemon of this machine serves /healthz (default: ${DEFAULT_HTTP})`,
        "HTTP",
      ).argParser(hostPort),
    )
    .option("--json", "print JSON", false)
    .action((flags: DoctorFlags) => doctor(flags, context));
}

async function doctor(flags: DoctorFlags, context: CommandContext): Promise<void> {
  const byGrpc = flags.http === undefined && flags.address !== undefined;
  if (flags.health && !byGrpc) {
    const finding = await healthzFinding(flags.http ?? DEFAULT_HTTP);
    report([finding], flags, context);
    // What a container's health check may say: 0 or 1.
    if (!finding.ok) throw new ExitRequest(EXIT.jobFailed);
    return;
  }
  // Loaded when needed: a health check runs every few seconds and needs neither client nor backends.
  const { allFindings, healthFinding } = await import("../findings.ts");
  const findings =
    flags.health && flags.address !== undefined
      ? [await healthFinding(flags.address)]
      : await allFindings(flags.address);
  report(findings, flags, context);
  const failed = findings.filter(({ ok }) => !ok);
  if (failed.length === 0) return;
  const unreachable = failed.some(({ name }) => REMOTE_NAMES.includes(name));
  throw new ExitRequest(unreachable ? EXIT.unreachable : EXIT.jobFailed);
}

const REMOTE_NAMES = ["coordinator", "health"];

function report(findings: readonly Finding[], flags: DoctorFlags, context: CommandContext): void {
  const ok = findings.every((finding) => finding.ok);
  if (flags.json) context.stdout.write(`${JSON.stringify({ ok, findings }, null, 2)}\n`);
  else printLines(context.stdout, findings.flatMap(findingLines));
}

async function healthzFinding(address: string): Promise<Finding> {
  const name = "health";
  const at = dialled(parseHostPort(address));
  const where = formatHostPort(at);
  try {
    const { healthy, words } = await askHealthz(at);
    return { name, ok: healthy, detail: `${where} says ${JSON.stringify(words)}` };
  } catch (error) {
    if (!(error instanceof UnavailableError)) throw error;
    const advice =
      "start the daemon, or name the address of its /metrics with --http or RANKMESH_HTTP";
    return { name, ok: false, detail: error.message, advice };
  }
}

function findingLines(finding: Finding): string[] {
  const mark = finding.absent === true ? "--  " : finding.ok ? "ok  " : "FAIL";
  const line = `${mark}  ${finding.name}: ${finding.detail}`;
  return finding.advice === undefined ? [line] : [line, `      ${finding.advice}`];
}
