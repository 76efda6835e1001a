import type { ServerDuplexStream } from "@grpc/grpc-js";
import type { Logger } from "pino";
import {
  FailedPreconditionError,
  type Fault,
  InvalidArgumentError,
  UnavailableError,
} from "../shared/errors.ts";
import type { Precision } from "../shared/program/program.ts";
import { parseHostPort } from "../shared/rpc/address.ts";
import type { RankServiceHandlers } from "../shared/rpc/gen/rankmesh/v1/RankService.ts";
import type { Register__Output } from "../shared/rpc/gen/rankmesh/v1/Register.ts";
import type { SessionRequest__Output } from "../shared/rpc/gen/rankmesh/v1/SessionRequest.ts";
import type { SessionResponse } from "../shared/rpc/gen/rankmesh/v1/SessionResponse.ts";
import { serverStreaming } from "../shared/rpc/handlers.ts";
import { toServiceError } from "../shared/rpc/status.ts";
import type { Engine } from "./engine.ts";
import { requireReachable } from "./gang/reachable.ts";
import type { Session } from "./gang/session.ts";
import type { WorkerInfo } from "./gang/worker-registry.ts";
import { nameFault } from "./job/job-id.ts";

type SessionCall = ServerDuplexStream<SessionRequest__Output, SessionResponse>;

/** A worker that does not say who it is within this time is sent away. */
const REGISTER_MS = 10_000;

/** Time for a worker to accept a connection at the address that it advertises. */
const DIAL_BACK_MS = 3_000;

/** Time for a break of the connection to show after the end of what came through it. */
const HALF_CLOSE_MS = 25;

/** A worker that leaves this many messages unread is not reading at all. */
const MAX_UNREAD_MESSAGES = 256;

export interface RankServiceOptions {
  readonly engine: Engine;
  readonly heartbeatMs: number;
  /** Version of this coordinator: workers of another minor version are refused. */
  readonly version: string;
  readonly logger: Logger;
}

/** The workers' side of the coordinator: their sessions, and what their ranks pull. */
export function rankService(options: RankServiceOptions): RankServiceHandlers {
  const { engine } = options;
  let lastSessionId = 0;
  return {
    Session: (call) => {
      lastSessionId += 1;
      serveSession(call, lastSessionId, options);
    },
    StreamBatches: serverStreaming(({ jobId, generation, rank }, { signal }) =>
      engine.gang(jobId, generation).feed(rank).stream(rank, signal),
    ),
    ReadInitialWeights: serverStreaming(async function* ({ jobId, generation, rank, stored }) {
      for await (const piece of engine.gang(jobId, generation).weights(rank).read(stored, rank)) {
        yield { data: Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength) };
      }
    }),
  };
}

/** Speaks with one worker from its first message to the end of its stream. */
function serveSession(call: SessionCall, id: number, options: RankServiceOptions): void {
  const { engine, heartbeatMs, version, logger } = options;
  let name: string | undefined;
  let ended = false;

  const over = (why: string, inGoodOrder: boolean): void => {
    if (ended) return;
    ended = true;
    clearTimeout(registerTimer);
    if (name !== undefined) engine.left(name, id, why, inGoodOrder);
  };
  const session: Session = {
    id,
    send(message) {
      if (ended) return;
      if (call.writableLength > MAX_UNREAD_MESSAGES) {
        const why = "it does not read what it is sent";
        this.end(new UnavailableError(why));
        return;
      }
      call.write(message);
    },
    end(error) {
      over(error.message, false);
      // Not `destroy`: that would end the call without a status, and the worker would never hear of it.
      call.emit("error", toServiceError(error));
    },
  };
  const registerTimer = setTimeout(() => {
    session.end(new InvalidArgumentError(`no register message within ${REGISTER_MS / 1000} s`));
  }, REGISTER_MS);

  const fail = (error: unknown): void => {
    logger.warn({ peer: call.getPeer(), worker: name, err: error }, "session ended by an error");
    session.end(error instanceof Error ? error : new Error(String(error)));
  };
  const begin = async (register: Register__Output): Promise<void> => {
    const info = workerInfo(register, version);
    await requireReachable(info.name, info.address, DIAL_BACK_MS);
    if (ended) return;
    clearTimeout(registerTimer);
    engine.join(info, session);
    name = info.name;
    // Said before anything else, an assignment above all.
    session.send({
      registered: {
        workerId: `${info.name}#${id}`,
        heartbeatIntervalSeconds: heartbeatMs / 1000,
      },
    });
    engine.schedule();
  };

  let begun = false;
  call.on("data", (message: SessionRequest__Output) => {
    if (ended) return;
    try {
      if (message.register) {
        if (begun) throw new InvalidArgumentError("register came twice in one session");
        begun = true;
        begin(message.register).catch(fail);
      } else if (name !== undefined) engine.hear(name, id, message);
      else
        throw new InvalidArgumentError(
          "a session begins with register, and goes on after registered",
        );
    } catch (error) {
      fail(error);
    }
  });
  call.on("end", () => {
    // A broken connection ends the stream too, and only then tells that it was cancelled.
    setTimeout(() => {
      if (ended) return;
      over("it left", true);
      call.end();
    }, HALF_CLOSE_MS);
  });
  call.on("cancelled", () => over("its connection ended (killed, crashed or cut off)", false));
  call.on("error", (error: Error) => over(`its connection failed: ${error.message}`, false));
}

