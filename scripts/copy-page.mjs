#!/usr/bin/env node
// Puts the status page's files that are not compiled beside those that are: HTML, styles, and uPlot as it is published.
import { copyFileSync, mkdirSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, "coordinator", "page");
const built = join(root, "dist", "coordinator", "page");
const uplot = join(dirname(createRequire(import.meta.url).resolve("uplot/package.json")), "dist");

mkdirSync(built, { recursive: true });
for (const name of readdirSync(source)) {
  if (/\.(?:html|css|svg)$/.test(name)) copyFileSync(join(source, name), join(built, name));
}
for (const name of ["uPlot.iife.min.js", "uPlot.min.css"]) {
  copyFileSync(join(uplot, name), join(built, name));
}
copyFileSync(join(uplot, "..", "LICENSE"), join(built, "uPlot.LICENSE"));
