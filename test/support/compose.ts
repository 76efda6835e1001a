/** Compose files as docker-compose reads them, and what the Dockerfile says. */
import { execFile, spawnSync } from "node:child_process";
import { promisify } from "node:util";
import { parse } from "yaml";
import { rootPath } from "./deploy.ts";

export interface Service {
  readonly image: string;
  readonly build?: { readonly target: string; readonly args: Readonly<Record<string, string>> };
  readonly command?: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly healthcheck?: { readonly test: readonly string[]; readonly retries: number };
  readonly cap_drop?: readonly string[];
  readonly security_opt?: readonly string[];
  readonly logging?: { readonly options: Readonly<Record<string, string>> };
  readonly deploy?: {
    readonly resources: {
      readonly reservations: {
        readonly devices: readonly {
          readonly driver: string;
          readonly device_ids: readonly string[];
          readonly capabilities: readonly string[];
        }[];
      };
    };
  };
  readonly init?: boolean;
  readonly network_mode?: string;
  readonly ports?: readonly string[];
  readonly profiles?: readonly string[];
  readonly pull_policy?: string;
  readonly read_only?: boolean;
  readonly restart?: string;
  readonly stop_grace_period?: string;
  readonly tmpfs?: readonly string[];
  readonly user?: string;
  readonly volumes?: readonly string[];
}

export interface ComposeFile {
  readonly services: Readonly<Record<string, Service>>;
  readonly volumes?: Readonly<Record<string, unknown>>;
  readonly secrets?: Readonly<Record<string, { readonly file: string }>>;
}

/** Why compose files cannot be resolved here; undefined when they can. */
export function missingCompose(): string | undefined {
  return spawnSync("docker-compose", ["--version"]).status === 0
    ? undefined
    : "needs docker-compose: apt-get install docker-compose";
}

/** A compose file as docker-compose resolves it, merged and with variables. @throws with its words when it refuses the file */
export async function resolveCompose(
  file: string,
  options: { profile?: string; env?: Readonly<Record<string, string>> } = {},
): Promise<ComposeFile> {
  const { profile, env } = options;
  const args = ["-f", rootPath(file), ...(profile === undefined ? [] : ["--profile", profile])];
  // Nothing of whoever runs the tests may set a variable.
  const { stdout } = await promisify(execFile)("docker-compose", [...args, "config"], {
    cwd: rootPath("."),
    env: { PATH: process.env["PATH"], HOME: process.env["HOME"], ...env },
    timeout: 30_000,
  });
  return parse(stdout) as ComposeFile;
}
