// The sources that are kept: statements that declare a table, which a script may name without declaring it.
import { signal } from "@preact/signals";
import type { Column, Table } from "./api";
import { Failure } from "./api";
import { flows, hasState, type Kept, type Stream } from "./flows";
import { quoted } from "./format";

export const sources = signal<Kept[]>([]);
export const streams = signal<Stream[]>([]);
export const place = signal("");
export const sourcesRead = signal(false);
export const sourcesFault = signal("");

/** Reads the sources and the streams again. */
export async function readSources() {
  sourcesFault.value = "";
  const faults: string[] = [];
  await Promise.all([
    flows.pipelines().catch(() => []),
    flows
      .sources()
      .then((found) => (sources.value = found))
      .catch((error) => {
        if (!(error instanceof Failure && error.status === 404)) faults.push((error as Error).message);
      }),
    flows
      .streams()
      .then((answer) => {
        streams.value = answer.streams;
        place.value = answer.place ?? "";
      })
      .catch((error) => {
        if (!(error instanceof Failure && error.status === 404)) faults.push((error as Error).message);
      }),
  ]);
  sourcesFault.value = [...new Set(faults)].join("\n");
  sourcesRead.value = true;
}

/** Keeps a source beside the pipelines. */
export async function keep(name: string, statement: string) {
  if (!hasState.value) throw new Error("The server keeps no sources. Start it with --state FOLDER.");
  await flows.keep(name, statement);
  await readSources();
}

/** Removes a source that is kept. */
export async function forget(name: string) {
  await flows.forget(name);
  await readSources();
}

/** Returns the statement of a stream as a source. Its columns are those that the stream declares, if it does. */
export function streamStatement(name: string, path: string, columns = ""): string {
  const options = ["connector = 'http'", `path = ${text(path)}`];
  return `CREATE TABLE ${quoted(name)}${columns && ` (${columns})`} WITH (${options.join(", ")})`;
}

/** Quotes a text of SQL. */
export function text(value: string): string {
  return `'${value.replaceAll("'", "''")}'`;
}

/** Returns all that a script may read by name: the sources, and the streams that declare their columns. */
export function readable(): Kept[] {
  const names = new Set(sources.value.map((source) => source.name));
  const more = place.value ? streams.value.filter((stream) => stream.declaration && !names.has(stream.name)) : [];
  const declared = more.map(({ name }) => ({ name, connector: "http", statement: streamStatement(name, place.value) }));
  return [...sources.value, ...declared];
}

/** A script with the statements of the sources that it names, which are its first `lines` lines. */
export type Whole = { script: string; lines: number; used: string[] };

/** Puts the statements of the sources that `script` names before it, unless it declares tables of these names. */
export function whole(script: string): Whole {
  const code = script.replace(/--[^\n]*|\/\*[\s\S]*?\*\//g, " ");
  const declared = new Set(
    [...code.matchAll(/\bcreate\s+(?:or\s+replace\s+)?(?:table|source|sink|view|materialized\s+view)\s+(?:if\s+not\s+exists\s+)?"?([\w$]+)"?/gi)].map(([, name]) => name.toLowerCase()),
  );
  const words = new Set(code.replace(/'(?:[^']|'')*'/g, " ").toLowerCase().match(/[\w$]+/g));
  const used = readable().filter(({ name }) => words.has(name.toLowerCase()) && !declared.has(name.toLowerCase()));
  if (used.length === 0) return { script, lines: 0, used: [] };
  const head = used.map(({ statement }) => `${statement};\n`).join("");
  return { script: head + script, lines: head.split("\n").length - 1, used: used.map(({ name }) => name) };
}

/** Returns a message whose places count from the first line of the script itself, which is behind `lines` others. */
export function shifted(message: string, lines: number): string {
  return message.replace(/Line: (\d+)/g, (_, line) => `Line: ${Math.max(1, Number(line) - lines)}`);
}

const GENERATED: Record<string, Column[]> = {
  nexmark: [
    { name: "person", type: "struct" },
    { name: "auction", type: "struct" },
    { name: "bid", type: "struct" },
    { name: "date_time", type: "timestamp" },
  ],
  impulse: [
    { name: "counter", type: "bigint" },
    { name: "subtask_index", type: "bigint" },
    { name: "timestamp", type: "timestamp" },
  ],
};

/** Returns the columns of a source: those that it declares, or those of its generator or stream. */
export function columnsOf(source: Kept): Column[] {
  const body = /^\s*create\s+\w+\s+(?:"[^"]+"|\S+?)\s*\(/i.exec(source.statement);
  if (!body) {
    const stream = streams.value.find(({ name }) => name === source.name);
    return GENERATED[source.connector] ?? stream?.columns ?? [];
  }
  return parts(source.statement.slice(body[0].length))
    .filter((part) => !/^watermark\s+for\b/i.test(part))
    .map((part) => {
      const [, name, type] = /^("[^"]+"|\S+)\s*([\s\S]*)$/.exec(part) ?? [];
      return { name: (name ?? part).replaceAll('"', ""), type: (type ?? "").replace(/\s+(as|generated|not)\b[\s\S]*/i, "").toLowerCase() };
    });
}

/** Returns the parts between commas up to the parenthesis that ends them. */
function parts(text: string): string[] {
  const found = [""];
  let depth = 0;
  for (const char of text) {
    if (char === ")" && depth === 0) break;
    if (char === "(") depth += 1;
    if (char === ")") depth -= 1;
    if (char === "," && depth === 0) found.push("");
    else found[found.length - 1] += char;
  }
  return found.map((part) => part.trim()).filter(Boolean);
}

/** Returns the sources as tables, for the completion of names. */
export function asTables(): Table[] {
  return readable().map((source) => ({ name: source.name, type: source.connector, columns: columnsOf(source) }));
}
