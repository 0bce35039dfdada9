// Walks through the console in Chromium as a person does: node test/walk.mjs. `make test-console` runs it.
//
// Starts `buzz serve` (BUZZ, by default `buzz`) on the sample table SAMPLE, or uses the server at CONSOLE_URL with CONSOLE_KEY.
// Chromium is CHROMIUM, or found in PATH; without it the walk is skipped.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { accessible, fits, KEY, opened, step, walked, write } from "./common.mjs";

// A query of which each row is joined with each other.
const LONG =
  "SELECT SUM(sqrt(a.fare_amount * b.fare_amount)) AS s FROM trips a, trips b WHERE a.trip_distance + b.trip_distance > 1";

async function run(page, sql) {
  await write(page, sql);
  const before = await page.evaluate(() => document.querySelector(".answer").dataset.query);
  await page.keyboard.press("Control+Enter");
  await page.waitForFunction((before) => {
    const { query } = document.querySelector(".answer").dataset;
    return query && query !== before;
  }, before);
}

async function walk(browser, url) {
  const { context, page, problems } = await opened(browser, url, { viewport: { width: 1280, height: 820 } });

  await step("the key is requested, a wrong one is refused, the right one opens the pages", async () => {
    await page.goto(`${url}/`);
    await page.waitForURL(/\/console\/$/);
    await accessible(page, "login");
    await page.fill("input[type=password]", "a-key-that-is-wrong");
    await page.keyboard.press("Enter");
    await page.waitForSelector("[role=alert]");
    await page.fill("input[type=password]", KEY);
    await page.keyboard.press("Enter");
    await page.waitForSelector(".cm-content");
    assert.ok(!page.url().includes(KEY));
  });

  await step("a key in the link is taken out of the address", async () => {
    await page.evaluate(() => sessionStorage.clear());
    await page.goto("about:blank");
    await page.goto(`${url}/console/#key=${KEY}`);
    await page.waitForSelector(".sidebar .column");
    assert.ok(!page.url().includes(KEY), page.url());
  });

  await step("names of columns are completed", async () => {
    await write(page, "SELECT paym");
    await page.keyboard.press("Control+Space");
    await page.waitForSelector(".cm-tooltip-autocomplete >> text=payment_type");
    // The editor takes no key for a moment, so that a word that was about to be typed is not replaced.
    await page.waitForTimeout(200);
    await page.keyboard.press("Enter");
    assert.match(await page.textContent(".cm-line"), /SELECT payment_type/);
  });

  await step("a query is answered with the rows of the table", async () => {
    await run(page, "SELECT payment_type, COUNT(*) AS rides FROM trips GROUP BY payment_type ORDER BY rides DESC, 1");
    const response = await page.evaluate(async (key) => {
      const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
      const sql = "SELECT payment_type, COUNT(*) AS rides FROM trips GROUP BY payment_type ORDER BY rides DESC, 1";
      return (await fetch("../v1/query", { method: "POST", headers, body: JSON.stringify({ sql }) })).json();
    }, KEY);
    const shown = await page.$$eval(".line", (lines) => lines.map((line) => [...line.querySelectorAll(".cell")].map((cell) => cell.textContent)));
    assert.deepEqual(shown, response.map((row) => [row.payment_type, String(row.rides)]));
    assert.ok(shown.length > 1);
  });

  await step("a chart is drawn", async () => {
    await page.click("#tab-chart");
    await page.waitForSelector(".uplot canvas");
    await page.waitForTimeout(200);
    const colours = await page.$eval(".uplot canvas", (canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const found = new Map();
      for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] === 255) {
          const colour = `${data[at]},${data[at + 1]},${data[at + 2]}`;
          found.set(colour, (found.get(colour) ?? 0) + 1);
        }
      }
      return Math.max(0, ...found.values());
    });
    assert.ok(colours > 1000, `only ${colours} pixels have one colour`);
    await accessible(page, "chart");
  });

  await step("the answer is downloaded as CSV, JSON, Arrow and Parquet", async () => {
    const starts = { CSV: "payment_type,rides\n", JSON: "[{", Arrow: "ARROW1", Parquet: "PAR1" };
    for (const [name, start] of Object.entries(starts)) {
      const waiting = page.waitForEvent("download");
      await page.click(`.saves button:has-text("${name}")`);
      const download = await waiting;
      assert.match(download.suggestedFilename(), new RegExp(`\\.${name.toLowerCase()}$`));
      assert.ok(readFileSync(await download.path(), "latin1").startsWith(start), name);
      await page.waitForSelector(".saves button:not(:disabled)");
    }
  });

  await step("the last of more than 100,000 rows is reached, and few are in the page", async () => {
    await run(page, "SELECT value AS n, value * 2 AS twice FROM generate_series(1, 150000) ORDER BY value");
    await page.click("#tab-rows");
    await page.focus(".grid .rows");
    await page.keyboard.press("Control+End");
    await page.waitForFunction(() => document.querySelector(".inspect code").textContent === "150000");
    const last = await page.$$eval(".line", (lines) => [lines.length, lines.at(-1).textContent]);
    assert.equal(last[1], "150,000150000300000");
    assert.ok(last[0] < 200, `${last[0]} rows are in the page`);
    await page.$eval(".grid .rows", (view) => (view.scrollTop = view.scrollHeight / 2));
    await page.waitForFunction(() => !document.querySelector(".cell.wait") && document.querySelector(".line .number").textContent.startsWith("7"));
    const rows = await page.$$eval(".line", (lines) => lines.map((line) => [...line.children].map((cell) => cell.textContent.replaceAll(",", ""))));
    for (const [number, n, twice] of rows) assert.deepEqual([n, twice], [number, String(2 * Number(number))]);
  });

  await step("values are shown exactly", async () => {
    await run(
      page,
      "SELECT 9007199254740993 AS big, CAST('123456789012345678901234567.89' AS DECIMAL(38, 2)) AS price, " +
        "TIMESTAMP '2024-02-29 23:59:59.123456' AS at, DATE '0001-01-01' AS day, CAST(0.1 AS REAL) AS small, NULL AS nothing, " +
        "[1, NULL] AS list, named_struct('a', 'x') AS pair, X'00ff' AS raw, true AS yes, " +
        "INTERVAL '2600 hours' AS long, INTERVAL '-3 months 2 days' AS ago",
    );
    const cells = await page.$$eval(".line .cell", (found) => found.map((cell) => cell.textContent));
    assert.deepEqual(cells, [
      "9007199254740993", "123456789012345678901234567.89", "2024-02-29 23:59:59.123456", "0001-01-01", "0.1", "NULL",
      "[1, null]", '{a: "x"}', "0x00ff", "true",
      "0 months 0 days 9360000000000000 ns", "-3 months 2 days 0 ns",
    ]);
  });

  await step("of several statements, the one at the cursor is run, and a selection before it", async () => {
    const shown = () => page.textContent(".line .cell");
    await run(page, "SELECT 'first' AS a;\nSELECT 'second' AS a;");
    assert.equal(await shown(), "second");
    const again = async (keys) => {
      const before = await page.evaluate(() => document.querySelector(".answer").dataset.query);
      for (const key of keys) await page.keyboard.press(key);
      await page.waitForFunction((before) => ![undefined, before].includes(document.querySelector(".answer").dataset.query), before);
    };
    await again(["ControlOrMeta+Home", "Control+Enter"]);
    assert.equal(await shown(), "first");
    await write(page, "SELECT 'third' AS a, 'more");
    await again(["Home", ...Array(19).fill("Shift+ArrowRight"), "Control+Enter"]);
    assert.equal(await shown(), "third");
  });

  await step("a wrong name is marked at its place", async () => {
    await run(page, "SELECT payment_type,\n  paymnt_type FROM trips");
    assert.match(await page.textContent(".answer [role=alert]"), /did you mean `payment_type`/);
    assert.equal(await page.textContent(".cm-lintRange-error"), "paymnt_type");
  });

  await step("a long query shows its progress and is cancelled", async () => {
    await write(page, LONG);
    await page.keyboard.press("Control+Enter");
    await page.waitForSelector(".running [role=progressbar]");
    await page.waitForFunction(() => /Reading|Combining|Planning/.test(document.querySelector(".phase").textContent));
    await accessible(page, "running");
    await page.click("button.stop");
    await page.waitForSelector(".calm");
    await page.waitForFunction(async (key) => {
      const response = await fetch("../metrics", { headers: { Authorization: `Bearer ${key}` } });
      return (await response.text()).includes("buzz_queries_running 0\n");
    }, KEY);
  });

  await step("the text stays when the page is loaded again", async () => {
    await page.reload();
    await page.waitForSelector(".cm-content");
    assert.match(await page.textContent(".cm-content"), /sqrt\(a\.fare_amount/);
  });

  await step("the history leads to a query with its tasks and its plan", async () => {
    await page.click("nav >> text=History");
    await page.waitForSelector(".cards .chip:has-text('cancelled')");
    await page.fill("input[type=search]", "GROUP BY payment_type");
    await page.click(".cards > li.succeeded a.open >> nth=0");
    await page.waitForSelector(".stage .lanes rect");
    await page.waitForSelector(".plan .step:has-text('trips')");
    assert.match(await page.textContent(".stage dl"), /median/);
    await page.click(".plan .step.map");
    assert.match(await page.textContent(".about"), /files: /);
    await page.click("text=Open in the editor");
    assert.match(await page.textContent(".cm-content"), /GROUP BY payment_type/);
  });

  await step("a table shows its columns, rows and files", async () => {
    await page.click("nav >> text=Tables");
    await page.click(".tiles a:has-text('trips')");
    await page.waitForSelector("td:has-text('pickup_at')");
    await page.click("#tab-rows");
    await page.waitForSelector(".sample .line");
    await page.click("#tab-files");
    await page.waitForSelector("td:has-text('.parquet')");
    await page.waitForSelector("h2:has-text('Partitions')");
  });

  await step("a table is added by its place", async () => {
    await page.click("nav >> text=Tables");
    await page.click("text=Add a table");
    await page.fill("label:has-text('Name') input", "Walk again");
    await page.fill("label:has-text('Place') input", "/nowhere/at/all.parquet");
    await page.click("button:has-text('Add')");
    await page.waitForSelector(".form [role=alert]");
    await page.fill("label:has-text('Place') input", process.env.SAMPLE);
    await page.click("button:has-text('Add')");
    await page.waitForSelector("h1:has-text('Walk again')");
    await page.waitForSelector("td:has-text('pickup_at')");
  });

  await step("a statement is saved as a view and read by its name", async () => {
    await page.keyboard.press("Alt+1");
    await write(page, `SELECT payment_type AS kind FROM "Walk again" WHERE payment_type = 'CASH';`);
    await page.click("text=Save as view");
    await page.waitForFunction(() => document.activeElement.matches(".view input"));
    await page.keyboard.type("walk_cash");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".view [role=status], .view [role=alert]");
    assert.match(await page.textContent(".view"), /can be read now/);
    await run(page, "SELECT DISTINCT kind FROM walk_cash");
    assert.equal(await page.textContent(".line .cell"), "CASH");
    await run(page, "DROP VIEW walk_cash");
    await page.waitForFunction(() => !document.querySelector(".sidebar").textContent.includes("walk_cash"));
  });

  await step("the name of a table is removed", async () => {
    await page.click("nav >> text=Tables");
    await page.click(".tiles a:has-text('Walk again')");
    await page.click("text=Remove …");
    await page.click("button:has-text('Remove'):not(:has-text('…'))");
    await page.waitForSelector("h1:has-text('Tables')");
    await page.waitForFunction(() => !document.querySelector(".tiles")?.textContent.includes("Walk again"));
  });

  await step("a server without streams and pipelines says how to start it with them", async () => {
    for (const name of ["Sources", "Pipelines"]) {
      await page.click(`nav >> text=${name}`);
      await page.waitForSelector(".blank:has-text('buzz serve --state')");
      assert.equal(await page.locator("text=Create").count(), 0);
    }
  });

  await step("the pages are reached by keyboard", async () => {
    await page.keyboard.press("Alt+2");
    await page.waitForSelector("h1:has-text('History')");
    await page.keyboard.press("Alt+1");
    await page.waitForSelector(".cm-content");
    await page.keyboard.press("Alt+3");
    await page.waitForSelector("h1:has-text('Tables')");
    await page.keyboard.press("Alt+4");
    await page.waitForSelector("h1:has-text('Sources')");
    await page.keyboard.press("Alt+5");
    await page.waitForSelector("h1:has-text('Pipelines')");
    await page.keyboard.press("?");
    await page.waitForSelector("dialog[open]");
    await accessible(page, "shortcuts");
    await page.keyboard.press("Escape");
  });

  const forgotten = async () => {
    await page.fill("input[type=password]", KEY);
    await page.keyboard.press("Enter");
    await page.waitForSelector(".sidebar .name");
    assert.ok(!(await page.textContent(".cm-content")).includes("mine"));
    assert.equal(await page.locator(".line").count(), 0);
  };

  await step("a forgotten key takes the statement and the rows with it", async () => {
    await page.keyboard.press("Alt+1");
    await run(page, "SELECT 'mine' AS a");
    await Promise.all([page.waitForEvent("load"), page.click("[aria-label='Forget the key']")]);
    await forgotten();
  });

  await step("another key than the one before shows nothing of it", async () => {
    await run(page, "SELECT 'mine' AS a");
    const refuse = (route) => route.fulfill({ status: 401, body: "{}" });
    await page.route("**/v1/queries", refuse);
    await page.click("nav >> text=History");
    await page.fill("input[type=password]", "a-key-that-is-wrong");
    await page.unroute("**/v1/queries", refuse);
    await Promise.all([page.waitForEvent("load"), page.keyboard.press("Enter")]);
    await page.waitForSelector("[role=alert]");
    await forgotten();
  });

  await step("no script failed, nothing was loaded from elsewhere, no policy was violated", async () => {
    assert.deepEqual(problems, []);
  });
  await context.close();
}

