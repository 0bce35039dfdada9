// What can be done with a pipeline: start, stop in each way, restart, change its settings, edit its script, delete.
import { useEffect, useRef, useState } from "preact/hooks";
import { flows, type Change, type Pipeline, type StopWay } from "./flows";
import { setScript } from "./scripts";

const WAYS: { way: StopWay; name: string; about: string }[] = [
  { way: "checkpoint", name: "Checkpoint", about: "after the epoch that runs, which is the checkpoint" },
  { way: "graceful", name: "Graceful", about: "the same: there is nothing to drain between epochs" },
  { way: "immediate", name: "Immediate", about: "at once; the next start repeats the epoch that runs" },
  { way: "force", name: "Force", about: "as immediate" },
];

type Open = "" | "ways" | "settings" | "delete";

export function Actions({ pipeline, changed }: { pipeline: Pipeline; changed: () => void }) {
  const [open, setOpen] = useState<Open>("");
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  const { id, state } = pipeline;
  const stopped = /^(Stopped|Finished|Failed)$/.test(state);
  useEffect(() => setOpen((open) => (open === "ways" ? "" : open)), [state]);
  useEffect(() => {
    if (open !== "ways") return;
    const close = (event: Event) => {
      if (event instanceof KeyboardEvent ? event.key === "Escape" : !box.current?.contains(event.target as globalThis.Node)) setOpen("");
    };
    addEventListener("keydown", close);
    addEventListener("mousedown", close);
    return () => {
      removeEventListener("keydown", close);
      removeEventListener("mousedown", close);
    };
  }, [open]);
  const act = async (work: () => Promise<unknown>) => {
    setBusy(true);
    setFault("");
    setOpen("");
    try {
      await work();
      changed();
    } catch (error) {
      setFault((error as Error).message);
    }
    setBusy(false);
  };
  const change = (change: Change) => act(() => flows.change(id, change));
  const remove = () =>
    act(async () => {
      await flows.remove(id);
      location.hash = "#/pipelines";
    });
  return (
    <div class="actions" ref={box}>
      <div class="do">
        {stopped ? (
          <button class="primary" disabled={busy} onClick={() => void change({ stop: "none" })}>Start</button>
        ) : (
          <span class="split">
            <button class="stop" disabled={busy} onClick={() => void change({ stop: "checkpoint" })}>Stop</button>
            <button class="stop" aria-label="Ways to stop" aria-expanded={open === "ways"} disabled={busy} onClick={() => setOpen(open === "ways" ? "" : "ways")}>▾</button>
            {open === "ways" && (
              <ul class="ways" aria-label="Ways to stop">
                {WAYS.map(({ way, name, about }) => (
                  <li><button onClick={() => void change({ stop: way })}><b>{name}</b><span>{about}</span></button></li>
                ))}
              </ul>
            )}
          </span>
        )}
        <button disabled={busy} onClick={() => void act(() => flows.restart(id, false))}>Restart</button>
        <button disabled={busy} aria-expanded={open === "settings"} onClick={() => setOpen(open === "settings" ? "" : "settings")}>Rescale …</button>
        <button onClick={() => { setScript(pipeline.query, id); location.hash = "#/pipelines/+"; }}>Edit script</button>
        <button disabled={busy} aria-expanded={open === "delete"} onClick={() => setOpen(open === "delete" ? "" : "delete")}>Delete …</button>
      </div>
      {open === "settings" && <Settings pipeline={pipeline} change={(wish) => void change(wish)} close={() => setOpen("")} />}
      {open === "delete" && (
        <div class="confirm" role="group" aria-label="Delete the pipeline">
          Delete {pipeline.name} with its state and its checkpoints? Rows in sinks stay.
          <button class="stop" onClick={() => void remove()}>Delete</button>
          <button onClick={() => setOpen("")}>Keep</button>
        </div>
      )}
      {fault && <p class="fault" role="alert">{fault}</p>}
    </div>
  );
}

function Settings({ pipeline, change, close }: { pipeline: Pipeline; change: (wish: Change) => void; close: () => void }) {
  const [workers, setWorkers] = useState(String(pipeline.parallelism || 1));
  const [epoch, setEpoch] = useState(String(pipeline.checkpointIntervalMicros / 1e6));
  const first = useRef<HTMLInputElement>(null);
  useEffect(() => first.current?.select(), []);
  const submit = (event: Event) => {
    event.preventDefault();
    const wish: Change = {};
    if (Number(workers) !== pipeline.parallelism) wish.parallelism = Number(workers);
    const micros = Math.round(Number(epoch) * 1e6);
    if (micros !== pipeline.checkpointIntervalMicros) wish.checkpointIntervalMicros = micros;
    if (Object.keys(wish).length === 0) close();
    else change(wish);
  };
  return (
    <form class="confirm" aria-label="Settings" onSubmit={submit}>
      <label>Workers <input ref={first} type="number" required min="1" max="1024" value={workers} onInput={(event) => setWorkers(event.currentTarget.value)} /></label>
      <label>Seconds per epoch <input type="number" required min="0.01" max="86400" step="0.01" value={epoch} onInput={(event) => setEpoch(event.currentTarget.value)} /></label>
      <button class="primary">Apply</button>
      <button type="button" onClick={close}>Cancel</button>
      <small class="muted">It takes effect after the epoch that runs. No row is lost or repeated.</small>
    </form>
  );
}
