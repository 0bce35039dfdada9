// Builds the console: node build.mjs. Writes dist/, which the crate buzz-serve embeds.
//
// The files depend on nothing but the sources and the versions in package-lock.json. The first line of console.js has the digest
// of the sources; code/testkit/lint/console.py compares it.
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** Bytes of the script. A larger one is an error: each library must be worth its place. */
const BYTES_MAX = 680_000;

const here = dirname(fileURLToPath(import.meta.url));
const source = (name) => join(here, "src", name);
const target = (name) => join(here, "dist", name);

/** Returns the digest of the sources, of the versions and of this file. */
function digest() {
  const hash = createHash("sha256");
  const files = [...readdirSync(join(here, "src")).map((name) => `src/${name}`), "build.mjs", "package-lock.json", "package.json"];
  for (const file of files.sort()) {
    hash.update(`${file}\0`).update(readFileSync(join(here, file))).update("\0");
  }
  return hash.digest("hex");
}

const result = await build({
  absWorkingDir: here,
  entryPoints: { console: source("main.tsx") },
  bundle: true,
  outdir: join(here, "dist"),
  write: false,
  minify: true,
  metafile: true,
  format: "iife",
  target: ["chrome109", "firefox115", "safari16"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
  banner: { js: `/* sources ${digest()} */` },
  logLevel: "warning",
});

rmSync(join(here, "dist"), { recursive: true, force: true });
mkdirSync(join(here, "dist"));
for (const file of result.outputFiles) writeFileSync(file.path, file.contents);
for (const name of ["index.html", "icon.svg"]) cpSync(source(name), target(name));
writeFileSync(target("licences.txt"), licences(result.metafile));

const bytes = readFileSync(target("console.js")).length;
console.log(`console.js: ${bytes} bytes`);
if (bytes > BYTES_MAX) throw new Error(`console.js has ${bytes} bytes, more than ${BYTES_MAX}`);

/** Returns the licences of the packages that are in the bundle. */
function licences(metafile) {
  const names = new Set();
  for (const path of Object.keys(metafile.inputs)) {
    const found = /(?:^|\/)node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path);
    if (found) names.add(found[1]);
  }
  const parts = [...names].sort().map((name) => {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
    const text = file ? readFileSync(join(folder, file), "utf8").trim() : `Licence: ${license}`;
    return `${name} ${version} (${license})\n\n${text.replace(/\r\n/g, "\n")}\n`;
  });
  return `Libraries in the console of Buzz.\n\n${parts.join(`\n${"-".repeat(80)}\n\n`)}`;
}
