// The pages of tables: the list, one table with columns, files and sample rows, and a form that adds one.
import { useEffect, useMemo, useState } from "preact/hooks";
import { api, type FileOf, type Table } from "./api";
import { bytes, count, counted, quoted } from "./format";
import { Grid } from "./grid";
import { decoded, Whole } from "./rows";
import { canChange, readTables, setSql, tables, tablesFault, tablesRead } from "./state";
import { Crumbs, Tabs } from "./tabs";

const SAMPLE = 200;

export function Tables({ name }: { name: string }) {
  useEffect(() => void readTables(), []);
  if (name === "+") return <Add />;
  if (name) return <One name={name} key={name} />;
  return (
    <div class="page">
      <header class="title">
        <h1>Tables</h1>
        {canChange.value && <a class="button primary" href="#/tables/+">Add a table</a>}
      </header>
      {tablesFault.value && <p class="fault big" role="alert">{tablesFault.value}</p>}
      {!tablesRead.value && !tablesFault.value && <p class="empty" role="status">Reading …</p>}
      {tablesRead.value && tables.value.length === 0 && (
        <p class="empty">
          No tables. {canChange.value ? <><a href="#/tables/+">Add one</a> from files on this machine or in a bucket.</> : "Start the server with --table NAME=PLACE, or add names with `buzz tables add`."}
        </p>
      )}
      <ul class="tiles">
        {tables.value.map((table) => (
          <li key={table.name}>
            <a href={`#/tables/${encodeURIComponent(table.name)}`}>
              <b>{table.name}</b>
              {table.error ? (
                <span class="why">{table.error.message}</span>
              ) : (
                <span class="facts">
                  <span>{table.view ? "View" : table.type}</span>
                  <span>{counted(table.columns?.length ?? 0, "column")}</span>
                  {table.files !== undefined && !table.view && <span>{counted(table.files, "file")}</span>}
                  {table.bytes !== undefined && !table.view && <span>{bytes(table.bytes)}</span>}
                </span>
              )}
              {table.uri && !table.view && <small>{table.uri}</small>}
            </a>
          </li>
        ))}
      </ul>
    </div>
  );
}

type View = "columns" | "rows" | "files";
const NAMES: [View, string][] = [["columns", "Columns"], ["rows", "Sample rows"], ["files", "Files"]];

function One({ name }: { name: string }) {
  const [table, setTable] = useState<Table | null>(null);
  const [fault, setFault] = useState("");
  const [view, setView] = useState<View>("columns");
  const [dropping, setDropping] = useState(false);

  useEffect(() => {
    api.table(name).then(setTable).catch((error) => setFault(error.message));
  }, [name]);

  const drop = async () => {
    try {
      await api.query(`DROP ${table?.view ? "VIEW" : "TABLE"} ${quoted(name)}`);
      await readTables();
      location.hash = "#/tables";
    } catch (error) {
      setDropping(false);
      setFault((error as Error).message);
    }
  };
  const views = table?.view ? NAMES.slice(0, 2) : NAMES;
  return (
    <div class="page">
      <Crumbs list="Tables" name={name} />
      <header class="title">
        <h1>{name}</h1>
        <div class="do">
          <button onClick={() => { setSql(`SELECT *\nFROM ${quoted(name)}\nLIMIT 100`); location.hash = "#/ask"; }}>Ask</button>
          {canChange.value && (dropping ? (
            <span class="confirm" role="group" aria-label="Remove the name">
              Remove the name? Its files stay.
              <button class="stop" onClick={() => void drop()}>Remove</button>
              <button onClick={() => setDropping(false)}>Keep</button>
            </span>
          ) : (
            <button onClick={() => setDropping(true)}>Remove …</button>
          ))}
        </div>
      </header>
      {fault && <p class="fault big" role="alert">{fault}</p>}
      {!table && !fault && <p class="empty" role="status">Opening …</p>}
      {table && (
        <>
          <p class="facts">
            <span>{table.view ? "View" : table.type}</span>
            {!table.view && table.files !== undefined && <span>{counted(table.files, "file")}</span>}
            {!table.view && table.bytes !== undefined && <span>{bytes(table.bytes)}</span>}
            {table.version !== null && table.version !== undefined && <span>version {table.version}</span>}
            {Boolean(table.partition_columns?.length) && <span>partitioned by {table.partition_columns!.join(", ")}</span>}
          </p>
          {!table.view && <p class="where"><code>{table.uri}</code></p>}
          {table.warnings?.map((warning) => <p class="warning">{warning}</p>)}
          <Tabs label="Parts of the table" panel="part" names={views} now={view} choose={setView} />
          <div id="part" role="tabpanel" aria-labelledby={`tab-${view}`} tabIndex={view === "rows" ? undefined : 0} class="part">
            {view === "columns" && <Columns table={table} />}
            {view === "rows" && <Sample name={name} />}
            {view === "files" && <Files table={table} />}
          </div>
        </>
      )}
    </div>
  );
}

