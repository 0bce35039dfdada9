// What the walks through the console share: a server, a browser, and checks of a page.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** The key of the server. */
export const KEY = process.env.CONSOLE_KEY ?? "a-key-of-the-walk";

function found() {
  for (const name of [process.env.CHROMIUM, "chromium", "chromium-browser", "google-chrome"]) {
    const path = name && spawnSync("sh", ["-c", 'command -v "$0"', name], { encoding: "utf8" }).stdout.trim();
    if (path) return path;
  }
  return undefined;
}

/** Starts the server with `more` arguments and returns the address of its console. */
async function served(more) {
  if (process.env.CONSOLE_URL) return { url: process.env.CONSOLE_URL, stop: async () => {} };
  const process_ = spawn(
    process.env.BUZZ ?? "buzz",
    ["serve", "--table", `trips=${process.env.SAMPLE}`, "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0", ...more],
    { env: { ...process.env, BUZZ_KEY: KEY }, stdio: ["ignore", "ignore", "pipe"] },
  );
  let text = "";
  const url = await new Promise((resolve, reject) => {
    process_.stderr.setEncoding("utf8");
    process_.stderr.on("data", (part) => {
      text += part;
      const line = /console: +(\S+)\/console\//.exec(text);
      if (line) resolve(line[1]);
    });
    process_.on("exit", () => reject(new Error(`the server ended: ${text}`)));
    process_.on("error", reject);
  });
  const stop = () =>
    new Promise((resolve) => {
      process_.removeAllListeners("exit");
      process_.on("exit", resolve);
      process_.kill("SIGTERM");
    });
  return { url, stop };
}

/** Writes `sql` into the editor. */
export async function write(page, sql) {
  await page.click(".cm-content");
  await page.keyboard.press("ControlOrMeta+a");
  await page.keyboard.insertText(sql);
}

let passed = 0;
let failed = 0;
export async function step(name, work) {
  try {
    await work();
    passed += 1;
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack ?? error}`);
  }
}

/** Fails if axe finds something serious on the page. */
export async function accessible(page, name) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
  const text = serious.map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => `${node.html} ${node.failureSummary}`).join(" | ")}`);
  assert.deepEqual(text, [], name);
}

/** Fails if the page is wider than the window. */
export async function fits(page, name) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(over <= 0, `${name} is ${over} pixels too wide`);
}

/** Opens a page of the console in a window with these settings. */
export async function opened(browser, url, settings) {
  const context = await browser.newContext({ acceptDownloads: true, ...settings });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  const problems = [];
  page.on("pageerror", (error) => problems.push(`error: ${error.stack ?? error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith("blob:")) problems.push(`request: ${request.url()}`);
  });
  await page.exposeFunction("violated", (text) => problems.push(`policy: ${text}`));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => {
      // Chromium itself styles what is typed over a selection in an editor, and reports that it may not.
      if (event.effectiveDirective === "style-src-attr" && !event.sourceFile) return;
      const place = `${event.sourceFile}:${event.lineNumber}:${event.columnNumber}`;
      window.violated(`${event.effectiveDirective} ${event.blockedURI} ${place}`);
    });
  });
  return { context, page, problems };
}

/** Runs `work` with a browser and the address of a server that has `more` arguments, and ends the process with its outcome. */
export async function walked(work, more = []) {
  const executablePath = found();
  if (!executablePath) {
    console.log("skipped: no Chromium in PATH; install the package chromium, or set CHROMIUM\n0 passed, 0 failed, 1 skipped");
    process.exit(0);
  }
  const server = await served(more);
  const browser = await chromium.launch({ executablePath, args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] });
  try {
    await work(browser, server.url);
  } finally {
    await browser.close();
    await server.stop();
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed > 0 ? 1 : 0;
}
