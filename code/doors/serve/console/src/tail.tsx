// The rows of a pipeline, followed while they come.
import { useEffect, useRef, useState } from "preact/hooks";
import { output } from "./flows";
import { counted } from "./format";
import { Grid } from "./grid";
import { Live } from "./live";

/** Milliseconds before a connection that broke is made again. */
const AGAIN_AFTER = 1500;

type Now = { following: boolean; ended: boolean; fault: string; missed: number };

export function Tail({ id }: { id: string }) {
  const sinks = useRef(new Map<string, Live>());
  const last = useRef("");
  const [names, setNames] = useState<string[]>([]);
  const [chosen, setChosen] = useState("");
  const [follows, setFollows] = useState(true);
  const [now, setNow] = useState<Now>({ following: false, ended: false, fault: "", missed: 0 });
  useEffect(() => {
    if (!follows) return;
    const stop = new AbortController();
    const change = (part: Partial<Now> | ((now: Now) => Partial<Now>)) => {
      if (!stop.signal.aborted) setNow((now) => ({ ...now, ...(typeof part === "function" ? part(now) : part) }));
    };
    const follow = async () => {
      while (!stop.signal.aborted) {
        try {
          change({ following: true, fault: "", ended: false });
          for await (const event of output(id, last.current, stop.signal)) {
            if (event.name === "end") {
              change({ following: false, ended: true });
              return;
            }
            if (event.name === "error") {
              change({ following: false, fault: JSON.parse(event.data).error });
              return;
            }
            if (event.name === "gap") {
              const { epochs } = JSON.parse(event.data);
              change((now) => ({ missed: now.missed + epochs }));
              continue;
            }
            if (stop.signal.aborted) return;
            last.current = event.id || last.current;
            const { operatorId, value } = JSON.parse(event.data);
            let rows = sinks.current.get(operatorId);
            if (!rows) {
              rows = new Live(true);
              sinks.current.set(operatorId, rows);
              setNames([...sinks.current.keys()]);
            }
            rows.add(value);
          }
        } catch (error) {
          change({ following: false, fault: (error as Error).message });
        }
        await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER));
      }
    };
    void follow();
    return () => stop.abort();
  }, [id, follows]);
  const name = names.includes(chosen) ? chosen : names[0];
  const rows = name === undefined ? undefined : sinks.current.get(name);
  rows?.version.value;
  return (
    <>
      <div class="bar tail">
        <p class="facts" role="status">
          <b>{rows ? counted(rows.total, "row") : "No rows yet"}</b>
          <span>{!follows ? "paused" : now.ended ? "it has ended" : now.following ? "following" : "not connected"}</span>
          {now.missed > 0 && <span class="warn">rows of {counted(now.missed, "epoch")} were deleted before they were read</span>}
        </p>
        {names.length > 1 && (
          <label class="check">Sink <select value={name} onChange={(event) => setChosen(event.currentTarget.value)}>{names.map((one) => <option>{one}</option>)}</select></label>
        )}
        <button class="small" onClick={() => setFollows(!follows)}>{follows ? "Pause" : "Go on"}</button>
      </div>
      {now.fault && <p class="fault" role="alert">{now.fault}</p>}
      {rows ? (
        <div class="sample"><Grid rows={rows} label={`Rows of ${name}`} /></div>
      ) : (
        !now.fault && <p class="empty">{now.ended ? "The pipeline has no rows that are still kept." : "Rows are shown as they come; windows emit theirs when they close."}</p>
      )}
    </>
  );
}
