// Reads again and again while a page is open.
import { useEffect } from "preact/hooks";

/** Calls `read` now, then `pause` milliseconds after its end, as long as the page is open and in view. */
export function useRepeated(read: (signal: AbortSignal) => Promise<void>, pause: number, when: unknown[]) {
  useEffect(() => {
    const stop = new AbortController();
    let timer = 0;
    const again = async () => {
      if (!document.hidden) await read(stop.signal).catch(() => {});
      if (!stop.signal.aborted) timer = window.setTimeout(again, pause);
    };
    void again();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, when);
}
