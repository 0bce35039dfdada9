// The pages of sources: those that are kept and the streams of the server, one with its rows, and a form that adds one.
import { useEffect, useState } from "preact/hooks";
import { columnsOf, forget, place, readable, readSources, sources, sourcesFault, sourcesRead, streams, streamStatement } from "./kept";
import { hasState, hasStreams, type Kept, type Stream } from "./flows";
import { bytes, counted, quoted } from "./format";
import { Grid } from "./grid";
import { usePreview, type Preview } from "./preview";
import { setScript } from "./scripts";
import { AddSource } from "./source_form";
import { Crumbs } from "./tabs";

/** Rows after which a sample ends. */
const SAMPLE = 100;

export function Sources({ name }: { name: string }) {
  useEffect(() => void readSources(), []);
  if (!sourcesRead.value) return <div class="page"><h1>Sources</h1><p class="empty" role="status">Reading …</p></div>;
  if (!hasState.value && !hasStreams.value) return <div class="page"><h1>Sources</h1><StartSo /></div>;
  if (name === "+") return <AddSource />;
  if (name) return <One name={name} key={name} />;
  const kept = new Set(sources.value.map((source) => source.name));
  const others = streams.value.filter((stream) => !kept.has(stream.name));
  const canAdd = hasState.value || hasStreams.value;
  return (
    <div class="page">
      <header class="title">
        <h1>Sources</h1>
        {canAdd && <a class="button primary" href="#/sources/+">Create source</a>}
      </header>
      {sourcesFault.value && <p class="fault big" role="alert">{sourcesFault.value}</p>}
      {!hasState.value && <p class="note">Pipelines that read these streams need a state: start the server with <code>--state FOLDER</code> too.</p>}
      {sources.value.length + others.length === 0 && !sourcesFault.value && (
        <div class="blank">
          <p>No sources yet. A source is a stream of rows that pipelines read: generated events to try things out, rows that programs send, or files that arrive in a folder.</p>
          <p><a class="button" href="#/sources/+">Create the first one</a></p>
        </div>
      )}
      <ul class="tiles">
        {sources.value.map((source) => <li key={source.name}><Tile source={source} stream={streams.value.find(({ name }) => name === source.name)} /></li>)}
        {others.map((stream) => <li key={stream.name}><Tile stream={stream} /></li>)}
      </ul>
    </div>
  );
}

/** Says how to start a server that has pipelines. */
export function StartSo() {
  return (
    <div class="blank">
      <p>This server runs no continuous queries. Start it with a folder or a bucket for their state, and one for the rows that programs send:</p>
      <pre class="sql" tabIndex={0} aria-label="Command">buzz serve --state data/state --streams data/streams</pre>
    </div>
  );
}

function Tile({ source, stream }: { source?: Kept; stream?: Stream }) {
  const name = (source ?? stream)!.name;
  const columns = source ? columnsOf(source).length : (stream?.columns.length ?? 0);
  return (
    <a href={`#/sources/${encodeURIComponent(name)}`}>
      <b>{name}</b>
      <span class="facts">
        <span>{!source || source.connector === "http" ? "Rows by HTTP" : source.connector}</span>
        {columns > 0 && <span>{counted(columns, "column")}</span>}
        {stream && <span>{counted(stream.rows, "row")}</span>}
        {stream && <span>{bytes(stream.bytes)}</span>}
      </span>
      {source && <small>{source.statement.replace(/\s+/g, " ")}</small>}
    </a>
  );
}

