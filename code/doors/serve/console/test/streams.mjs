// Walks through the pages of continuous queries in Chromium: node test/streams.mjs. `make test-console` runs it.
//
// It is the tutorial of such systems, click by click: a source is created, queries over it are written and previewed, a pipeline
// is started, looked at, stopped and started again. Settings are those of walk.mjs.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { accessible, fits, KEY, opened, step, walked, write } from "./common.mjs";

const BIDS = "SELECT bid FROM nexmark_100 WHERE bid IS NOT NULL;";
const MEAN = "SELECT avg(bid.price) as avg_price\nFROM nexmark_100\nWHERE bid IS NOT NULL\nGROUP BY hop(interval '2 seconds', interval '10 seconds');";
const TOP = `SELECT * FROM (
    SELECT *, ROW_NUMBER() OVER (
        PARTITION BY window
        ORDER BY count DESC) AS row_num
    FROM (SELECT count(*) AS count, bid.auction AS auction,
        hop(interval '2 seconds', interval '60 seconds') AS window
            FROM nexmark_100 WHERE bid is not null
            GROUP BY 2, window)) WHERE row_num <= 5`;

const folder = mkdtempSync(join(tmpdir(), "buzz-console-"));

/** Waits until the script in the editor is found to be right. */
const ready = (page) => page.waitForSelector(".check-note.good");

/** Waits for at least `count` rows of the grid and returns their cells by the names of columns. */
async function rows(page, count) {
  await page.waitForFunction((count) => document.querySelectorAll(".grid .line").length >= count, count);
  return page.evaluate(() => {
    const heads = [...document.querySelectorAll(".heads .head b")].map((head) => head.textContent);
    return [...document.querySelectorAll(".grid .line")].map((line) =>
      Object.fromEntries([...line.querySelectorAll(".cell")].map((cell, at) => [heads[at], cell.textContent])),
    );
  });
}

async function preview(page, sql) {
  await write(page, sql);
  await ready(page);
  await page.click("button:has-text('Preview')");
}

async function stopPreview(page) {
  await page.click("button:has-text('Stop preview')");
  await page.waitForSelector(".bar.top .facts:has-text('stopped')");
}

const state = (page, name) => page.waitForSelector(`h1 .chip:has-text('${name}')`, { timeout: 60_000 });

/** Returns the number of the newest epoch of the page of checkpoints. */
async function newest(page) {
  await page.click("#tab-epochs");
  const cell = await page.waitForSelector(".epochs tbody td >> nth=0");
  return Number.parseInt((await cell.textContent()).replaceAll(",", ""), 10);
}

