// Reads again and again while a page is open.
import { useEffect, useState } from "preact/hooks";

/** Milliseconds after which a page that was out of view is looked at again. */
const HIDDEN = 1000;

/**
 * Reads now, and again `pause` milliseconds after each answer, as long as the page is open and in view; `null` ends it. `pause` gets the answer, or nothing
 * after a fault. Returns what was read last, which is forgotten when a value of `when` changes, the fault of the last time, and a function that reads at once.
 */
export function useRead<T>(
  read: (signal: AbortSignal) => Promise<T>,
  pause: (found?: T) => number | null,
  when: unknown[],
): { found?: T; fault: Error | null; again: () => void } {
  const [found, setFound] = useState<T | undefined>();
  const [fault, setFault] = useState<Error | null>(null);
  const [turn, setTurn] = useState(0);
  useEffect(() => setFound(undefined), when);
  useEffect(() => {
    const stop = new AbortController();
    let timer = 0;
    const next = async () => {
      let wait: number | null = HIDDEN;
      if (!document.hidden) {
        try {
          const answer = await read(stop.signal);
          if (stop.signal.aborted) return;
          setFound(() => answer);
          setFault(null);
          wait = pause(answer);
        } catch (error) {
          if (stop.signal.aborted) return;
          setFault(error as Error);
          wait = pause();
        }
      }
      if (wait !== null) timer = window.setTimeout(next, wait);
    };
    void next();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [...when, turn]);
  return { found, fault, again: () => setTurn((turn) => turn + 1) };
}