function One({ name }: { name: string }) {
  const source = readable().find((source) => source.name === name);
  const stream = streams.value.find((stream) => stream.name === name);
  const isKept = sources.value.some((source) => source.name === name);
  const [removing, setRemoving] = useState(false);
  const [fault, setFault] = useState("");
  const { now, start, end } = usePreview(SAMPLE);
  const head = <Crumbs list="Sources" name={name} />;
  if (!source && !stream) {
    return <div class="page">{head}<h1>{name}</h1><p class="fault big" role="alert">Source {name} does not exist. It may have been removed.</p></div>;
  }
  const remove = async () => {
    try {
      await forget(name);
      location.hash = "#/sources";
    } catch (error) {
      setFault((error as Error).message);
    }
    setRemoving(false);
  };
  const columns = source ? columnsOf(source) : [];
  return (
    <div class="page">
      {head}
      <header class="title">
        <h1>{name}</h1>
        <div class="do">
          {source && hasState.value && <button class="primary" onClick={() => { setScript(`SELECT *\nFROM ${quoted(name)};\n`); location.hash = "#/pipelines/+"; }}>Query it</button>}
          {isKept && (removing ? (
            <span class="confirm" role="group" aria-label="Remove the source">
              Remove it? Pipelines that read it go on.
              <button class="stop" onClick={() => void remove()}>Remove</button>
              <button onClick={() => setRemoving(false)}>Keep</button>
            </span>
          ) : (
            <button onClick={() => setRemoving(true)}>Remove …</button>
          ))}
        </div>
      </header>
      {fault && <p class="fault big" role="alert">{fault}</p>}
      {stream && (
        <p class="facts">
          <span>{counted(stream.rows, "row")}</span>
          <span>{bytes(stream.bytes)}</span>
          {stream.newest && <span>newest {stream.newest.replace("T", " ").replace(/\.\d+Z$/, " UTC")}</span>}
        </p>
      )}
      {source && <pre class="sql" tabIndex={0} aria-label="Statement">{source.statement}</pre>}
      {stream && <Push stream={stream} />}
      {stream && !source && <Undeclared stream={stream} />}
      {columns.length > 0 && (
        <>
          <h2>Columns</h2>
          <table class="list">
            <thead><tr><th scope="col">column</th><th scope="col">type</th></tr></thead>
            <tbody>{columns.map((column) => <tr><td><code>{column.name}</code></td><td class="muted">{column.type}</td></tr>)}</tbody>
          </table>
        </>
      )}
      {source && hasState.value && (
        <>
          <h2 class="with">
            Sample
            {now?.busy ? (
              <button class="small" onClick={end}>Stop</button>
            ) : (
              <button class="small" onClick={() => void start(`${source.statement};\nSELECT * FROM ${quoted(name)};`)}>{now ? "Read again" : "Read rows"}</button>
            )}
          </h2>
          {now?.fault && <p class="fault" role="alert">{now.fault}</p>}
          {!now && <p class="empty">The first {SAMPLE} rows as they come. Nothing is kept.</p>}
          {now && !now.fault && <Sampled now={now} name={name} />}
        </>
      )}
    </div>
  );
}

function Sampled({ now: { rows, busy }, name }: { now: Preview; name: string }) {
  rows.version.value;
  return (
    <>
      <p class="note" role="status">{rows.total > 0 ? counted(rows.total, "row") : busy ? "Waiting for rows …" : "No rows"}{busy && rows.total > 0 ? " …" : ""}</p>
      {rows.total > 0 && <div class="sample"><Grid rows={rows} label={`Rows of ${name}`} /></div>}
    </>
  );
}

/** A command that sends a row. */
function Push({ stream }: { stream: Stream }) {
  const value = (type: string) =>
    /Int|Float|Decimal/.test(type) ? 1 : /Boolean/.test(type) ? true : /Timestamp/.test(type) ? "2026-01-01T00:00:00" : /Date/.test(type) ? "2026-01-01" : "a";
  const row = Object.fromEntries(stream.columns.map(({ name, type }) => [name, value(type)]));
  const example = JSON.stringify(stream.columns.length > 0 ? row : { id: 1 }).replaceAll("'", "'\\''");
  return (
    <>
      <h2>Send rows</h2>
      <pre class="sql" tabIndex={0} aria-label="Command">{`curl -H "Authorization: Bearer $BUZZ_KEY" ${location.origin}/v1/streams/${stream.name} -d '${example}'`}</pre>
    </>
  );
}

/** A stream without declared columns, which a script declares. */
function Undeclared({ stream }: { stream: Stream }) {
  const statement = streamStatement(stream.name, place.value || "PLACE OF --streams", "…");
  return <p class="note">The stream declares no columns. A script declares those that it reads: <code>{statement}</code></p>;
}