async function tutorial(browser, url) {
  const { context, page, problems } = await opened(browser, url, { viewport: { width: 1280, height: 820 } });
  await page.goto(`${url}/console/#key=${KEY}`);
  await page.waitForSelector(".cm-content");

  await step("pages without sources and pipelines say what these are", async () => {
    await page.click("nav >> text=Pipelines");
    await page.waitForSelector(".blank:has-text('Write the first one')");
    await accessible(page, "no pipelines");
    await page.click("nav >> text=Sources");
    await page.waitForSelector(".blank:has-text('Create the first one')");
    await accessible(page, "no sources");
  });

  await step("a source of generated events is created", async () => {
    await page.click("text=Create source");
    await page.click(".choose button:has-text('Nexmark')");
    assert.equal(await page.inputValue("label:has-text('Events per second') input"), "100");
    await page.fill("label:has-text('Name') input", "nexmark_100");
    assert.match(await page.textContent("pre.sql"), /CREATE TABLE nexmark_100 WITH \(connector = 'nexmark', event_rate = '100'\)/);
    await page.click("button:has-text('Create source')");
    await page.waitForSelector("h1:has-text('nexmark_100')");
  });

  await step("a sample of its rows is read", async () => {
    await page.click("button:has-text('Read rows')");
    const found = await rows(page, 10);
    assert.deepEqual(Object.keys(found[0]), ["person", "auction", "bid", "date_time"]);
    assert.ok(found.some(({ bid }) => bid.startsWith('{"auction":')), JSON.stringify(found[0]));
    await page.waitForSelector("button:has-text('Read again')");
  });

  await step("what is wrong with a source is said beside its form", async () => {
    await page.click("nav >> text=Sources");
    await page.click("text=Create source");
    await page.click(".choose button:has-text('Nexmark')");
    await page.fill("label:has-text('Events per second') input", "many");
    await page.fill("label:has-text('Name') input", "wrong");
    await page.click("button:has-text('Create source')");
    await page.waitForSelector(".form [role=alert]:has-text('event_rate')");
    await page.fill("label:has-text('Events per second') input", "100");
    await page.fill("label:has-text('Name') input", "nexmark_100");
    await page.click("button:has-text('Create source')");
    await page.waitForSelector(".form [role=alert]:has-text('exists')");
  });

  await step("a filter is previewed: each bid is a row", async () => {
    await page.click("nav >> text=Pipelines");
    await page.click("text=Create pipeline");
    await page.waitForSelector(".sidebar .name:has-text('nexmark_100')");
    await preview(page, BIDS);
    for (const { bid } of await rows(page, 20)) assert.match(bid, /^\{"auction":\d+,"bidder":\d+,"price":\d+/);
    await stopPreview(page);
  });

  await step("a sliding window is previewed: a mean every two seconds", async () => {
    await preview(page, MEAN);
    for (const { avg_price } of await rows(page, 2)) assert.match(avg_price, /^\d+(\.\d+)?$/);
    await accessible(page, "preview");
    await page.click("#tab-graph");
    await page.waitForSelector(".plan .step:has-text('nexmark_100')");
    await accessible(page, "graph of the preview");
    await page.click("#tab-rows");
    await stopPreview(page);
  });

  await step("a script is checked as one types, and what is wrong is marked at its place", async () => {
    await write(page, "SELECT bid.price,\n  bidd\nFROM nexmark_100;");
    await page.waitForSelector(".check-note.fault:has-text('did you mean `bid`')");
    assert.equal(await page.textContent(".cm-lintRange-error"), "bidd");
    assert.ok(await page.isDisabled("button:has-text('Start pipeline')"));
    await write(page, "SELECT bid\nFROM (SELECT * FROM nexmark_100");
    await page.waitForSelector(".check-note.fault:has-text('Line: 2')");
    await accessible(page, "wrong script");
  });

  await step("the five auctions with the most bids are previewed", async () => {
    await preview(page, TOP);
    const windows = new Map();
    for (const row of await rows(page, 5)) windows.set(row.window, [...(windows.get(row.window) ?? []), row]);
    for (const found of windows.values()) {
      const [first] = found;
      found.forEach(({ row_num, count }, at) => {
        assert.equal(Number(row_num), Number(first.row_num) + at);
        assert.ok(Number(row_num) <= 5 && (at === 0 || Number(count) <= Number(found[at - 1].count)), JSON.stringify(found));
      });
    }
    await stopPreview(page);
  });

  await step("the pipeline is started with a name and workers", async () => {
    await page.click("button:has-text('Start pipeline')");
    await page.waitForSelector("dialog[open]");
    await accessible(page, "start");
    await page.fill("dialog label:has-text('Name') input", "top_auctions");
    await page.fill("dialog label:has-text('Workers') input", "2");
    await page.click("dialog button:has-text('Start')");
    await page.waitForSelector("h1:has-text('top_auctions')");
    await state(page, "running");
  });

  await step("the nodes of its graph show their rates", async () => {
    await page.waitForSelector(".edge-rows:has-text('rows/s')");
    for (const [name, metrics] of [["nexmark_100", ["Rows out", "Back-pressure"]], ["Stateful", ["Rows in", "Rows out"]], ["Outputs", ["Rows in"]]]) {
      await page.click(`.plan .step:has-text('${name}')`);
      await page.waitForSelector(`.about h3:has-text('${name}')`);
      for (const metric of metrics) await page.waitForSelector(`.spark:has-text('${metric}')`);
    }
    await page.click(".plan .step:has-text('Stateful')");
    await page.waitForSelector(".about li:has-text('of state')");
  });

  await step("its rows are followed, paused and followed again", async () => {
    await page.click("#tab-rows");
    const found = await rows(page, 5);
    assert.deepEqual(Object.keys(found[0]), ["count", "auction", "window", "row_num"]);
    await page.click("button:has-text('Pause')");
    const total = async () => Number.parseInt(await page.textContent(".bar.tail b"), 10);
    const before = await total();
    await page.click("button:has-text('Go on')");
    await page.waitForFunction((before) => Number.parseInt(document.querySelector(".bar.tail b").textContent, 10) > before, before);
    // Each window has its five rows once: none was lost or repeated over the pause.
    await page.click("button:has-text('Pause')");
    const windows = new Map();
    for (const { window, row_num } of await rows(page, 5)) windows.set(window, [...(windows.get(window) ?? []), row_num]);
    for (const numbers of windows.values()) assert.equal(new Set(numbers).size, numbers.length);
  });

  await step("it is rescaled while it runs", async () => {
    await page.click("text=Rescale …");
    await page.fill(".confirm label:has-text('Workers') input", "3");
    await page.click("button:has-text('Apply')");
    await page.waitForSelector(".numbers div:has(dt:text-is('workers')) dd:text-is('3')");
    await state(page, "running");
    await page.click("#tab-messages");
    await page.waitForSelector(".messages:has-text('3 workers')");
  });

  await step("it is stopped with a checkpoint and goes on behind it", async () => {
    await page.click(".split button:has-text('Stop')");
    await state(page, "stopped");
    const last = await newest(page);
    await page.waitForSelector(".epochs tbody tr:first-child .chip:has-text('stop')");
    await page.click(".actions button:has-text('Start')");
    await state(page, "running");
    await page.waitForFunction((last) => Number.parseInt(document.querySelector(".epochs tbody td")?.textContent.replaceAll(",", ""), 10) > last, last);
  });

  await step("it is stopped at once, by the menu of ways, and restarted", async () => {
    await page.click("[aria-label='Ways to stop']");
    await accessible(page, "ways to stop");
    await page.keyboard.press("Escape");
    await page.waitForSelector(".ways", { state: "detached" });
    await page.click("[aria-label='Ways to stop']");
    await page.click(".ways button:has-text('Immediate')");
    await state(page, "stopped");
    await page.click(".actions button:has-text('Restart')");
    await state(page, "running");
  });

  await step("the list has its state and its rates", async () => {
    await page.click("nav >> text=Pipelines");
    await page.waitForSelector(".flows li:has-text('top_auctions') .chip:has-text('running')");
    await page.waitForSelector(".flows li:has-text('rows/s in')");
    await page.waitForSelector(".flows li:has-text('behind')");
  });

  await step("rows that programs send are a source, and go into a file once", async () => {
    await page.click("nav >> text=Sources");
    await page.click("text=Create source");
    await page.click(".choose button:has-text('Streams')");
    await page.fill("label:has-text('Columns') textarea", "user_id BIGINT NOT NULL\npage TEXT\nts TIMESTAMP");
    await page.fill("label:has-text('Event time') input", "ts");
    await page.fill("label:has-text('Name') >> nth=-1 >> input", "clicks");
    await page.click("button:has-text('Create source')");
    await page.waitForSelector("h1:has-text('clicks')");
    assert.match(await page.textContent("pre.sql:has-text('curl')"), /\/v1\/streams\/clicks -d '\{"user_id":1,"page":"a","ts":"2026-/);
    await page.evaluate(async (key) => {
      const body = Array.from({ length: 30 }, (_, at) => JSON.stringify({ user_id: at, page: `/${at % 3}`, ts: `2026-01-01T00:00:${String(at).padStart(2, "0")}` })).join("\n");
      const response = await fetch("../v1/streams/clicks", { method: "POST", headers: { Authorization: `Bearer ${key}` }, body });
      if (!response.ok) throw new Error(await response.text());
    }, KEY);
    await page.click("button:has-text('Read rows')");
    assert.deepEqual((await rows(page, 3)).slice(0, 2), [
      { user_id: "0", page: "/0", ts: "2026-01-01T00:00:00" },
      { user_id: "1", page: "/1", ts: "2026-01-01T00:00:01" },
    ]);
    await page.click("button:has-text('Query it')");
    await write(page, "SELECT user_id FROM clicks WHERE page = '/1'");
    await ready(page);
    await page.click("button:has-text('Start pipeline')");
    await page.fill("dialog label:has-text('Name') input", "ones");
    await page.selectOption("dialog select", "single_file");
    await page.fill("dialog label:has-text('Path') input", join(folder, "ones.json"));
    await page.click("dialog button:has-text('Start')");
    await page.waitForSelector("h1:has-text('ones')");
    await page.waitForSelector(".plan .step:has-text('ones_rows')");
    await page.click("#tab-epochs");
    await page.waitForFunction(() => [...document.querySelectorAll(".epochs tbody tr")].some((row) => row.children[3].textContent === "30"));
    await page.click(".split button:has-text('Stop')");
    await state(page, "stopped");
    const lines = readFileSync(join(folder, "ones.json"), "utf8").trim().split("\n");
    assert.deepEqual(lines.map((line) => JSON.parse(line).user_id), [1, 4, 7, 10, 13, 16, 19, 22, 25, 28]);
  });

  await step("a pipeline is deleted after a question", async () => {
    await page.click("text=Delete …");
    await page.waitForSelector("[aria-label='Delete the pipeline']");
    await page.click("button:has-text('Keep')");
    assert.equal(await page.locator("[aria-label='Delete the pipeline']").count(), 0);
    await page.click("text=Delete …");
    await page.click("[aria-label='Delete the pipeline'] button:has-text('Delete')");
    await page.waitForSelector("h1:has-text('Pipelines')");
    await page.waitForSelector(".flows li:has-text('top_auctions')");
    assert.equal(await page.locator(".flows li:has-text('ones')").count(), 0);
  });

  await step("a statement that fails shows its error on the page of its pipeline", async () => {
    await page.click("text=Create pipeline");
    await page.waitForSelector(".cm-content");
    await write(page, "CREATE TABLE impulse WITH (connector = 'impulse', events = '5');\nSELECT 10 / (counter - counter) AS x FROM impulse;");
    await ready(page);
    await page.click("button:has-text('Start pipeline')");
    await page.fill("dialog label:has-text('Name') input", "fails");
    await page.click("dialog button:has-text('Start')");
    await page.waitForSelector("h1:has-text('fails')");
    await state(page, "failed");
    await page.waitForSelector(".flow-page > [role=alert]:has-text('zero')");
    await accessible(page, "a pipeline that has failed");
  });

  await step("no script failed, nothing was loaded from elsewhere, no policy was violated", async () => {
    assert.deepEqual(problems, []);
  });
  await context.close();
}

/** Runs axe on each page, with the pipelines of the tutorial. */
async function everyPage(browser, url, name, settings) {
  await step(`every page of continuous queries is accessible ${name}`, async () => {
    const { context, page, problems } = await opened(browser, url, settings);
    await page.goto(`${url}/console/#key=${KEY}`);
    await page.waitForSelector(".cm-content");
    const check = async (place) => {
      await accessible(page, `${place} ${name}`);
      await fits(page, `${place} ${name}`);
    };
    for (const [path, wanted] of [
      ["sources", ".tiles"],
      ["sources/nexmark_100", "pre.sql"],
      ["sources/+", ".choose"],
      ["pipelines", ".flows li"],
      ["pipelines/+", ".cm-content"],
      ["pipelines/top_auctions", ".spark"],
    ]) {
      await page.evaluate((path) => (location.hash = `#/${path}`), path);
      await page.waitForSelector(wanted);
      await check(path);
      if (path === "sources/+") {
        await page.click(".choose button:has-text('Files')");
        await page.fill("label:has-text('Columns') textarea", "a BIGINT");
        await check("form of a source");
      }
    }
    for (const [tab, wanted] of [["rows", ".grid .line"], ["epochs", ".epochs"], ["messages", ".messages li"], ["script", "pre.script"]]) {
      await page.click(`#tab-${tab}`);
      await page.waitForSelector(wanted);
      await check(tab);
    }
    await page.click("text=Rescale …");
    await check("rescale");
    assert.deepEqual(problems, []);
    await context.close();
  });
}

const work = async (browser, url) => {
  await tutorial(browser, url);
  const desk = { width: 1280, height: 820 };
  await everyPage(browser, url, "in light colours", { viewport: desk, colorScheme: "light" });
  await everyPage(browser, url, "in dark colours", { viewport: desk, colorScheme: "dark" });
  await everyPage(browser, url, "on a phone", { viewport: { width: 390, height: 844 }, hasTouch: true });
};
try {
  await walked(work, ["--state", join(folder, "state"), "--streams", join(folder, "streams")]);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
