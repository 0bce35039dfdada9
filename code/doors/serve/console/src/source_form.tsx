// The form that makes a source: a connector, its options, columns and a name.
import { useEffect, useState } from "preact/hooks";
import { flows, hasState, hasStreams, type Connector } from "./flows";
import { quoted } from "./format";
import { Grid } from "./grid";
import { keep, place, readSources, text } from "./kept";
import { usePreview } from "./preview";
import { Crumbs } from "./tabs";

/** An option of a connector. Without `required` it may be left empty. */
type Option = { name: string; label: string; hint?: string; value?: string; values?: string[]; required?: boolean };

/** A connector as the form shows it. `columns`: they must be declared, may be, or cannot. */
type Shape = { options: Option[]; columns: "needed" | "optional" | "none" };

const FORMAT: Option = { name: "format", label: "Format", values: ["json", "csv", "parquet", "arrow"], value: "json" };
const GENERATOR: Option[] = [
  { name: "event_rate", label: "Events per second", value: "100", required: true },
  { name: "events", label: "Number of events", hint: "empty: without end" },
];

/** The options that the form knows. Others, and those of other connectors, are written as text. */
const SHAPES: Record<string, Shape> = {
  nexmark: { options: [...GENERATOR, { name: "disorder", label: "Disorder", hint: "such as 2s: events come up to 2 seconds late" }], columns: "none" },
  impulse: { options: GENERATOR, columns: "none" },
  http: { options: [], columns: "optional" },
  single_file: { options: [{ name: "path", label: "File", hint: "a path of the server", required: true }, FORMAT], columns: "needed" },
  filesystem: {
    options: [
      { name: "path", label: "Folder", hint: "a folder of the server, or s3://bucket/folder", required: true },
      FORMAT,
      { name: "mode", label: "Files", values: ["follow", "bounded"], value: "follow" },
    ],
    columns: "needed",
  },
  delta: {
    options: [
      { name: "path", label: "Table", hint: "a folder of the server, or s3://bucket/folder", required: true },
      { name: "start", label: "Start", hint: "earliest, latest, or a version" },
    ],
    columns: "optional",
  },
};

const CHOICES: Record<string, string> = { follow: "Follow: wait for new files", bounded: "Read the present files once" };

/** Names of `filesystem` with a format, which the form has as an option. */
const ALIASES = ["json", "csv", "parquet"];

export function AddSource() {
  const [connectors, setConnectors] = useState<Connector[]>([]);
  const [fault, setFault] = useState("");
  const [chosen, setChosen] = useState<Connector | null>(null);
  useEffect(() => {
    flows
      .connectors()
      .then((found) => setConnectors(found.filter(({ id, source }) => source && !ALIASES.includes(id) && (id === "http" ? hasStreams.value : hasState.value))))
      .catch((error) => setFault(error.message));
  }, []);
  return (
    <div class="page">
      <Crumbs list="Sources" name="create" />
      <h1>{chosen ? chosen.name : "Create source"}</h1>
      {fault && <p class="fault big" role="alert">{fault}</p>}
      {chosen ? (
        <Form connector={chosen} back={() => setChosen(null)} />
      ) : (
        <>
          <p class="lead">Where do the rows come from?</p>
          <ul class="tiles choose">
            {connectors.map((connector) => (
              <li key={connector.id}>
                <button onClick={() => setChosen(connector)}>
                  <b>{connector.name}</b>
                  <span>{connector.description}</span>
                </button>
              </li>
            ))}
          </ul>
        </>
      )}
    </div>
  );
}

