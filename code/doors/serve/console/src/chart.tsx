// A chart of the first rows of an answer.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import type { Column, Table } from "@uwdata/flechette";
import { api } from "./api";
import { count } from "./format";
import { decoded, heads, type Paged } from "./rows";
import { dark } from "./theme";
import { numeric, text } from "./values";

/** Rows that a chart draws. */
const ROWS_MAX = 50_000;

/** Bars that have room in a chart. */
const BARS_MAX = 400;

type Form = "line" | "bars" | "points";

export function Chart({ rows }: { rows: Paged }) {
  const names = rows.heads;
  const numbers = names.map((head, at) => ({ ...head, at })).filter((head) => head.kind === "number");
  const first = useMemo(() => {
    const found = ["time", "text"].map((kind) => names.findIndex((head) => head.kind === kind)).find((at) => at >= 0);
    return found ?? (numbers.length > 1 ? numbers[0].at : -1);
  }, [rows]);
  const [x, setX] = useState(first);
  const [ys, setYs] = useState<number[]>(() => numbers.filter((head) => head.at !== first).slice(0, 1).map((head) => head.at));
  const ordered = x >= 0 && (names[x].kind === "time" || names[x].kind === "number");
  const [form, setForm] = useState<Form>(ordered ? "line" : "bars");
  const [table, setTable] = useState<Table | null>(null);
  const [fault, setFault] = useState("");
  const host = useRef<HTMLDivElement>(null);

  useEffect(() => {
    const stop = new AbortController();
    api
      .rows(rows.id, 0, ROWS_MAX, stop.signal)
      .then((bytes) => setTable(decoded(bytes)))
      .catch((error) => stop.signal.aborted || setFault(error.message));
    return () => stop.abort();
  }, [rows]);

  const drawn = useMemo(() => (table && ys.length > 0 ? series(table, x, ys, form) : null), [table, x, ys, form]);

  useEffect(() => {
    if (!host.current || !drawn) return;
    const element = host.current;
    const size = () => ({ width: element.clientWidth, height: Math.max(element.clientHeight, 240) });
    const plot = new uPlot(options(drawn, form, x < 0 ? "row" : names[x].name, ys.map((at) => names[at].name), size()), drawn.data, element);
    const observer = new ResizeObserver(() => plot.setSize(size()));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.destroy();
    };
  }, [drawn, dark.value]);

  if (numbers.length === 0) {
    return <p class="empty">A chart needs a column of numbers. Count or sum something, such as <code>COUNT(*)</code>.</p>;
  }
  return (
    <div class="chart">
      <div class="choices">
        <label>
          Form
          <select value={form} onChange={(event) => setForm(event.currentTarget.value as Form)}>
            <option value="line">Lines</option>
            <option value="bars">Bars</option>
            <option value="points">Points</option>
          </select>
        </label>
        <label>
          Across
          <select value={x} onChange={(event) => setX(Number(event.currentTarget.value))}>
            <option value={-1}>row number</option>
            {names.map((head, at) => (head.kind === "other" ? null : <option value={at}>{head.name}</option>))}
          </select>
        </label>
        <fieldset>
          <legend>Up</legend>
          {numbers.slice(0, 12).map((head) => (
            <label class="check">
              <input
                type="checkbox"
                checked={ys.includes(head.at)}
                onChange={() => setYs(ys.includes(head.at) ? ys.filter((at) => at !== head.at) : [...ys, head.at].slice(-6))}
              />
              {head.name}
            </label>
          ))}
        </fieldset>
      </div>
      {fault && <p class="fault" role="alert">{fault}</p>}
      {!table && !fault && <p class="empty" role="status">Fetching rows …</p>}
      {table && ys.length === 0 && <p class="empty">Choose a column of numbers to draw.</p>}
      <div
        class="plot"
        ref={host}
        role="img"
        aria-label={`Chart of ${ys.map((at) => names[at].name).join(", ")} by ${x < 0 ? "row number" : names[x].name}. The values are in the rows.`}
      />
      {drawn && (drawn.left > 0 || rows.count > ROWS_MAX) && (
        <p class="note">
          {drawn.left > 0 && `${count(drawn.left)} of the rows have no value to draw or no room. `}
          {rows.count > ROWS_MAX && `Drawn from the first ${count(ROWS_MAX)} of ${count(rows.count)} rows.`}
        </p>
      )}
    </div>
  );
}

type Drawn = { data: uPlot.AlignedData; labels: string[] | null; isTime: boolean; left: number };

