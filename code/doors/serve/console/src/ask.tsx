// The page of questions: the editor, the query that runs, its rows and a chart of them.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, EXPIRED, Failure, type Estimate, type Table, type Work } from "./api";
import { Chart } from "./chart";
import { Editor } from "./editor";
import { bytes, count, counted, dollars, milliseconds, quoted, range, seconds } from "./format";
import { Grid } from "./grid";
import { FORMATS, save } from "./save";
import { ask, cancel, canChange, readTables, run, setSql, sqlText, tables, tablesFault, tablesRead, type Run } from "./state";
import { Tabs } from "./tabs";

const editor: { current: Editor | null } = { current: null };

export function Ask() {
  const host = useRef<HTMLDivElement>(null);
  const now = run.value;
  const busy = Boolean(now && !now.ended);

  const start = () => {
    const at = editor.current?.statement();
    if (at?.sql.trim()) void ask(at.sql, at.from);
  };

  useEffect(() => {
    const made = new Editor(host.current!, sqlText.value, { change: setSql, run: start });
    editor.current = made;
    made.know(tables.value);
    if (matchMedia("(min-width: 760px)").matches) made.focus();
    return () => {
      made.destroy();
      editor.current = null;
    };
  }, []);
  useEffect(() => editor.current?.know(tables.value), [tables.value]);
  useEffect(() => editor.current?.mark(now?.fault ?? "", now?.from ?? 0), [now?.fault]);
  useEffect(() => {
    const stop = (event: KeyboardEvent) => {
      if (event.key === "Escape" && run.value && !run.value.ended && !event.defaultPrevented) void cancel();
    };
    addEventListener("keydown", stop);
    return () => removeEventListener("keydown", stop);
  }, []);

  return (
    <div class="ask">
      <Sidebar />
      <div class="desk">
        <section class="editor" aria-label="Statement">
          <div class="code" ref={host} />
          <div class="bar">
            {busy ? (
              <button class="stop" onClick={() => void cancel()}>Cancel <kbd>Esc</kbd></button>
            ) : (
              <button class="primary" onClick={start} disabled={!sqlText.value.trim()}>Run <kbd>{META} ↵</kbd></button>
            )}
            <Price sql={sqlText.value} />
            <SaveView />
          </div>
        </section>
        <Answer now={now} />
      </div>
    </div>
  );
}

const META = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";

/** The tables and their columns. A click inserts a name. */
function Sidebar() {
  const [filter, setFilter] = useState("");
  const wide = matchMedia("(min-width: 760px)").matches;
  const found = tables.value.filter((table) => {
    const word = filter.toLowerCase();
    return table.name.toLowerCase().includes(word) || table.columns?.some((column) => column.name.toLowerCase().includes(word));
  });
  return (
    <details class="sidebar" open={wide}>
      <summary>Tables</summary>
      <div class="inside">
        {tables.value.length > 6 && (
          <input type="search" placeholder="Find a table or column" aria-label="Find a table or column" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
        )}
        {tablesFault.value && <p class="fault">{tablesFault.value}</p>}
        {tablesRead.value && tables.value.length === 0 && (
          <p class="empty">No tables yet. <a href="#/tables/+">Add one</a>, and ask for it by name.</p>
        )}
        <ul>
          {found.slice(0, 200).map((table) => (
            <Named key={table.name} table={table} first={found.length === 1} />
          ))}
        </ul>
      </div>
    </details>
  );
}

/** A table in the list. Its columns are in the page once it is open. */
function Named({ table, first }: { table: Table; first: boolean }) {
  const [open, setOpen] = useState(first);
  return (
    <li>
      <details open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>
          <span class="name">{table.name}</span>
          {table.error ? <span class="chip bad">error</span> : <small>{table.view ? "view" : (table.type ?? "")}</small>}
        </summary>
        {open && (
          <>
            {table.error && <p class="fault">{table.error.message}</p>}
            <div class="do">
              <button class="plain" onClick={() => editor.current?.insert(quoted(table.name))}>Insert name</button>
              <a href={`#/tables/${encodeURIComponent(table.name)}`}>Open</a>
            </div>
            <ul class="columns">
              {table.columns?.map((column) => (
                <li key={column.name}>
                  <button class="column" title={`Insert ${column.name}`} onClick={() => editor.current?.insert(quoted(column.name))}>
                    <span>{column.name}</span>
                    <small>{column.type}</small>
                  </button>
                </li>
              ))}
            </ul>
          </>
        )}
      </details>
    </li>
  );
}

