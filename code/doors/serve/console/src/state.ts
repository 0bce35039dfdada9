// What the pages share, and what outlives a change of the page.
import { signal } from "@preact/signals";
import { api, Failure, type Table, type Work } from "./api";
import { Paged } from "./rows";

export const tables = signal<Table[]>([]);
export const canChange = signal(true);
export const tablesFault = signal("");
export const tablesRead = signal(false);

/** Reads the tables again. */
export async function readTables() {
  try {
    const answer = await api.tables();
    tables.value = answer.tables;
    canChange.value = answer.can_change ?? true;
    tablesFault.value = "";
    tablesRead.value = true;
  } catch (error) {
    tablesFault.value = (error as Error).message;
  }
}

const TEXT = "buzz.sql";

/** The statement in the editor, which a reload keeps. */
export const sqlText = signal(localStorage.getItem(TEXT) ?? "");

export function setSql(text: string) {
  sqlText.value = text;
  try {
    localStorage.setItem(TEXT, text.slice(0, 500_000));
  } catch {
    // The storage is full or forbidden: a reload forgets the text.
  }
}

/** A query that the page of questions runs or has run. */
export type Run = {
  sql: string;
  from: number;
  id: string;
  work?: Work;
  rows?: Paged;
  fault: string;
  /** Milliseconds at its start. */
  started: number;
  ended: boolean;
  cancelled: boolean;
};

export const run = signal<Run | null>(null);

/** Answers that the server keeps for this tab: the one that is shown. It limits those of a user. */
const kept: string[] = [];

const ATTEMPTS = 5000;

/** Runs `sql`, which stands at `from` in the editor. */
export async function ask(sql: string, from: number) {
  if (run.value && !run.value.ended) return;
  let now: Run = { sql, from, id: "", fault: "", started: performance.now(), ended: false, cancelled: false };
  run.value = now;
  const change = (part: Partial<Run>) => {
    if (run.value !== now) return false;
    run.value = now = { ...now, ...part };
    return true;
  };
  try {
    for (const id of kept.splice(0)) void api.remove(id).catch(() => {});
    const { id } = await api.submit(sql, { timeline_attempts: ATTEMPTS });
    kept.push(id);
    if (!change({ id })) return;
    let pause = 60;
    for (;;) {
      const work = await api.work(id, 0);
      if (!change({ work })) return;
      if (work.state === "failed") {
        change({ fault: work.error?.message ?? "The query failed.", ended: true });
        return;
      }
      if (work.state === "succeeded") break;
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 1.3, 500);
    }
    const rows = await Paged.open(id, now.work?.summary?.rows ?? 0);
    change({ rows, ended: true });
    if (/^\s*(create|drop)\b/i.test(sql)) await readTables();
  } catch (error) {
    const failure = error as Failure;
    change({ fault: failure.message, ended: true });
  }
}

/** Cancels the query that runs. */
export async function cancel() {
  const now = run.value;
  if (!now || now.ended || !now.id) return;
  run.value = { ...now, ended: true, cancelled: true };
  const at = kept.indexOf(now.id);
  if (at >= 0) kept.splice(at, 1);
  await api.remove(now.id).catch(() => {});
}

// The answers of a page that was closed are of no use. A query costs money while it runs, and kept answers are limited.
addEventListener("pagehide", () => {
  for (const id of kept) void api.leave(id).catch(() => {});
  kept.length = 0;
});