/** Runs axe on each page. */
async function everyPage(browser, url, name, settings) {
  await step(`every page is accessible ${name}`, async () => {
    const { context, page, problems } = await opened(browser, url, settings);
    await page.goto(`${url}/console/#key=${KEY}`);
    await page.waitForSelector(".cm-content");
    await accessible(page, `ask ${name}`);
    await run(page, "SELECT payment_type, passenger_count, COUNT(*) AS rides FROM trips GROUP BY 1, 2 ORDER BY 1, 2");
    await page.waitForSelector(".line");
    for (const [path, ready] of [
      ["", ".line"],
      ["history", ".cards"],
      ["tables", ".tiles"],
      ["tables/trips", "table.list"],
      ["tables/+", ".form"],
      ["sources", ".blank"],
      ["pipelines", ".blank"],
    ]) {
      if (path) await page.evaluate((path) => (location.hash = `#/${path}`), path);
      await page.waitForSelector(ready);
      await accessible(page, `${path} ${name}`);
      await fits(page, `${path} ${name}`);
    }
    await page.evaluate(() => (location.hash = "#/history"));
    await page.click(".cards > li.succeeded a.open >> nth=0");
    await page.waitForSelector(".plan .step");
    await accessible(page, `query ${name}`);
    await fits(page, `query ${name}`);
    await page.evaluate(() => (location.hash = "#/tables/trips"));
    await page.click("#tab-files");
    await page.waitForSelector("table.files");
    await accessible(page, `files ${name}`);
    await fits(page, `files ${name}`);
    assert.deepEqual(problems, []);
    await context.close();
  });
}

await walked(async (browser, url) => {
  await walk(browser, url);
  const desk = { width: 1280, height: 820 };
  await everyPage(browser, url, "in light colours", { viewport: desk, colorScheme: "light" });
  await everyPage(browser, url, "in dark colours", { viewport: desk, colorScheme: "dark" });
  await everyPage(browser, url, "on a phone", { viewport: { width: 390, height: 844 }, hasTouch: true });
});