function Form({ connector, back }: { connector: Connector; back: () => void }) {
  const shape = SHAPES[connector.id] ?? { options: [], columns: "optional" };
  const [values, setValues] = useState<Record<string, string>>(() => Object.fromEntries(shape.options.map(({ name, value }) => [name, value ?? ""])));
  const [name, setName] = useState("");
  const [columns, setColumns] = useState("");
  const [time, setTime] = useState("");
  const [delay, setDelay] = useState("5 seconds");
  const [more, setMore] = useState("");
  const [path, setPath] = useState(place.value);
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  const sample = usePreview(20);
  const isStream = connector.id === "http";
  const mustDeclare = shape.columns === "needed" && !/^(parquet|arrow)$/.test(values.format ?? "");
  const given = columns.split("\n").map((line) => line.trim().replace(/,$/, "")).filter(Boolean).join(",\n  ");
  const watermark = time.trim() && `WATERMARK FOR ${time.trim()} AS ${time.trim()}${delay.trim() && ` - INTERVAL '${delay.trim()}'`}`;
  const options = [
    ["connector", connector.id],
    ...(isStream ? [["path", path]] : []),
    ...shape.options.map(({ name }) => [name, values[name]]),
    ...more
      .split("\n")
      .filter((line) => line.includes("="))
      .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)].map((part) => part.trim().replace(/^'|',?$/g, "")))
      .filter(([key]) => key),
  ].filter(([, value]) => value !== "");
  const body = [given, watermark].filter(Boolean).join(",\n  ");
  const isReady = Boolean(name && (!mustDeclare || given) && (!isStream || path) && shape.options.every((option) => !option.required || values[option.name]));
  const statement = `CREATE TABLE ${quoted(name || "name")}${body && ` (\n  ${body}\n)`} WITH (${options.map(([key, value]) => `${/^\w+$/.test(key) ? key : text(key)} = ${text(value)}`).join(", ")})`;
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setFault("");
    try {
      // The stream has the columns, and each source of it has what the stream cannot have: an event time and options.
      if (isStream && given) await flows.declare(name, `CREATE TABLE ${quoted(name)} (${given}) WITH (connector = 'http')`);
      if (!isStream || hasState.value) await keep(name, statement);
      await readSources();
      location.hash = `#/sources/${encodeURIComponent(name)}`;
    } catch (error) {
      setFault((error as Error).message);
    }
    setBusy(false);
  };
  return (
    <form class="form" onSubmit={(event) => void submit(event)}>
      <p class="lead">{connector.description}. <button type="button" class="plain" onClick={back}>Choose another</button></p>
      {shape.options.map((option) => (
        <label key={option.name}>
          {option.label}
          {option.values ? (
            <select value={values[option.name]} onChange={(event) => setValues({ ...values, [option.name]: event.currentTarget.value })}>
              {option.values.map((value) => <option value={value}>{CHOICES[value] ?? value}</option>)}
            </select>
          ) : (
            <input required={option.required} autocomplete="off" spellcheck={false} value={values[option.name]} placeholder={option.hint} onInput={(event) => setValues({ ...values, [option.name]: event.currentTarget.value })} />
          )}
        </label>
      ))}
      {isStream && !place.value && (
        <label>
          Place of the streams
          <input required autocomplete="off" spellcheck={false} value={path} onInput={(event) => setPath(event.currentTarget.value)} placeholder="the folder or uri of --streams" />
        </label>
      )}
      {shape.columns !== "none" && (
        <label>
          <span>Columns{mustDeclare ? "" : <span class="muted"> (may be left out)</span>}</span>
          <textarea rows={4} autocomplete="off" spellcheck={false} value={columns} placeholder={"user_id BIGINT NOT NULL\npage TEXT\nts TIMESTAMP"} onInput={(event) => setColumns(event.currentTarget.value)} />
          <small>One in each line: a name and an SQL type. {isStream && "Rows that do not fit are refused."}</small>
        </label>
      )}
      {shape.columns !== "none" && given && (
        <div class="pair two">
          <label>
            <span>Event time <span class="muted">(may be left out)</span></span>
            <input autocomplete="off" spellcheck={false} value={time} placeholder="ts" onInput={(event) => setTime(event.currentTarget.value)} />
            <small>The column that windows go by. Otherwise the time of arrival.</small>
          </label>
          <label>
            Rows may be late by
            <input autocomplete="off" spellcheck={false} value={delay} onInput={(event) => setDelay(event.currentTarget.value)} />
          </label>
        </div>
      )}
      <details class="more" open={!SHAPES[connector.id]}>
        <summary>More options</summary>
        <textarea rows={3} aria-label="More options" autocomplete="off" spellcheck={false} value={more} placeholder={"idle_timeout = 10s\nbad_data = drop"} onInput={(event) => setMore(event.currentTarget.value)} />
      </details>
      <label>
        Name
        <input required autocomplete="off" spellcheck={false} value={name} onInput={(event) => setName(event.currentTarget.value)} placeholder={connector.id === "nexmark" ? "nexmark_100" : "clicks"} pattern="[a-z_][a-z0-9_]*" title="Lower-case letters, digits and _" />
      </label>
      <pre class="sql" tabIndex={0} aria-label="Statement">{statement}</pre>
      {fault && <p class="fault" role="alert">{fault}</p>}
      <div class="do">
        <button class="primary" disabled={busy || !isReady}>{busy ? "Checking …" : "Create source"}</button>
        {hasState.value && !isStream && (
          <button type="button" disabled={!isReady || sample.now?.busy} onClick={() => void sample.start(`${statement};\nSELECT * FROM ${quoted(name)};`)}>{sample.now?.busy ? "Reading …" : "Try it"}</button>
        )}
        <a href="#/sources">Cancel</a>
      </div>
      {sample.now?.fault && <p class="fault" role="alert">{sample.now.fault}</p>}
      {sample.now && !sample.now.fault && sample.now.rows.version.value > 0 && <div class="sample low"><Grid rows={sample.now.rows} label="Sample rows" /></div>}
    </form>
  );
}