/** Gives the statement a name, under which it is read like a table. */
function SaveView() {
  const [name, setName] = useState<string | null>(null);
  const [note, setNote] = useState("");
  const [fault, setFault] = useState("");
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.focus(), [name === null]);
  const can = canChange.value && /^\s*(select|with|\(|--|\/\*)/i.test(sqlText.value);
  if (name === null) {
    return (
      <span class="view">
        {note && <span role="status">{note}</span>}
        {can && <button class="small" onClick={() => { setName(""); setNote(""); }}>Save as view …</button>}
      </span>
    );
  }
  const saveView = async (event: Event) => {
    event.preventDefault();
    try {
      await api.query(`CREATE VIEW ${quoted(name)} AS ${editor.current?.statement().sql.trim().replace(/;\s*$/, "")}`);
      setName(null);
      setFault("");
      setNote(`View ${name} can be read now.`);
      await readTables();
    } catch (error) {
      setFault((error as Error).message);
    }
  };
  return (
    <form class="view" onSubmit={(event) => void saveView(event)}>
      {fault && <span class="fault" role="alert">{fault}</span>}
      <input
        aria-label="Name of the view"
        placeholder="name of the view"
        autocomplete="off"
        spellcheck={false}
        value={name}
        ref={input}
        onInput={(event) => setName(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          event.preventDefault();
          setName(null);
          setFault("");
        }}
      />
      <button class="small" disabled={!name.trim()}>Save</button>
    </form>
  );
}

/** False once the server has answered that it makes no estimates. */
let estimates = true;

/** What the statement would read and cost. Empty if that is not known. */
function Price({ sql }: { sql: string }) {
  const [known, setKnown] = useState<Estimate | null>(null);
  useEffect(() => {
    setKnown(null);
    if (!estimates || !/^\s*(select|with|--|\/\*|\()/i.test(sql)) return;
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      try {
        setKnown(await api.estimate(editor.current?.statement().sql ?? sql, stop.signal));
      } catch (error) {
        if (error instanceof Failure && (error.status === 404 || error.status === 405)) estimates = false;
      }
    }, 700);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [sql, tables.value]);
  if (!known) return <span class="price" role="status" />;
  const parts = [
    known.bytes !== undefined && `reads ${bytes(known.bytes)}`,
    Boolean(known.requests) && counted(known.requests!, "request"),
    known.tasks !== undefined && counted(known.tasks, "task"),
    known.seconds && range(known.seconds, seconds),
    known.dollars && known.dollars.high > 0 && range(known.dollars, dollars),
  ];
  return (
    <span class="price facts" role="status">
      <b class="unseen">Estimate: </b>
      {parts.filter(Boolean).map((part) => <span>{part}</span>)}
    </span>
  );
}

/** Returns statements about the first table that can be read, for a start. */
function examples(known: Table[]): { name: string; sql: string }[] {
  const table = known.find((one) => one.columns?.length);
  if (!table) return [];
  const from = quoted(table.name);
  const column = (type: RegExp) => table.columns!.find((one) => type.test(one.type))?.name;
  const [text, number] = [column(/^(Large)?Utf8|^Dictionary/), column(/^(Float|Int(32|64)|Decimal)/)];
  const day = table.partition_columns?.find((name) => table.columns!.some((one) => one.name === name && one.type === "Date32")) ?? column(/^Date32/);
  const found = [{ name: `Rows of ${table.name}`, sql: `SELECT *\nFROM ${from}\nLIMIT 100` }];
  if (text) {
    const mean = number ? `, avg(${quoted(number)}) AS mean` : "";
    found.push({ name: `By ${text}`, sql: `SELECT ${quoted(text)}, COUNT(*) AS n${mean}\nFROM ${from}\nGROUP BY ${quoted(text)}\nORDER BY n DESC\nLIMIT 20` });
  }
  if (day) found.push({ name: `By ${day}`, sql: `SELECT ${quoted(day)}, COUNT(*) AS n\nFROM ${from}\nGROUP BY ${quoted(day)}\nORDER BY ${quoted(day)}` });
  return found;
}

/** What the kinds of errors mean. */
const KINDS: Record<string, string> = {
  Invalid: "The statement is wrong",
  Data: "A table cannot be read",
  Unavailable: "Something did not respond",
  Limit: "A limit was reached",
  Cancelled: "Cancelled",
  Internal: "A fault in Buzz",
};

type Tab = "rows" | "chart";

