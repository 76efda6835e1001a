/** The one place where error classes and gRPC statuses meet. */
import { Metadata, type ServiceError, status } from "@grpc/grpc-js";
import {
  AlreadyExistsError,
  CancelledError,
  DataLossError,
  DeadlineExceededError,
  FailedPreconditionError,
  type Fault,
  InternalError,
  InvalidArgumentError,
  NotFoundError,
  PeerError,
  RankmeshError,
  ResourceExhaustedError,
  UnavailableError,
} from "../errors.ts";

/** Trailing metadata with the faults of an INVALID_ARGUMENT: JSON `[{path, message}]`, UTF-8. */
export const FAULTS_KEY = "rankmesh-faults-bin";
/** Trailing metadata of a PeerError: JSON `{rank, peer, step}`, UTF-8. */
export const PEER_KEY = "rankmesh-peer-bin";

// gRPC clients of other languages take 8 KiB of metadata in all; the text is percent-encoded, the rest base64.
const MAX_ENCODED_DETAILS_BYTES = 3_000;
const MAX_METADATA_JSON_BYTES = 2_800;
const MAX_FAULT_TEXT_CHARS = 600;

/** The status name of an error; INTERNAL for one that is not ours. */
export function statusName(error: unknown): string {
  return error instanceof RankmeshError ? error.code : "INTERNAL";
}

/** The status number of an error. */
export function statusCode(error: unknown): status {
  return statusByName(statusName(error));
}

function statusByName(name: string): status {
  const code = (status as unknown as Readonly<Record<string, unknown>>)[name];
  return typeof code === "number" ? code : status.INTERNAL;
}

/**
 * What a server sends for `error`: an error to give to a callback, to `emit("error")` or to `destroy`.
 * Faults and ranks travel along, so that `fromServiceError` builds the same class again.
 */
export function toServiceError(error: unknown): ServiceError {
  const metadata = new Metadata();
  let message = error instanceof Error ? error.message : String(error);
  if (error instanceof InvalidArgumentError) {
    const faults = boundedFaults(error.faults);
    message = new InvalidArgumentError(faults).message;
    metadata.set(FAULTS_KEY, Buffer.from(JSON.stringify(faults)));
  } else if (error instanceof PeerError) {
    const { rank, peer, step } = error;
    metadata.set(PEER_KEY, Buffer.from(JSON.stringify({ rank, peer, step })));
  } else if (!(error instanceof RankmeshError)) {
    message = `internal: ${message}`;
  }
  const details = boundedDetails(message);
  return Object.assign(new Error(details, { cause: error }), {
    code: statusCode(error),
    details,
    metadata,
  });
}

/** The faults that fit in trailing metadata; a last one counts those left out. */
function boundedFaults(faults: readonly Fault[]): Fault[] {
  const kept: Fault[] = [];
  let bytes = 0;
  let encoded = 0;
  for (const fault of faults) {
    const short = {
      path: shorten(fault.path, MAX_FAULT_TEXT_CHARS),
      message: shorten(fault.message, MAX_FAULT_TEXT_CHARS),
    };
    bytes += Buffer.byteLength(JSON.stringify(short)) + 1;
    encoded += encodeURI(`${short.path}: ${short.message}\n`).length;
    const full = bytes > MAX_METADATA_JSON_BYTES - 100 || encoded > MAX_ENCODED_DETAILS_BYTES - 150;
    if (full && kept.length > 0) {
      const left = faults.length - kept.length;
      kept.push({
        path: "",
        message: `and ${left} more fault${left === 1 ? "" : "s"}; fix these first`,
      });
      break;
    }
    kept.push(short);
  }
  return kept;
}

/** Text that percent-encodes into the limit. Lone surrogates, which cannot be encoded, are replaced. */
function boundedDetails(text: string): string {
  const whole = wellFormed(text);
  if (encodeURI(whole).length <= MAX_ENCODED_DETAILS_BYTES) return whole;
  let length = Math.min(whole.length, MAX_ENCODED_DETAILS_BYTES);
  while (encodeURI(shorten(whole, length)).length > MAX_ENCODED_DETAILS_BYTES) {
    length = Math.floor(length * 0.9);
  }
  return shorten(whole, length);
}

function shorten(text: string, maxChars: number): string {
  if (text.length <= maxChars) return wellFormed(text);
  return `${wellFormed(text.slice(0, maxChars))}... (${text.length} characters)`;
}

function wellFormed(text: string): string {
  return Buffer.from(text, "utf8").toString("utf8");
}

/** Whether `error` is what a grpc-js client reports for a failed call. */
export function isServiceError(error: unknown): error is ServiceError {
  return (
    error instanceof Error &&
    "code" in error &&
    typeof error.code === "number" &&
    "details" in error
  );
}

/**
 * The error of this project that a failed call stands for; other errors come back unchanged.
 * @param target whom the call went to, for texts: "coordinator at 127.0.0.1:50051"
 */
