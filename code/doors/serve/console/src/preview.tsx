// Rows of a script that keeps nothing, while they come.
import { useEffect, useRef, useState } from "preact/hooks";
import { preview } from "./flows";
import { Live } from "./live";

export type Preview = { rows: Live; busy: boolean; fault: string; ended: boolean };

/** Returns the rows of the last preview, and how to start and to stop one. Leaving the page stops it. */
export function usePreview(rowsMax = Infinity) {
  const [now, setNow] = useState<Preview | null>(null);
  const stop = useRef<AbortController | null>(null);
  useEffect(() => () => stop.current?.abort(), []);
  const end = () => {
    stop.current?.abort();
    stop.current = null;
    setNow((now) => now && { ...now, busy: false });
  };
  const start = async (script: string) => {
    stop.current?.abort();
    const mine = new AbortController();
    stop.current = mine;
    const rows = new Live(rowsMax === Infinity);
    const change = (part: Partial<Preview>) => {
      if (stop.current === mine) setNow((now) => ({ ...(now ?? { busy: true, fault: "", ended: false }), rows, ...part }));
    };
    change({ busy: true, fault: "", ended: false });
    try {
      for await (const { name, data } of preview(script, mine.signal)) {
        if (name === "error") change({ fault: JSON.parse(data).error, busy: false });
        else if (name === "message") rows.add(JSON.parse(data).value);
        if (rows.total >= rowsMax) break;
      }
      change({ busy: false, ended: true });
    } catch (error) {
      if (!mine.signal.aborted) change({ fault: (error as Error).message, busy: false });
    }
    mine.abort();
  };
  return { now, start, end };
}
