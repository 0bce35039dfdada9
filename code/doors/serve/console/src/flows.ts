// The calls about pipelines, streams and sources.
import { signal } from "@preact/signals";
import { Failure, json, part, send } from "./api";
import { events, type ServerEvent } from "./events";

export type Node = { nodeId: number; operator: string; description: string; parallelism: number };
export type Flow = { nodes: Node[]; edges: { srcId: number; destId: number }[] };
export type StopWay = "none" | "checkpoint" | "graceful" | "immediate" | "force";
export type Pipeline = {
  id: string;
  name: string;
  query: string;
  checkpointIntervalMicros: number;
  stop: StopWay;
  createdAt: number;
  actionInProgress: boolean;
  graph: Flow;
  state: string;
  parallelism: number;
  error: string | null;
  server: string;
  revision: number;
};
export type Job = { runId: number; startTime: number | null; finishTime: number | null; tasks: number };
export type Checkpoint = {
  epoch: number;
  checkpointType: string;
  startTime: number;
  finishTime: number;
  rowsIn: number;
  rowsOut: number;
  stateRows: number;
  bytes: number;
  late: number;
  bad: number;
  watermark: number | null;
  skipped: unknown;
};
export type Message = { id: string; createdAt: number; level: "info" | "warn" | "error"; message: string };
export type Point = { time: number; value: number };
export type Rates = {
  nodeId: number;
  metricGroups: { name: string; subtasks: { metrics: Point[] }[] }[];
};
export type StageState = { operatorId: string; bytes: number; rows: number };
export type Connector = { id: string; name: string; description: string; source: boolean; sink: boolean };
export type Stream = {
  name: string;
  rows: number;
  bytes: number;
  newest: string | null;
  declaration: string | null;
  columns: { name: string; type: string; required?: boolean }[];
};
export type Kept = { name: string; connector: string; statement: string; createdAt?: number };
export type Validation = { graph: Flow | null; errors: string[] };
export type Wish = { name: string; query: string; parallelism?: number; checkpointIntervalMicros?: number };
export type Change = Partial<Omit<Wish, "name">> & { stop?: StopWay };

/** False once the server has said that it keeps no pipelines. */
export const hasState = signal(true);

/** False once the server has said that it takes no rows of streams. */
export const hasStreams = signal(true);

const API = "/api/v1";
const of = (id: string) => `${API}/pipelines/${part(id)}`;
const job = (id: string) => `${of(id)}/jobs/${part(`job_${id}`)}`;

export const flows = {
  pipelines: async (signal?: AbortSignal) => {
    try {
      return (await json<{ data: Pipeline[] }>("GET", `${API}/pipelines`, undefined, signal)).data;
    } catch (error) {
      // No other list answers so.
      if (error instanceof Failure && error.status === 404) hasState.value = false;
      throw error;
    }
  },
  pipeline: (id: string, signal?: AbortSignal) => json<Pipeline>("GET", of(id), undefined, signal),
  create: (wish: Wish) => json<Pipeline>("POST", `${API}/pipelines`, wish),
  change: (id: string, change: Change) => json<Pipeline>("PATCH", of(id), change),
  restart: (id: string, force: boolean) => json<Pipeline>("POST", `${of(id)}/restart`, { force }),
  remove: (id: string) => send("DELETE", of(id)),
  job: async (id: string, signal?: AbortSignal) =>
    (await json<{ data: Job[] }>("GET", `${of(id)}/jobs`, undefined, signal)).data[0] as Job | undefined,
  messages: async (id: string, signal?: AbortSignal) =>
    (await json<{ data: Message[] }>("GET", `${job(id)}/errors`, undefined, signal)).data,
  checkpoints: async (id: string, signal?: AbortSignal) =>
    (await json<{ data: Checkpoint[] }>("GET", `${job(id)}/checkpoints`, undefined, signal)).data,
  states: async (id: string, epoch: number, signal?: AbortSignal) =>
    (await json<{ data: StageState[] }>("GET", `${job(id)}/checkpoints/${epoch}/operator_checkpoint_groups`, undefined, signal)).data,
  rates: async (id: string, signal?: AbortSignal) =>
    (await json<{ data: Rates[] }>("GET", `${job(id)}/operator_metric_groups`, undefined, signal)).data,
  validate: (query: string, signal?: AbortSignal) =>
    json<Validation>("POST", `${API}/pipelines/validate_query`, { query }, signal),
  connectors: async () => (await json<{ data: Connector[] }>("GET", `${API}/connectors`)).data,
  streams: async () => {
    try {
      return await json<{ streams: Stream[]; place?: string | null }>("GET", "streams");
    } catch (error) {
      if (error instanceof Failure && error.status === 404) hasStreams.value = false;
      throw error;
    }
  },
  declare: (name: string, statement: string) => send("PUT", `streams/${part(name)}`, statement),
  sources: async () => (await json<{ data: Kept[] }>("GET", `${API}/connection_tables`)).data,
  keep: (name: string, statement: string) => json<Kept>("POST", `${API}/connection_tables`, { name, statement }),
  forget: (name: string) => send("DELETE", `${API}/connection_tables/${part(name)}`),
  figures: async (signal?: AbortSignal) => figures(await (await send("GET", "/metrics", undefined, signal)).text()),
};

/** Runs `query` without keeping anything, and yields its rows. The preview ends when `signal` aborts. */
export async function* preview(query: string, signal: AbortSignal): AsyncGenerator<ServerEvent> {
  const headers = { Accept: "text/event-stream" };
  yield* events(await send("POST", `${API}/pipelines/preview`, { query }, signal, headers));
}

/** Yields the rows of a pipeline behind the one with the id `last`, or those that are still kept. */
export async function* output(id: string, last: string, signal: AbortSignal): AsyncGenerator<ServerEvent> {
  const headers: Record<string, string> = last ? { "Last-Event-ID": last } : {};
  yield* events(await send("GET", `${job(id)}/output`, undefined, signal, headers));
}

/** Figures of a pipeline that the server runs, by their names without `buzz_stream_`. */
export type Figures = { [name: string]: number | undefined };

/** Reads the figures of each pipeline from the text for Prometheus. */
function figures(text: string): Map<string, Figures> {
  const found = new Map<string, Figures>();
  for (const [, name, id, value] of text.matchAll(/^buzz_stream_(\w+)\{pipeline="([^"]*)"\} (\S+)$/gm)) {
    const own = found.get(id) ?? {};
    own[name] = Number(value);
    found.set(id, own);
  }
  return found;
}
