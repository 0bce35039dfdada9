// The page that makes a pipeline: an editor that checks the script as one types, a preview of its rows, and the start.
import { useEffect, useRef, useState } from "preact/hooks";
import { Editor } from "./editor";
import { flows, hasState, type Flow, type Kept } from "./flows";
import { FlowGraph } from "./flow";
import { counted, quoted } from "./format";
import { Grid } from "./grid";
import { asTables, columnsOf, readable, readSources, shifted, sourcesRead, whole } from "./kept";
import { usePreview } from "./preview";
import { edited, keepScript, script } from "./scripts";
import { StartSo } from "./sources";
import { StartDialog } from "./start";
import { Tabs } from "./tabs";

/** Milliseconds after the last key, after which a script is checked. */
const CHECK_AFTER = 400;

const META = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";

const editor: { current: Editor | null } = { current: null };

type Checked = { text: string; graph: Flow | null; fault: string };

export function Script() {
  const host = useRef<HTMLDivElement>(null);
  const { now, start, end } = usePreview();
  const [checked, setChecked] = useState<Checked | null>(null);
  const [tab, setTab] = useState<"rows" | "graph">("rows");
  const [starting, setStarting] = useState(false);
  const text = script.value;
  const busy = Boolean(now?.busy);
  // Lines of declarations before the script of the preview.
  const before = useRef(0);
  const run = () => {
    setTab("rows");
    const { script: text, lines } = whole(script.value);
    before.current = lines;
    if (script.value.trim()) void start(text);
  };
  useEffect(() => {
    void readSources();
    const made = new Editor(host.current!, script.value, { change: keepScript, run, label: "Script of the pipeline", hint: "SELECT … FROM a source" });
    editor.current = made;
    made.know(asTables());
    if (matchMedia("(min-width: 760px)").matches) made.focus();
    return () => {
      made.destroy();
      editor.current = null;
    };
  }, []);
  const known = readable();
  useEffect(() => editor.current?.know(asTables()), [JSON.stringify(known)]);
  useEffect(() => {
    if (!text.trim() || !sourcesRead.value || !hasState.value) {
      setChecked(null);
      editor.current?.mark("", 0);
      return;
    }
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      const { script, lines } = whole(text);
      const answer = await flows.validate(script, stop.signal).then(
        ({ graph, errors }) => ({ graph, fault: errors.join("\n") }),
        (error: Error) => ({ graph: null, fault: error.message }),
      );
      if (stop.signal.aborted) return;
      const fault = shifted(answer.fault, lines);
      setChecked({ text, graph: answer.graph, fault });
      editor.current?.mark(fault, 0);
    }, CHECK_AFTER);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [text, sourcesRead.value, hasState.value, known.length]);
  useEffect(() => {
    const stop = (event: KeyboardEvent) => {
      if (event.key === "Escape" && busy && !event.defaultPrevented) end();
    };
    addEventListener("keydown", stop);
    return () => removeEventListener("keydown", stop);
  }, [busy]);

  const isChecked = checked?.text === text;
  return (
    <div class="ask">
      <SourceList known={known} />
      <div class="desk">
        <section class="editor" aria-label="Script">
          {edited.value && (
            <p class="edited">Script of the pipeline <a href={`#/pipelines/${encodeURIComponent(edited.value)}`}>{edited.value}</a>. <button class="plain" onClick={() => (edited.value = "")}>Make a new pipeline of it instead</button></p>
          )}
          <div class="code" ref={host} />
          <div class="bar">
            {busy ? (
              <button class="stop" onClick={end}>Stop preview <kbd>Esc</kbd></button>
            ) : (
              <button onClick={run} disabled={!text.trim() || !hasState.value}>Preview <kbd>{META} ↵</kbd></button>
            )}
            <button class="primary" onClick={() => setStarting(true)} disabled={!isChecked || Boolean(checked?.fault)}>{edited.value ? "Replace script …" : "Start pipeline …"}</button>
            <CheckedNote checked={isChecked ? checked : null} text={text} />
          </div>
        </section>
        <section class="answer" aria-label="Preview">
          {!hasState.value ? (
            <div class="answer idle"><StartSo /></div>
          ) : !now && !(tab === "graph" && checked?.graph) ? (
            <Idle known={known} graph={checked?.graph ? () => setTab("graph") : undefined} />
          ) : (
            <>
              <div class="bar top">
                <Tabs label="View" panel="view" names={[["rows", "Rows"], ["graph", "Graph"]]} now={tab} choose={setTab} />
                {tab === "rows" && now && <p class="facts" role="status"><Arrived now={now} /></p>}
              </div>
              {now?.fault && tab === "rows" && <p class="fault big" role="alert">{shifted(now.fault, before.current)}</p>}
              <div class="tab" id="view" role="tabpanel" aria-labelledby={`tab-${tab}`}>
                {tab === "graph" ? (
                  checked?.graph ? <FlowGraph flow={checked.graph} /> : <p class="empty">The graph is drawn when the script is right.</p>
                ) : (
                  now && now.rows.version.value + 1 > 0 && now.rows.total > 0 && <Grid rows={now.rows} label="Rows of the preview" />
                )}
              </div>
            </>
          )}
        </section>
      </div>
      {starting && <StartDialog text={text} select={onlySelect()} close={() => setStarting(false)} />}
    </div>
  );
}