/** Returns the points, sorted if `x` has an order. */
function series(table: Table, x: number, ys: number[], form: Form): Drawn {
  const column = x < 0 ? null : (table.getChildAt(x) as Column<unknown>);
  const kind = x < 0 ? "number" : heads(table)[x].kind;
  const isText = kind === "text" || (form === "bars" && x >= 0);
  const rows: number[] = [];
  const xs: number[] = [];
  for (let row = 0; row < table.numRows; row++) {
    const value = column === null ? row + 1 : isText ? row : numeric(column, row);
    if (value === null || !Number.isFinite(value)) continue;
    rows.push(row);
    xs.push(value);
  }
  let order = rows.map((_, at) => at);
  if (!isText) order.sort((one, other) => xs[one] - xs[other]);
  if (form === "bars") order = order.slice(0, BARS_MAX);
  const data = [
    order.map((at, place) => (isText ? place : xs[at])),
    ...ys.map((y) => {
      const values = table.getChildAt(y) as Column<unknown>;
      return order.map((at) => numeric(values, rows[at]));
    }),
  ];
  const labels = isText && column ? order.map((at) => text(column, rows[at]) ?? "NULL") : null;
  return { data: data as uPlot.AlignedData, labels, isTime: kind === "time" && !isText, left: table.numRows - order.length };
}

function options(drawn: Drawn, form: Form, across: string, names: string[], size: { width: number; height: number }): uPlot.Options {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--grid"), width: 1 },
    ticks: { stroke: colour("--grid"), width: 1 },
    font: `12px ${colour("--sans")}`,
  };
  const { labels } = drawn;
  const shape = (at: number): Partial<uPlot.Series> => {
    const stroke = colour(`--series-${(at % 6) + 1}`);
    if (form === "bars") {
      return { stroke, fill: stroke, paths: uPlot.paths.bars!({ size: [0.7, 90], radius: 0.05 }), points: { show: false } };
    }
    if (form === "points") return { stroke, paths: () => null, points: { show: true, size: 5, fill: stroke } };
    return { stroke, width: 2, fill: names.length === 1 ? `${stroke}22` : undefined, points: { show: drawn.data[0].length < 60, size: 5 } };
  };
  const room = Math.max(4, Math.floor(size.width / 90));
  return {
    ...size,
    tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    scales: {
      x: { time: drawn.isTime, range: labels ? [-0.6, drawn.data[0].length - 0.4] : undefined },
      y: { range: (_, low, high) => (form === "bars" || low >= 0 ? uPlot.rangeNum(Math.min(low, 0), Math.max(high, 0), { min: { pad: 0, hard: low >= 0 ? 0 : undefined }, max: { pad: 0.08 } } as uPlot.Range.Config) : uPlot.rangeNum(low, high, 0.08, true)) },
    },
    axes: [
      {
        ...axis,
        ...(labels && {
          splits: () => {
            const step = Math.max(1, Math.ceil(labels.length / room));
            return labels.map((_, at) => at).filter((at) => at % step === 0);
          },
          values: (_: uPlot, at: number[]) => at.map((one) => shortened(labels[one] ?? "")),
          grid: { show: false },
        }),
        ...(drawn.isTime && { values: (_: uPlot, at: number[], _axis: number, _space: number, step: number) => at.map((one, place) => timeLabel(one, step, place === 0)) }),
      },
      { ...axis, size: 70 },
    ],
    series: [
      { label: across, value: labels ? (_: uPlot, at: number | null) => (at === null ? "–" : (labels[at] ?? "–")) : drawn.isTime ? (_: uPlot, at: number | null) => (at === null ? "–" : iso(at).slice(0, 19).replace("T", " ").replace(" 00:00:00", "")) : undefined },
      ...names.map((label, at) => ({ label, ...shape(at) })),
    ],
    cursor: { points: { size: 7 } },
    legend: { live: true },
  };
}

/** Returns a moment in the form of ISO 8601, "" beyond the years that browsers know. */
function iso(at: number): string {
  const date = new Date(at * 1000);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString();
}

/** Writes a moment of an axis whose marks are `step` seconds apart. */
function timeLabel(at: number, step: number, isFirst: boolean): string {
  const text = iso(at);
  if (step >= 300 * 86_400) return text.slice(0, 4);
  if (step >= 27 * 86_400) return text.slice(0, 7);
  if (step >= 86_400) return isFirst ? `${text.slice(5, 10)}\n${text.slice(0, 4)}` : text.slice(5, 10);
  const time = step >= 60 ? text.slice(11, 16) : step >= 1 ? text.slice(11, 19) : text.slice(11, 23);
  return isFirst || time === "00:00" ? `${time}\n${text.slice(0, 10)}` : time;
}

function shortened(label: string): string {
  return label.length > 14 ? `${label.slice(0, 13)}…` : label;
}
