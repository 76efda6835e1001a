#!/usr/bin/env node
// Runs buf: `node scripts/buf.mjs lint`.
import { spawnSync } from "node:child_process";
import { bufPath } from "./buf-path.mjs";

const { status, error } = spawnSync(bufPath(), process.argv.slice(2), { stdio: "inherit" });
if (error) throw error;
process.exit(status ?? 1);