export function fromServiceError(error: unknown, target: string): Error {
  if (!isServiceError(error)) return error instanceof Error ? error : new Error(String(error));
  const cause = { cause: error };
  const text = error.details || error.message;
  const transport = transportProblem(error.code, text);
  if (transport !== undefined) return new UnavailableError(`${target}: ${transport}`, cause);
  const peer = readJson(error.metadata, PEER_KEY);
  if (isPeerRecord(peer)) {
    return new PeerError(text, {
      code: peerCode(error.code),
      rank: peer.rank,
      peer: peer.peer,
      ...(typeof peer.step === "number" ? { step: peer.step } : {}),
      cause: error,
    });
  }
  switch (error.code) {
    case status.INVALID_ARGUMENT:
    case status.OUT_OF_RANGE: {
      const faults = readJson(error.metadata, FAULTS_KEY);
      return new InvalidArgumentError(isFaultList(faults) ? faults : text, cause);
    }
    case status.FAILED_PRECONDITION:
      return new FailedPreconditionError(text, cause);
    case status.RESOURCE_EXHAUSTED:
      return new ResourceExhaustedError(text, cause);
    case status.NOT_FOUND:
      return new NotFoundError(text, cause);
    case status.ALREADY_EXISTS:
      return new AlreadyExistsError(text, cause);
    case status.CANCELLED:
      return new CancelledError(text, cause);
    case status.DATA_LOSS:
      return new DataLossError(text, cause);
    case status.UNAVAILABLE:
      return new UnavailableError(text, cause);
    case status.DEADLINE_EXCEEDED:
      // The call's own deadline, which both ends watch, or that of the work it asked for.
      return /^Deadline exceeded/i.test(text)
        ? new UnavailableError(`${target} did not answer in time (${text})`, cause)
        : new DeadlineExceededError(text, cause);
    case status.UNIMPLEMENTED:
      return new FailedPreconditionError(
        `${target} does not offer this call: another version of rankmesh, or the port of another service`,
        cause,
      );
    case status.ABORTED:
    case status.UNAUTHENTICATED:
    case status.PERMISSION_DENIED:
      return new FailedPreconditionError(text, cause);
    default:
      return new InternalError(text.replace(/^internal: /, ""), cause);
  }
}

/** In plain words, what stands between client and server; undefined when the server itself answered. */
function transportProblem(code: status, text: string): string | undefined {
  if (code === status.UNAVAILABLE) {
    if (text.includes("ECONNREFUSED")) {
      return "connection refused; check that it runs and listens on this address";
    }
    if (/ENOTFOUND|EAI_AGAIN|Name resolution failed/.test(text)) {
      return "the host name does not resolve; check the address";
    }
    if (/EHOSTUNREACH|ENETUNREACH|ETIMEDOUT/.test(text)) {
      return `the host cannot be reached (${text}); check address and network`;
    }
    if (/ECONNRESET|EPIPE|Connection dropped|socket hang up|keepalive|ping timeout/i.test(text)) {
      return `the connection broke (${text})`;
    }
    if (text.includes("No connection established")) return `no connection (${text})`;
  }
  if (code === status.INTERNAL && text.includes("RST_STREAM"))
    return `the connection broke (${text})`;
  // The first bytes of an HTTP/1 reply, read as the length of a message.
  const length = /message larger than max \((\d+) vs/.exec(text)?.[1];
  if (
    code === status.RESOURCE_EXHAUSTED &&
    length !== undefined &&
    isPrintableLength(Number(length))
  ) {
    return "something else than gRPC answers on this port; check the address";
  }
  return undefined;
}

function isPrintableLength(length: number): boolean {
  const bytes = [24, 16, 8, 0].map((shift) => Math.floor(length / 2 ** shift) & 0xff);
  return bytes.every((byte) => byte >= 0x20 && byte < 0x7f);
}

function peerCode(code: status): PeerError["code"] {
  switch (code) {
    case status.DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case status.ABORTED:
      return "ABORTED";
    case status.DATA_LOSS:
      return "DATA_LOSS";
    default:
      return "UNAVAILABLE";
  }
}

function readJson(metadata: Metadata | undefined, key: string): unknown {
  const value = metadata?.get(key)[0];
  if (!Buffer.isBuffer(value)) return undefined;
  try {
    return JSON.parse(value.toString("utf8"));
  } catch {
    return undefined; // Not from us: the text alone has to do.
  }
}

function isPeerRecord(value: unknown): value is { rank: number; peer: number; step?: unknown } {
  return (
    typeof value === "object" &&
    value !== null &&
    "rank" in value &&
    typeof value.rank === "number" &&
    "peer" in value &&
    typeof value.peer === "number"
  );
}

function isFaultList(value: unknown): value is Fault[] {
  return (
    Array.isArray(value) &&
    value.length > 0 &&
    value.every(
      (item: unknown) =>
        typeof item === "object" &&
        item !== null &&
        "path" in item &&
        typeof item.path === "string" &&
        "message" in item &&
        typeof item.message === "string",
    )
  );
}