/** Returns the place of the only SELECT of a script that writes into no table; only such a one can get a sink. */
function onlySelect(): { from: number; to: number } | null {
  const text = script.value;
  const found = (editor.current?.statements() ?? []).filter(({ from, to }) => /^\s*(select|with|\()/i.test(text.slice(from, to)));
  return found.length === 1 && !/\binsert\s+into\b/i.test(text) ? found[0] : null;
}

function Arrived({ now }: { now: NonNullable<ReturnType<typeof usePreview>["now"]> }) {
  now.rows.version.value;
  if (now.busy && now.rows.total === 0) return <span>Waiting for rows … windows show theirs when they close</span>;
  return (
    <>
      <b>{counted(now.rows.total, "row")}</b>
      {now.busy ? <span>as they come</span> : <span>{now.ended ? "ended" : "stopped"}</span>}
      <span>nothing is kept or written into sinks</span>
    </>
  );
}

function CheckedNote({ checked, text }: { checked: Checked | null; text: string }) {
  if (!text.trim()) return null;
  if (!checked) return <p class="check-note" role="status">Checking …</p>;
  if (checked.fault) return <p class="check-note fault" role="alert">{checked.fault}</p>;
  const count = (kind: string) => checked.graph?.nodes.filter(({ operator }) => operator.startsWith(kind)).length ?? 0;
  const { used } = whole(text);
  return (
    <p class="check-note good" role="status">
      Ready: {counted(count("source:"), "source")}, {counted(count("sink:"), "sink")}{used.length > 0 && <span class="muted">, with the declaration of {used.join(", ")}</span>}
    </p>
  );
}

/** The sources, as the tables stand beside questions. A click inserts a name. */
function SourceList({ known }: { known: Kept[] }) {
  const wide = matchMedia("(min-width: 760px)").matches;
  return (
    <details class="sidebar" open={wide}>
      <summary>Sources</summary>
      <div class="inside">
        {sourcesRead.value && known.length === 0 && <p class="empty">No sources yet. <a href="#/sources/+">Create one</a>, or declare it in the script with CREATE TABLE.</p>}
        <ul>
          {known.map((source) => (
            <li key={source.name}>
              <details open={known.length === 1}>
                <summary><span class="name">{source.name}</span><small>{source.connector}</small></summary>
                <div class="do">
                  <button class="plain" onClick={() => editor.current?.insert(quoted(source.name))}>Insert name</button>
                  <a href={`#/sources/${encodeURIComponent(source.name)}`}>Open</a>
                </div>
                <ul class="columns">
                  {columnsOf(source).map((column) => (
                    <li key={column.name}>
                      <button class="column" title={`Insert ${column.name}`} onClick={() => editor.current?.insert(quoted(column.name))}>
                        <span>{column.name}</span>
                        <small>{column.type}</small>
                      </button>
                    </li>
                  ))}
                </ul>
              </details>
            </li>
          ))}
        </ul>
      </div>
    </details>
  );
}

/** Returns scripts to begin with: those of the tutorial for its generator, a look at the rows otherwise. */
function examples(known: Kept[]): { name: string; sql: string }[] {
  const nexmark = known.find(({ connector }) => connector === "nexmark");
  const first = known.find((source) => source !== nexmark);
  const from = nexmark ? quoted(nexmark.name) : "nexmark";
  const declare = nexmark ? "" : "CREATE TABLE nexmark WITH (connector = 'nexmark');\n\n";
  const found = [
    { name: "Each bid", sql: `${declare}SELECT bid\nFROM ${from}\nWHERE bid IS NOT NULL;\n` },
    {
      name: "Mean price of 10 seconds, every 2 seconds",
      sql: `${declare}SELECT avg(bid.price) AS avg_price\nFROM ${from}\nWHERE bid IS NOT NULL\nGROUP BY hop(interval '2 seconds', interval '10 seconds');\n`,
    },
    {
      name: "The 5 auctions with the most bids of a minute",
      sql:
        `${declare}SELECT * FROM (\n  SELECT *, ROW_NUMBER() OVER (PARTITION BY window ORDER BY count DESC) AS row_num\n  FROM (\n    SELECT count(*) AS count, bid.auction AS auction,\n      hop(interval '2 seconds', interval '60 seconds') AS window\n    FROM ${from}\n    WHERE bid IS NOT NULL\n    GROUP BY 2, window))\nWHERE row_num <= 5;\n`,
    },
  ];
  return first ? [{ name: `Rows of ${first.name}`, sql: `SELECT *\nFROM ${quoted(first.name)};\n` }, ...(nexmark ? found : found.slice(0, 1))] : found;
}

function Idle({ known, graph }: { known: Kept[]; graph?: () => void }) {
  return (
    <div class="answer idle">
      <div class="begin">
        <p class="empty">
          Write a query over a source. It is checked as you type; the preview shows its rows as they come.
          {graph && <> The script is right: <button class="plain" onClick={graph}>see its graph</button>.</>}
        </p>
        <div class="examples">
          {examples(known).map(({ name, sql }) => (
            <button onClick={() => { editor.current?.set(sql); editor.current?.focus(); }}>
              <b>{name}</b>
              <code>{sql.replace(/\s+/g, " ")}</code>
            </button>
          ))}
        </div>
      </div>
    </div>
  );
}