/** @throws InvalidArgumentError with all faults; FailedPreconditionError for another version */
function workerInfo(register: Register__Output, version: string): WorkerInfo {
  const faults: Fault[] = [];
  const check = (path: string, value: string, required: boolean): void => {
    const fault =
      required && value === "" ? { path, message: "is missing" } : nameFault(value, path);
    if (fault !== undefined) faults.push(fault);
  };
  check("name", register.name, true);
  check("backend", register.backend, true);
  check("fingerprint", register.fingerprint, true);
  check("device", register.device, false);
  check("httpAddress", register.httpAddress, false);
  check("version", register.version, false);
  check("ncclVersion", register.ncclVersion, false);
  check("deviceUuid", register.deviceUuid, false);
  try {
    const { port } = parseHostPort(register.address, "address");
    if (port === 0)
      faults.push({ path: "address", message: "has port 0; advertise the port that is bound" });
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    faults.push(...error.faults);
  }
  if (!Number.isSafeInteger(register.memoryLimitBytes) || register.memoryLimitBytes < 0) {
    faults.push({
      path: "memoryLimitBytes",
      message: `${register.memoryLimitBytes} is no number of bytes`,
    });
  }
  if (!Number.isSafeInteger(register.workspaceBytes)) {
    faults.push({
      path: "workspaceBytes",
      message: `${register.workspaceBytes} is no number of bytes`,
    });
  }
  const precisions = PRECISIONS.filter((precision) => register.precisions.includes(precision));
  if (register.precisions.length > 0 && precisions.length === 0) {
    faults.push({
      path: "precisions",
      message: `has none of ${PRECISIONS.join(", ")}; a worker computes in one of them at least`,
    });
  }
  if (faults.length > 0) throw new InvalidArgumentError(faults);
  if (minorVersion(register.version) !== minorVersion(version)) {
    throw new FailedPreconditionError(
      `worker ${JSON.stringify(register.name)} is version ${register.version || "(none)"}, this coordinator is ${version}; run the same version`,
    );
  }
  const { name, address, httpAddress, backend, device, fingerprint } = register;
  return {
    name,
    address,
    httpAddress,
    backend,
    device,
    memoryLimitBytes: register.memoryLimitBytes,
    fingerprint,
    version: register.version,
    ncclVersion: register.ncclVersion === "" ? undefined : register.ncclVersion,
    deviceUuid: register.deviceUuid === "" ? undefined : register.deviceUuid,
    workspaceBytes: register.workspaceBytes,
    precisions: precisions.length === 0 ? ["float32"] : precisions,
    // A text for people: what does not print is left out, not refused.
    backendReason: register.backendReason
      .replace(/\p{Cc}+/gu, " ")
      .slice(0, MAX_BACKEND_REASON_CHARS),
  };
}

const PRECISIONS: readonly Precision[] = ["float32", "bfloat16"];

const MAX_BACKEND_REASON_CHARS = 1_000;

function minorVersion(version: string): string {
  return version.split(".").slice(0, 2).join(".");
}
