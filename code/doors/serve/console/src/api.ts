// The calls of the HTTP door. Each sends the key; an answer that refuses the key asks for another.
import { signal } from "@preact/signals";

export type State = "waiting" | "running" | "succeeded" | "failed";
export type Fault = { kind: string; message: string };
export type Column = { name: string; type: string };
export type FileOf = { path: string; bytes: number; partition_values: (string | null)[]; deleted_rows: number };
export type Table = {
  name: string;
  type?: string;
  uri?: string;
  view?: boolean;
  columns?: Column[];
  files?: number;
  bytes?: number;
  partition_columns?: string[];
  version?: number | null;
  warnings?: string[];
  file_list?: FileOf[];
  error?: Fault;
};
export type Progress = {
  phase: "plan" | "map" | "reduce";
  tasks: number;
  tasks_done: number;
  rows_scanned: number;
  bytes_scanned: number;
  retries: number;
  milliseconds: number;
};
export type Summary = {
  rows: number;
  files_read: number;
  files_found: number;
  bytes_read: number;
  tasks: number;
  retries: number;
  seconds: number;
  cost_usd: number | null;
  get_requests?: number;
  put_requests?: number;
  combs_started?: number;
  started_usd?: number | null;
  stragglers?: number;
  reruns?: number;
  combs?: number;
  rows_delivered?: number;
  bytes_delivered?: number;
  open_seconds?: number;
  plan_seconds?: number;
  run_seconds?: number;
};
export type Stage = {
  stage: number;
  step: string;
  tasks: number;
  attempts: number;
  median_ms?: number;
  slowest_ms?: number;
  slowest_task?: number;
  rows_scanned: number;
  bytes_scanned: number;
  rows_delivered: number;
  bytes_delivered: number;
};
export type Attempt = {
  reruns: number;
  stage: number;
  step: string;
  task: number;
  attempt: number;
  start_ms: number;
  end_ms: number;
  worked_ms: number | null;
  rows: number;
  bytes_read: number;
  fate: "done" | "abandoned" | { failed: string };
};
export type Work = {
  id: string;
  user?: string;
  sql: string;
  state: State;
  started_ms: number;
  seconds?: number;
  progress?: Progress;
  summary?: Summary;
  error?: Fault;
  warnings: string[];
  stages: Stage[];
  attempts: Attempt[];
  attempts_left_out: number;
};
export type Listed = Omit<Work, "warnings" | "stages" | "attempts" | "attempts_left_out">;
export type Range = { low: number; high: number };
export type Estimate = {
  bytes?: number;
  requests?: number;
  tasks?: number;
  seconds?: Range | null;
  dollars?: Range | null;
};

/** A call that failed, with the kind and the message of the server. */
export class Failure extends Error {
  constructor(
    readonly kind: string,
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

const STORED = "buzz.key";

/** The key, or "" if it is not known. It is kept as long as the tab is open. */
export const key = signal(stored());

/** True if the server refused the last key. */
export const refused = signal(false);

function stored(): string {
  const given = /[#&]key=([^&]+)/.exec(location.hash)?.[1];
  if (given) {
    const value = decodeURIComponent(given);
    sessionStorage.setItem(STORED, value);
    // Out of the address bar and the history of the browser.
    history.replaceState(null, "", location.pathname + "#/ask");
    return value;
  }
  return sessionStorage.getItem(STORED) ?? "";
}

/** The last key that the server accepted. The page shows what was answered to it. */
let accepted = "";

/** Takes `value` as the key. If the page shows answers to another key, it begins anew. */
export function useKey(value: string) {
  sessionStorage.setItem(STORED, value);
  if (accepted && accepted !== value) {
    beginAnew();
    return;
  }
  refused.value = false;
  key.value = value;
}

/** Forgets the key, and all that it has shown: the page begins anew. */
export function forgetKey() {
  sessionStorage.removeItem(STORED);
  beginAnew();
}

/** Loads the page again without the statement, the rows and the tables of the user before. */
function beginAnew() {
  for (const name of ["buzz.sql", "buzz.script"]) localStorage.removeItem(name);
  history.replaceState(null, "", location.pathname);
  location.reload();
}

/**
 * Sends a request and returns the response if it succeeded. `path` is below `/v1/`, or begins with `/`. A body that is a text is
 * sent as it is, another one as JSON.
 */
export async function send(method: string, path: string, body?: unknown, signal?: AbortSignal, headers: Record<string, string> = {}): Promise<Response> {
  const sent = key.value;
  const isText = typeof body === "string";
  let response: Response;
  try {
    response = await fetch(new URL(path.startsWith("/") ? `..${path}` : `../v1/${path}`, document.baseURI), {
      method,
      headers: {
        Authorization: `Bearer ${sent}`,
        ...(body === undefined ? {} : { "Content-Type": isText ? "text/plain" : "application/json" }),
        ...headers,
      },
      body: body === undefined || isText ? body : JSON.stringify(body),
      cache: "no-store",
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure("Unavailable", "The server does not answer. Is `buzz serve` still running?", 0);
  }
  if (response.ok) {
    accepted = sent;
    return response;
  }
  const text = await response.text();
  let fault: Fault | undefined;
  try {
    const { error } = JSON.parse(text);
    fault = typeof error === "string" ? { kind: "Invalid", message: error } : error;
  } catch {
    // Not from Buzz.
  }
  // A late answer to the key before says nothing about this one.
  if (response.status === 401 && sent === key.value) {
    sessionStorage.removeItem(STORED);
    refused.value = true;
    key.value = "";
  }
  throw new Failure(fault?.kind ?? "Internal", fault?.message ?? `${response.status} ${text}`, response.status);
}

export async function json<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  return (await send(method, path, body, signal)).json();
}

export const part = encodeURIComponent;

/** Explains that an answer is no longer kept. */
export const EXPIRED = "The server no longer keeps this answer. Run the query again to see its rows.";

export const api = {
  submit: (sql: string, options: Record<string, unknown>) =>
    json<{ id: string }>("POST", "queries", { sql, options, format: "arrow" }),
  work: (id: string, attempts: number, signal?: AbortSignal) =>
    json<Work>("GET", `queries/${part(id)}/work?attempts=${attempts}`, undefined, signal),
  history: () => json<{ queries: Listed[] }>("GET", "queries"),
  /** Sends even when the page is being closed. */
  leave: (id: string) =>
    fetch(new URL(`../v1/queries/${part(id)}`, document.baseURI), {
      method: "DELETE",
      headers: { Authorization: `Bearer ${key.value}` },
      keepalive: true,
    }),
  remove: (id: string) => send("DELETE", `queries/${part(id)}`),
  rows: async (id: string, offset: number, limit: number, signal?: AbortSignal) => {
    const path = `queries/${part(id)}/rows?format=arrow&offset=${offset}&limit=${limit}`;
    return new Uint8Array(await (await send("GET", path, undefined, signal)).arrayBuffer());
  },
  whole: async (id: string, format: string) =>
    (await send("GET", `queries/${part(id)}/rows?format=${format}`)).blob(),
  query: async (sql: string) =>
    new Uint8Array(await (await send("POST", "query", { sql, format: "arrow" })).arrayBuffer()),
  plan: (sql: string) => json<{ plan: string; warnings: string[] }>("POST", "plan", { sql }),
  estimate: (sql: string, signal: AbortSignal) => json<Estimate>("POST", "estimate", { sql }, signal),
  tables: () => json<{ tables: Table[]; can_change?: boolean }>("GET", "tables"),
  table: (name: string) => json<Table>("GET", `tables/${part(name)}`),
};
