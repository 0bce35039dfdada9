// Rows that arrive as JSON, shown while they come.
import { signal } from "@preact/signals";
import type { Head, Rows } from "./rows";
import type { Kind } from "./values";

/** Rows that are kept; older ones are dropped. */
const ROWS_MAX = 10_000;

/** Rows that are dropped at once. */
const ROWS_DROPPED = 1_000;

/** Rows by which the width of columns is measured. */
const MEASURED = 100;

/** Milliseconds between two changes of the page. */
const PAUSE = 150;

export class Live implements Rows {
  heads: Head[] = [];
  shape = 0;
  readonly version = signal(0);
  /** Rows that have arrived, of which the last are kept. */
  total = 0;
  private lines: Map<string, string | null>[] = [];
  private timer = 0;

  /** Makes rows of which the last stay in view if it `grows`. */
  constructor(readonly grows: boolean) {}

  get count() {
    return this.lines.length;
  }

  /** Adds a row, an object of JSON. */
  add(text: string) {
    const line = new Map<string, string | null>();
    for (const { name, raw } of fields(text)) {
      const { value, type, kind } = read(raw);
      line.set(name, value);
      const head = this.heads.find((head) => head.name === name);
      if (!head) {
        this.heads = [...this.heads, { name, type, kind }];
        this.shape += 1;
      } else if (head.type === "null" && type !== "null") {
        this.heads = this.heads.map((one) => (one === head ? { name, type, kind } : one));
        this.shape += 1;
      }
    }
    this.lines.push(line);
    this.total += 1;
    if (this.total <= MEASURED) this.shape += 1;
    if (this.lines.length > ROWS_MAX) this.lines.splice(0, ROWS_DROPPED);
    this.timer ||= window.setTimeout(() => {
      this.timer = 0;
      this.version.value += 1;
    }, PAUSE);
  }

  cell(row: number, column: number) {
    return this.lines[row]?.get(this.heads[column]?.name) ?? null;
  }

  need() {}
}

/** Returns a value of JSON as it is shown: texts without quotes, all others as they were written. */
function read(raw: string): { value: string | null; type: string; kind: Kind } {
  switch (raw[0]) {
    case '"': return { value: JSON.parse(raw), type: "text", kind: "text" };
    case "{": return { value: raw, type: "struct", kind: "other" };
    case "[": return { value: raw, type: "list", kind: "other" };
    case "t": case "f": return { value: raw, type: "boolean", kind: "other" };
    case "n": return { value: null, type: "null", kind: "other" };
    default: return { value: raw, type: "number", kind: "number" };
  }
}

/** Returns the fields of an object of JSON with the text of their values: a number that JavaScript would round stays exact. */
export function fields(text: string): { name: string; raw: string }[] {
  const found: { name: string; raw: string }[] = [];
  let at = text.indexOf("{") + 1;
  const space = () => {
    while (/[\s,:]/.test(text[at] ?? "")) at += 1;
  };
  const value = () => {
    const start = at;
    let depth = 0;
    for (; at < text.length; at++) {
      const char = text[at];
      if (char === '"') {
        for (at += 1; at < text.length && text[at] !== '"'; at++) if (text[at] === "\\") at += 1;
        if (depth === 0) {
          at += 1;
          break;
        }
      } else if (char === "{" || char === "[") {
        depth += 1;
      } else if (char === "}" || char === "]") {
        if (depth === 0) break;
        depth -= 1;
        if (depth === 0) {
          at += 1;
          break;
        }
      } else if (depth === 0 && /[\s,:]/.test(char)) {
        break;
      }
    }
    return text.slice(start, at);
  };
  for (;;) {
    space();
    if (at >= text.length || text[at] === "}") return found;
    const name: string = JSON.parse(value());
    space();
    found.push({ name, raw: value() });
  }
}
