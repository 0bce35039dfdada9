// Numbers as people read them.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Writes a count with groups of three digits. */
export function count(value: number | undefined): string {
  return value === undefined ? "–" : grouped.format(value);
}

/** Writes a count and its unit, which gets an s unless the count is 1. */
export function counted(value: number, unit: string): string {
  return `${count(value)} ${unit}${value === 1 ? "" : "s"}`;
}

/** Writes bytes in powers of 1000, as the server does. */
export function bytes(value: number | undefined): string {
  if (value === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let scaled = value;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit += 1;
  }
  return unit === 0 ? `${value} B` : `${scaled.toFixed(scaled < 10 ? 2 : scaled < 100 ? 1 : 0)} ${units[unit]}`;
}

/** Writes a time in seconds. */
export function seconds(value: number | undefined): string {
  if (value === undefined) return "–";
  if (value < 0.001) return value === 0 ? "0 s" : "< 1 ms";
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (value < 99.95) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  const whole = Math.round(value);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Writes a time in milliseconds. */
export function milliseconds(value: number | undefined): string {
  return value === undefined ? "–" : seconds(value / 1000);
}

/** Writes US dollars: cents if there are some, otherwise two digits that are not zero. */
export function dollars(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "$0";
  return value >= 1 ? `$${value.toFixed(2)}` : `$${Number(value.toPrecision(2)).toFixed(7).replace(/0+$/, "")}`;
}

/** Writes both ends of a range, or one if they look the same. */
export function range(of: { low: number; high: number }, write: (value: number) => string): string {
  const [low, high] = [write(of.low), write(of.high)];
  return low === high ? low : `${low} – ${high}`;
}

/** Writes a moment: the time if it is today, otherwise the date too. */
export function moment(ms: number): string {
  const at = new Date(ms);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return at.toDateString() === new Date().toDateString()
    ? time
    : `${at.toLocaleDateString([], { day: "numeric", month: "short" })} ${time}`;
}

/** Words that are no names without quotes: most fail, and `current_date` or `null` would be a value instead of the column. */
const WORDS = new Set(
  ("all current_catalog current_date current_time current_timestamp current_user distinct exists false from interval lateral " +
    "localtime localtimestamp null session_user struct table top trim true unnest user").split(" "),
);

/** Quotes a name as an SQL identifier if it needs quotes. */
export function quoted(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) && !WORDS.has(name) ? name : `"${name.replaceAll('"', '""')}"`;
}

/** Writes a length of CSS. */
export function px(value: number): string {
  return `${value}px`;
}
