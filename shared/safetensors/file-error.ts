import {
  FailedPreconditionError,
  InvalidArgumentError,
  type RankmeshError,
  ResourceExhaustedError,
} from "../errors.ts";

/** What a failed file operation means to the user who named `path`. */
export function fileError(path: string, action: "read" | "write", cause: unknown): RankmeshError {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  const reason = cause instanceof Error ? cause.message : String(cause);
  const options = { cause };
  switch (code) {
    case "ENOENT":
      return new InvalidArgumentError(
        action === "read"
          ? `${path}: no such file`
          : `${path}: cannot be written: its folder does not exist; create it first`,
        options,
      );
    case "ENOTDIR":
      return new InvalidArgumentError(`${path}: a part of the path is not a folder`, options);
    case "EISDIR":
      return new InvalidArgumentError(`${path}: is a folder, not a file`, options);
    case "ENAMETOOLONG":
    case "ELOOP":
      return new InvalidArgumentError(`${path}: ${reason}`, options);
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return new InvalidArgumentError(`${path}: no permission to ${action} it`, options);
    case "ENOSPC":
    case "EDQUOT":
      return new ResourceExhaustedError(
        `${path}: the disk is full; nothing was left behind`,
        options,
      );
    case "EMFILE":
    case "ENFILE":
      return new ResourceExhaustedError(`${path}: too many open files; raise ulimit -n`, options);
    case "ERR_INVALID_ARG_VALUE":
      return new InvalidArgumentError("a path must not contain a null byte", options);
    default:
      return new FailedPreconditionError(`${path}: cannot ${action} it: ${reason}`, options);
  }
}
