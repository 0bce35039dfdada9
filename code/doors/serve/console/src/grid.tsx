// A grid of any number of rows, of which only those in view are in the page.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Rows } from "./rows";
import { count, px } from "./format";

const ROW = 28;
const HEAD = 46;
/** Pixels that browsers can scroll. Beyond them, a pixel of the scroll bar is more than one of rows. */
const HEIGHT_MAX = 6_000_000;
const CHARACTER = 7.9;
/** Rows in the page, however high it is. */
const LINES_MAX = 200;

export function Grid({ rows, label }: { rows: Rows; label: string }) {
  const view = useRef<HTMLDivElement>(null);
  const [box, setBox] = useState({ top: 0, height: 400 });
  const [at, setAt] = useState({ row: 0, column: 0 });
  const [copied, setCopied] = useState(false);
  rows.version.value;

  const widths = useMemo(() => measured(rows), [rows, rows.shape]);
  const atEnd = useRef(true);
  const number = Math.max(String(rows.count).length * CHARACTER + 22, 44);
  const whole = rows.count * ROW;
  const height = Math.min(whole, HEIGHT_MAX);
  const inView = Math.max(box.height - HEAD, ROW);
  // Equal to the top of the scroll bar unless there are more rows than a browser can scroll.
  const top = height > inView && whole > height ? (box.top / (height - inView)) * (whole - inView) : box.top;
  const first = Math.max(0, Math.floor(top / ROW) - 6);
  const last = Math.min(rows.count - 1, Math.ceil((top + inView) / ROW) + 6, first + LINES_MAX);

  useEffect(() => {
    const timer = setTimeout(() => rows.need(Math.max(first, 0), Math.max(last, 0)), 40);
    return () => clearTimeout(timer);
  }, [rows, first, last]);

  useLayoutEffect(() => {
    const element = view.current!;
    const measure = () => setBox({ top: element.scrollTop, height: element.clientHeight });
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, []);

  useEffect(() => {
    setAt({ row: 0, column: 0 });
    atEnd.current = true;
    if (view.current) view.current.scrollTop = 0;
  }, [rows]);

  useLayoutEffect(() => {
    if (rows.grows && atEnd.current && view.current) view.current.scrollTop = view.current.scrollHeight;
  }, [rows.version.value]);

  const scrollTo = (row: number, column: number) => {
    const element = view.current!;
    const scale = whole > height && whole > inView ? (height - inView) / (whole - inView) : 1;
    const start = row * ROW;
    if (start < top) element.scrollTop = start * scale;
    else if (start + ROW > top + inView) element.scrollTop = (start + ROW - inView) * scale;
    let left = 0;
    for (let before = 0; before < column; before++) left += widths[before];
    if (left < element.scrollLeft) element.scrollLeft = left;
    const right = left + widths[column] + number;
    if (right > element.scrollLeft + element.clientWidth) element.scrollLeft = right - element.clientWidth;
  };

  const move = (event: KeyboardEvent) => {
    const page = Math.max(1, Math.floor(inView / ROW) - 1);
    const far = event.ctrlKey || event.metaKey;
    let { row, column } = at;
    switch (event.key) {
      case "ArrowDown": row += 1; break;
      case "ArrowUp": row -= 1; break;
      case "ArrowRight": column += 1; break;
      case "ArrowLeft": column -= 1; break;
      case "PageDown": row += page; break;
      case "PageUp": row -= page; break;
      case "Home": far ? (row = 0) : (column = 0); break;
      case "End": far ? (row = rows.count - 1) : (column = rows.heads.length - 1); break;
      case "c":
        if (!far || getSelection()?.toString()) return;
        navigator.clipboard?.writeText(rows.cell(at.row, at.column) ?? "").then(() => {
          setCopied(true);
          setTimeout(() => setCopied(false), 1200);
        });
        break;
      default: return;
    }
    event.preventDefault();
    row = Math.min(Math.max(row, 0), Math.max(rows.count - 1, 0));
    column = Math.min(Math.max(column, 0), Math.max(rows.heads.length - 1, 0));
    setAt({ row, column });
    scrollTo(row, column);
  };

  const lines = [];
  const shift = first * ROW - top + box.top;
  for (let row = first; row <= last; row++) {
    lines.push(
      <div class="line" role="row" aria-rowindex={row + 2} key={row} style={{ transform: `translateY(${Math.round(shift + (row - first) * ROW)}px)` }}>
        <span class="number" role="rowheader" style={{ width: px(number) }}>{count(row + 1)}</span>
        {rows.heads.map((head, column) => {
          const value = rows.cell(row, column);
          const is = at.row === row && at.column === column;
          return (
            <span
              role="gridcell"
              id={is ? "cell-at" : undefined}
              aria-colindex={column + 2}
              aria-selected={is}
              class={`cell ${head.kind}${value === null ? " null" : ""}${value === undefined ? " wait" : ""}${is ? " at" : ""}`}
              style={{ width: px(widths[column]) }}
              onMouseDown={() => setAt({ row, column })}
            >
              {value === undefined ? "" : value === null ? "NULL" : shortened(value)}
            </span>
          );
        })}
      </div>,
    );
  }
  const width = number + widths.reduce((sum, one) => sum + one, 0);
  const value = rows.count > 0 ? rows.cell(at.row, at.column) : undefined;
  return (
    <div class="grid">
      <div
        class="rows"
        ref={view}
        role="grid"
        tabIndex={0}
        aria-label={label}
        aria-rowcount={rows.count + 1}
        aria-colcount={rows.heads.length + 1}
        aria-activedescendant={rows.count > 0 && at.row >= first && at.row <= last ? "cell-at" : undefined}
        onScroll={(event) => {
          const { scrollTop, clientHeight, scrollHeight } = event.currentTarget;
          atEnd.current = scrollTop + clientHeight >= scrollHeight - ROW;
          setBox({ top: scrollTop, height: clientHeight });
        }}
        onKeyDown={move}
      >
        <div class="heads" role="row" aria-rowindex={1} style={{ width: px(width), height: px(HEAD) }}>
          <span class="number" role="columnheader" style={{ width: px(number) }}><span class="unseen">row</span></span>
          {rows.heads.map((head, column) => (
            <span role="columnheader" aria-colindex={column + 2} class={`head ${head.kind}`} style={{ width: px(widths[column]) }} title={`${head.name}: ${head.type}`}>
              <b>{head.name}</b>
              <i>{head.type}</i>
            </span>
          ))}
        </div>
        <div class="lines" role="rowgroup" style={{ width: px(width), height: px(height) }}>{lines}</div>
      </div>
      <div class="inspect">
        {rows.count === 0 ? (
          <span class="where">No rows</span>
        ) : (
          <>
            <span class="where">
              {rows.heads[at.column]?.name} <small>row {count(at.row + 1)}</small>
            </span>
            <code class={value === null ? "null" : ""}>{value === undefined ? "…" : (value ?? "NULL")}</code>
            <span class="copied" role="status">{copied ? "copied" : ""}</span>
          </>
        )}
      </div>
    </div>
  );
}

/** Returns a text as a cell can show it: its start, on one line. */
function shortened(value: string): string {
  return value.length > 300 ? `${value.slice(0, 300)}…` : value;
}

/** Returns the width of each column, by its name and its first values. */
function measured(rows: Rows): number[] {
  return rows.heads.map((head, column) => {
    let longest = Math.max(head.name.length * 1.3, head.type.length);
    for (let row = 0; row < Math.min(rows.count, 100); row++) {
      longest = Math.max(longest, (rows.cell(row, column) ?? "NULL").length);
    }
    return Math.round(Math.min(Math.max(longest, 5), 42) * CHARACTER) + 26;
  });
}
