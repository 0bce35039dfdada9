// The rows of an answer, of which pages are fetched as they come into view.
import { type Column, type Table, tableFromIPC } from "@uwdata/flechette";
import { signal } from "@preact/signals";
import { api, EXPIRED, Failure } from "./api";
import { kindOf, text, typeName, type Kind } from "./values";

/** Rows of a page. */
export const PAGE = 1000;

/** Pages that are kept. */
const PAGES_MAX = 50;

export type Head = { name: string; type: string; kind: Kind };

export function decoded(bytes: Uint8Array): Table {
  return tableFromIPC(bytes, { useBigInt: true, useDecimalInt: true });
}

/** Returns names and types of the columns of `table`. */
export function heads(table: Table): Head[] {
  return table.schema.fields.map((field) => ({
    name: field.name,
    type: typeName(field.type),
    kind: kindOf(field.type),
  }));
}

/** The rows that a grid shows. */
export interface Rows {
  readonly heads: Head[];
  readonly count: number;
  /** Grows when rows arrive. */
  readonly version: { value: number };
  /** Grows when there are more columns, or wider ones; rows that have all columns at once have none. */
  readonly shape?: number;
  /** True if rows are added at the end, which is kept in view. */
  readonly grows?: boolean;
  /** Returns the text of a value, null for NULL, undefined if its row has not arrived. */
  cell(row: number, column: number): string | null | undefined;
  /** Fetches the rows from `first` to `last` if they are missing. */
  need(first: number, last: number): void;
}

/** Rows that are all here. */
export class Whole implements Rows {
  readonly heads: Head[];
  readonly count: number;
  readonly version = signal(0);
  private readonly columns: Column<unknown>[];

  constructor(table: Table) {
    this.heads = heads(table);
    this.count = table.numRows;
    this.columns = this.heads.map((_, at) => table.getChildAt(at));
  }

  cell(row: number, column: number) {
    return text(this.columns[column], row);
  }

  need() {}
}

/** Rows of a query that the server keeps. */
export class Paged implements Rows {
  readonly version = signal(0);
  /** The reason for which rows cannot be fetched. */
  readonly fault = signal("");
  private readonly pages = new Map<number, Column<unknown>[]>();
  private readonly asked = new Set<number>();

  private constructor(
    readonly id: string,
    readonly heads: Head[],
    readonly count: number,
  ) {}

  /** Fetches the first page of query `id`, which has `count` rows. */
  static async open(id: string, count: number): Promise<Paged> {
    const table = decoded(await api.rows(id, 0, PAGE));
    // A first page that is not full has all rows.
    const all = table.numRows < PAGE ? table.numRows : Math.max(count, table.numRows);
    const rows = new Paged(id, heads(table), all);
    rows.keep(0, table);
    return rows;
  }

  private keep(page: number, table: Table) {
    this.pages.delete(page);
    this.pages.set(
      page,
      this.heads.map((_, at) => table.getChildAt(at)),
    );
    const [oldest] = this.pages.keys();
    if (this.pages.size > PAGES_MAX) this.pages.delete(oldest);
    this.version.value += 1;
  }

  cell(row: number, column: number) {
    const page = this.pages.get(Math.floor(row / PAGE));
    return page && text(page[column], row % PAGE);
  }

  need(first: number, last: number) {
    for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page++) {
      if (this.pages.has(page) || this.asked.has(page) || page * PAGE >= this.count) continue;
      this.asked.add(page);
      api
        .rows(this.id, page * PAGE, PAGE)
        .then((bytes) => {
          this.fault.value = "";
          this.keep(page, decoded(bytes));
        })
        .catch((error) => {
          this.fault.value =
            error instanceof Failure && error.status === 404 ? EXPIRED : String(error.message);
        })
        .finally(() => this.asked.delete(page));
    }
  }
}