function Answer({ now }: { now: Run | null }) {
  const [tab, setTab] = useState<Tab>("rows");
  const [saving, setSaving] = useState("");
  const [fault, setFault] = useState("");
  useEffect(() => setFault(""), [now?.id]);
  if (!now) {
    return (
      <section class="answer idle" aria-label="Answer">
        <div class="begin">
          <p class="empty">
            Write a statement and run it with <kbd>{META}</kbd> <kbd>↵</kbd>. Names of tables and columns are completed as you type.
          </p>
          <div class="examples">
            {examples(tables.value).map(({ name, sql }) => (
              <button onClick={() => { editor.current?.set(sql); editor.current?.focus(); }}>
                <b>{name}</b>
                <code>{sql.replace(/\s+/g, " ")}</code>
              </button>
            ))}
          </div>
        </div>
      </section>
    );
  }
  const { work, rows } = now;
  if (now.cancelled) {
    return (
      <section class="answer" aria-label="Answer">
        <p class="calm" role="status"><strong>Cancelled</strong> {now.id && <a href={`#/query/${now.id}`}>See its work</a>}</p>
      </section>
    );
  }
  if (now.fault) {
    return (
      <section class="answer" aria-label="Answer" data-query={now.id}>
        <div class="fault big" role="alert">
          <strong>{work?.error?.kind ? KINDS[work.error.kind] ?? work.error.kind : "Not answered"}</strong>
          <p>{now.fault}</p>
          {now.id && <a href={`#/query/${now.id}`}>See its work</a>}
        </div>
      </section>
    );
  }
  if (!now.ended || !rows) return <Running now={now} />;
  const download = async (format: string) => {
    setSaving(format);
    setFault("");
    try {
      await save(now.id, format);
    } catch (error) {
      setFault(error instanceof Failure && error.status === 404 ? EXPIRED : (error as Error).message);
    }
    setSaving("");
  };
  const summary = work?.summary;
  return (
    <section class="answer" aria-label="Answer" data-query={now.id}>
      <div class="bar top">
        <Tabs label="View of the answer" panel="view" names={[["rows", "Rows"], ["chart", "Chart"]]} now={tab} choose={setTab} />
        <p class="facts" role="status">
          <b>{counted(rows.count, "row")}</b>
          {summary && (
            <>
              <span>{seconds(summary.seconds)}</span>
              <span>{bytes(summary.bytes_read)} read</span>
              {summary.cost_usd !== null && <span>{dollars(summary.cost_usd)}</span>}
            </>
          )}
          <a href={`#/query/${now.id}`}>Work</a>
        </p>
        <div class="saves" role="group" aria-label="Download">
          {FORMATS.map(({ format, name }) => (
            <button class="small" disabled={saving !== ""} onClick={() => void download(format)} title={`Download all rows as ${name}`}>
              <span class="arrow" aria-hidden="true">↓</span> {name}
              {saving === format ? " …" : ""}
            </button>
          ))}
        </div>
      </div>
      {work?.warnings.map((warning) => <p class="warning">{warning}</p>)}
      {fault && <p class="fault" role="alert">{fault}</p>}
      {rows.fault.value && <p class="fault" role="alert">{rows.fault.value}</p>}
      <div class="tab" id="view" role="tabpanel" aria-labelledby={`tab-${tab}`}>
        {tab === "rows" ? <Grid rows={rows} label="Rows of the answer" /> : <Chart rows={rows} key={now.id} />}
      </div>
    </section>
  );
}

/** A query that waits or runs: all its tasks, and those of each stage. */
function Running({ now }: { now: Run }) {
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((value) => value + 1), 100);
    return () => clearInterval(timer);
  }, []);
  const { work } = now;
  const progress = work?.progress;
  return (
    <section class="answer" aria-label="Answer">
      <div class="running">
        <p class="phase">
          <span class="pulse" aria-hidden="true" />
          <span role="status">{phase(work)}</span>
          <time>{seconds((performance.now() - now.started) / 1000)}</time>
        </p>
        <Bar done={progress?.tasks_done ?? 0} all={progress?.tasks ?? 0} label="Tasks" />
        {progress && progress.tasks > 0 && (
          <p class="facts">
            <span>{count(progress.tasks_done)} of {counted(progress.tasks, "task")}</span>
            <span>{bytes(progress.bytes_scanned)}</span>
            <span>{counted(progress.rows_scanned, "row")} scanned</span>
            {progress.retries > 0 && <span>{progress.retries === 1 ? "1 retry" : `${progress.retries} retries`}</span>}
          </p>
        )}
        <ul class="stages">
          {work?.stages.map((stage) => (
            <li key={stage.stage}>
              <b>{stage.step}</b>
              <span>{counted(stage.tasks, "task")} done</span>
              <span>median {milliseconds(stage.median_ms)}</span>
              <span>{bytes(stage.bytes_scanned)}</span>
              <span>{counted(stage.rows_delivered, "row")} delivered</span>
            </li>
          ))}
        </ul>
      </div>
    </section>
  );
}

function phase(work?: Work): string {
  if (!work) return "Sending";
  if (work.state === "waiting") return "Waiting for a slot";
  if (work.state === "succeeded") return "Fetching rows";
  switch (work.progress?.phase) {
    case "map": return "Reading the tables";
    case "reduce": return "Combining the results";
    default: return "Planning";
  }
}

export function Bar({ done, all, label }: { done: number; all: number; label: string }) {
  const share = all > 0 ? done / all : 0;
  return (
    <div class={`progress${all > 0 ? "" : " unknown"}`} role="progressbar" aria-label={label} aria-valuemin={0} aria-valuemax={all || undefined} aria-valuenow={all > 0 ? done : undefined}>
      <span style={{ width: `${share * 100}%` }} />
    </div>
  );
}
