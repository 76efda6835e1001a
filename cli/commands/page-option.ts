import { Option } from "commander";
import { hostPort } from "../option-values.ts";

/** Where a coordinator that a command starts for itself serves its status page. */
export function pageOption(): Option {
  return new Option("--http <host:port>", "address of the status page; port 0 takes a free one")
    .default("127.0.0.1:0")
    .argParser(hostPort);
}
