// The dialog that starts a pipeline, or gives one that exists another script.
import { useEffect, useRef, useState } from "preact/hooks";
import { flows } from "./flows";
import { quoted } from "./format";
import { text as literal, whole } from "./kept";
import { edited, setScript } from "./scripts";

/** The places that rows may go to: an id, a name, the options of the sink, and an example of its path. */
const SINKS = [
  { id: "web", name: "This console, and other clients that follow the pipeline", options: "", path: "" },
  { id: "json", name: "Files of JSON lines", options: "connector = 'filesystem', format = 'json'", path: "data/rows, or s3://bucket/rows" },
  { id: "parquet", name: "Parquet files", options: "connector = 'filesystem', format = 'parquet'", path: "data/rows, or s3://bucket/rows" },
  { id: "delta", name: "A Delta Lake table", options: "connector = 'delta'", path: "data/table, or s3://bucket/table" },
  { id: "single_file", name: "One file of JSON lines", options: "connector = 'single_file'", path: "rows.json" },
];

export function StartDialog({ text, select, close }: { text: string; select: { from: number; to: number } | null; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [name, setName] = useState("");
  const [workers, setWorkers] = useState("1");
  const [epoch, setEpoch] = useState("");
  const [sink, setSink] = useState("web");
  const [path, setPath] = useState("");
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => dialog.current?.showModal(), []);
  const target = SINKS.find(({ id }) => id === sink)!;
  const replaced = edited.value;
  const query = () => {
    let own = text;
    if (select && target.path) {
      const table = quoted(`${name.toLowerCase().replace(/[^a-z0-9_]+/g, "_") || "pipeline"}_rows`);
      const declared = `CREATE TABLE ${table} WITH (${target.options}, path = ${literal(path)}, type = 'sink');\n`;
      own = `${text.slice(0, select.from)}${declared}INSERT INTO ${table}\n${text.slice(select.from)}`;
    }
    return whole(own).script;
  };
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setFault("");
    try {
      const micros = epoch ? { checkpointIntervalMicros: Math.round(Number(epoch) * 1e6) } : {};
      const pipeline = replaced
        ? await flows.change(replaced, { query: query(), stop: "none" })
        : await flows.create({ name, query: query(), parallelism: Number(workers), ...micros });
      setScript("");
      dialog.current?.close();
      location.hash = `#/pipelines/${encodeURIComponent(pipeline.id)}`;
    } catch (error) {
      setFault((error as Error).message);
    }
    setBusy(false);
  };
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="start" onClick={(event) => event.target === dialog.current && dialog.current?.close()}>
      <form class="form" onSubmit={(event) => void submit(event)}>
        <h2 id="start">{replaced ? `Replace the script of ${replaced}` : "Start pipeline"}</h2>
        {replaced ? (
          <p class="warning">The new script starts without the state of the one before, and reads its sources from the start.</p>
        ) : (
          <>
            <label>
              Name
              <input required autofocus autocomplete="off" spellcheck={false} value={name} onInput={(event) => setName(event.currentTarget.value)} placeholder="top_auctions" />
            </label>
            <div class="pair two">
              <label>
                Workers
                <input type="number" required min="1" max="1024" value={workers} onInput={(event) => setWorkers(event.currentTarget.value)} />
                <small>May change while it runs.</small>
              </label>
              <label>
                Seconds per epoch
                <input type="number" min="0.01" max="86400" step="0.01" value={epoch} placeholder="as the script says, or 1" onInput={(event) => setEpoch(event.currentTarget.value)} />
                <small>Each epoch is a checkpoint.</small>
              </label>
            </div>
          </>
        )}
        {select ? (
          <label>
            Where the rows go
            <select value={sink} onChange={(event) => setSink(event.currentTarget.value)}>
              {SINKS.map(({ id, name }) => <option value={id}>{name}</option>)}
            </select>
          </label>
        ) : (
          <p class="note">The rows go where the INSERT statements of the script say; those of a SELECT alone can be followed here.</p>
        )}
        {select && target.path && (
          <label>
            Path
            <input required autocomplete="off" spellcheck={false} value={path} placeholder={target.path} onInput={(event) => setPath(event.currentTarget.value)} />
          </label>
        )}
        {fault && <p class="fault" role="alert">{fault}</p>}
        <div class="do">
          <button class="primary" disabled={busy || (!replaced && !name.trim())}>{busy ? "Starting …" : replaced ? "Replace" : "Start"}</button>
          <button type="button" onClick={() => dialog.current?.close()}>Cancel</button>
        </div>
      </form>
    </dialog>
  );
}