function Columns({ table }: { table: Table }) {
  return (
    <table class="list">
      <thead><tr><th scope="col">column</th><th scope="col">type</th><th scope="col"><span class="unseen">role</span></th></tr></thead>
      <tbody>
        {table.columns?.map((column) => (
          <tr>
            <td><code>{column.name}</code></td>
            <td class="muted">{column.type}</td>
            <td>{table.partition_columns?.includes(column.name) && <span class="chip">partition</span>}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Sample({ name }: { name: string }) {
  const [rows, setRows] = useState<Whole | null>(null);
  const [fault, setFault] = useState("");
  useEffect(() => {
    api
      .query(`SELECT * FROM ${quoted(name)} LIMIT ${SAMPLE}`)
      .then((answer) => setRows(new Whole(decoded(answer))))
      .catch((error) => setFault(error.message));
  }, [name]);
  if (fault) return <p class="fault" role="alert">{fault}</p>;
  if (!rows) return <p class="empty" role="status">Reading rows …</p>;
  return <div class="sample"><Grid rows={rows} label={`Rows of ${name}`} /></div>;
}

/** The files by partition, then each. */
function Files({ table }: { table: Table }) {
  const files = table.file_list ?? [];
  const columns = table.partition_columns ?? [];
  const partitions = useMemo(() => partitionsOf(files), [files]);
  const most = Math.max(...files.map((file) => file.bytes), 1);
  if (files.length === 0) return <p class="empty">The table has no files.</p>;
  const isPart = table.files !== undefined && files.length < table.files;
  return (
    <>
      {isPart && <p class="note">The first {count(files.length)} of {counted(table.files!, "file")}.</p>}
      {columns.length > 0 && (
        <>
          <h2>Partitions{isPart ? " of these files" : ""} <small>{count(partitions.length)}</small></h2>
          <div class="scroll short" tabIndex={0} role="group" aria-label="Partitions">
            <table class="list">
              <thead><tr>{columns.map((column) => <th scope="col">{column}</th>)}<th scope="col" class="right">files</th><th scope="col" class="right">bytes</th></tr></thead>
              <tbody>
                {partitions.map((partition) => (
                  <tr>
                    {partition.values.map((value) => <td>{value === null ? <i class="null">NULL</i> : value}</td>)}
                    <td class="right">{count(partition.files)}</td>
                    <td class="right">{bytes(partition.bytes)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
      <h2>Files <small>{count(files.length)}</small></h2>
      <div class="scroll" tabIndex={0} role="group" aria-label="Files">
        <table class="list files">
          <thead><tr><th scope="col">path</th><th scope="col" class="right">bytes</th><th scope="col"><span class="unseen">share</span></th></tr></thead>
          <tbody>
            {files.map((file) => (
              <tr>
                <td><code>{file.path}</code>{file.deleted_rows > 0 && <span class="chip">{counted(file.deleted_rows, "row")} deleted</span>}</td>
                <td class="right">{bytes(file.bytes)}</td>
                <td class="share" aria-hidden="true"><span style={{ width: `${(file.bytes / most) * 100}%` }} /></td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

function partitionsOf(files: FileOf[]) {
  const found = new Map<string, { values: (string | null)[]; files: number; bytes: number }>();
  for (const file of files) {
    const id = JSON.stringify(file.partition_values);
    const partition = found.get(id) ?? { values: file.partition_values, files: 0, bytes: 0 };
    partition.files += 1;
    partition.bytes += file.bytes;
    found.set(id, partition);
  }
  return [...found.values()];
}

const FORMATS = ["AUTO", "PARQUET", "DELTA", "CSV", "JSON"];

function Add() {
  const [name, setName] = useState("");
  const [place, setPlace] = useState("");
  const [format, setFormat] = useState("AUTO");
  const [region, setRegion] = useState("");
  const [anonymous, setAnonymous] = useState(false);
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState("");
  const text = (value: string) => `'${value.replaceAll("'", "''")}'`;
  const remote = /^s3:/i.test(place);
  const options = [remote && region && `region ${text(region)}`, remote && anonymous && "anonymous 'true'"].filter(Boolean);
  const statement = `CREATE EXTERNAL TABLE ${quoted(name || "name")} STORED AS ${format} LOCATION ${text(place)}${options.length > 0 ? ` OPTIONS (${options.join(", ")})` : ""}`;
  const add = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setFault("");
    try {
      await api.query(statement);
      await readTables();
      location.hash = `#/tables/${encodeURIComponent(name)}`;
    } catch (error) {
      setFault((error as Error).message);
    }
    setBusy(false);
  };
  return (
    <div class="page">
      <Crumbs list="Tables" name="add" />
      <h1>Add a table</h1>
      {!canChange.value && <p class="warning">This server does not change names. Start it with <code>--names change</code>.</p>}
      <form class="form" onSubmit={(event) => void add(event)}>
        <label>
          Name
          <input required autocomplete="off" spellcheck={false} value={name} onInput={(event) => setName(event.currentTarget.value)} placeholder="trips" />
        </label>
        <label>
          Place
          <input required autocomplete="off" spellcheck={false} value={place} onInput={(event) => setPlace(event.currentTarget.value)} placeholder="s3://bucket/folder, or a path of the server" />
          <small>A folder, a file, or a pattern such as <code>logs/*.csv.gz</code></small>
        </label>
        <label>
          Format
          <select value={format} onChange={(event) => setFormat(event.currentTarget.value)}>
            {FORMATS.map((one) => <option value={one}>{{ AUTO: "Detect", PARQUET: "Parquet", DELTA: "Delta Lake", CSV: "CSV", JSON: "JSON, one object per line" }[one]}</option>)}
          </select>
        </label>
        {remote && (
          <div class="pair">
            <label>
              Region of the bucket
              <input autocomplete="off" spellcheck={false} value={region} onInput={(event) => setRegion(event.currentTarget.value)} placeholder="as configured" />
            </label>
            <label class="check">
              <input type="checkbox" checked={anonymous} onChange={(event) => setAnonymous(event.currentTarget.checked)} />
              Public bucket, without credentials
            </label>
          </div>
        )}
        {name && place && <pre class="sql" tabIndex={0} aria-label="Statement">{statement}</pre>}
        {fault && <p class="fault" role="alert">{fault}</p>}
        <div class="do">
          <button class="primary" disabled={busy || !name || !place}>{busy ? "Opening …" : "Add"}</button>
          <a href="#/tables">Cancel</a>
        </div>
      </form>
    </div>
  );
}
