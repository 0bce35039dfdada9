// Values of Arrow columns as text and as numbers, exactly: from the numbers in the buffers and not by way of a Date or a float.
import { type Batch, type Column, type DataType, Type } from "@uwdata/flechette";

// The classes of the library have more than its types declare.
type Any = any;

const UNITS = [1n, 1_000n, 1_000_000n, 1_000_000_000n];

/** Returns the text of row `row` of a column, null for NULL. */
export function text(column: Column<unknown>, row: number): string | null {
  const [batch, at] = place(column, row);
  return batch && at < batch.length ? cell(batch, at) : null;
}

/** Returns the number of row `row` of a column for a chart: of times, the seconds since 1970; null if there is none. */
export function numeric(column: Column<unknown>, row: number): number | null {
  const [batch, at] = place(column, row);
  if (!batch || isNull(batch, at)) return null;
  const { type, values } = batch as Any;
  switch (type.typeId) {
    case Type.Timestamp:
      return Number(values[at]) / Number(UNITS[type.unit]);
    case Type.Date:
      return type.unit === 0 ? Number(values[at]) * 86_400 : Number(values[at]) / 1000;
    case Type.Time:
    case Type.Duration:
      return Number(values[at]) / Number(UNITS[type.unit]);
    case Type.Decimal:
      return Number(batch.value(at)) / 10 ** type.scale;
    case Type.Int:
    case Type.Float:
      return Number(batch.value(at));
    case Type.Bool:
      return batch.value(at) ? 1 : 0;
    case Type.Dictionary: {
      const dictionary = batch as Any;
      return numeric(dictionary.dictionary, dictionary.key(at));
    }
    default:
      return null;
  }
}

function place(column: Column<unknown>, row: number): [Batch<unknown> | undefined, number] {
  const { data, offsets } = column as Any;
  let low = 0;
  let high = data.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (offsets[middle] <= row) low = middle;
    else high = middle - 1;
  }
  return [data[low], row - (offsets[low] ?? 0)];
}

function isNull(batch: Batch<unknown>, at: number): boolean {
  if ((batch.type as Any).typeId === Type.Null) return true;
  return Boolean(batch.nullCount) && !(batch as Any).isValid(at);
}

function cell(batch: Batch<unknown>, at: number): string | null {
  if (isNull(batch, at)) return null;
  const { type, values, children, offsets } = batch as Any;
  switch (type.typeId) {
    case Type.Timestamp:
      return timestamp(BigInt(values[at]), type.unit) + (type.timezone ? "Z" : "");
    case Type.Date: {
      if (type.unit === 0) return date(BigInt(values[at]));
      return timestamp(BigInt(values[at]), 1);
    }
    case Type.Time:
      return clock(BigInt(values[at]), type.unit);
    case Type.Duration:
      return duration(BigInt(values[at]), type.unit);
    case Type.Decimal:
      return decimal(BigInt(batch.value(at) as bigint | number), type.scale);
    case Type.Dictionary: {
      const { dictionary } = batch as Any;
      return text(dictionary, (batch as Any).key(at));
    }
    case Type.Float:
      return float(batch.value(at) as number, type.precision);
    case Type.Binary:
    case Type.LargeBinary:
    case Type.BinaryView:
    case Type.FixedSizeBinary:
      return hex(batch.value(at) as Uint8Array);
    case Type.List:
    case Type.LargeList:
      return list(children[0], Number(offsets[at]), Number(offsets[at + 1]));
    case Type.FixedSizeList:
      return list(children[0], at * type.stride, (at + 1) * type.stride);
    case Type.Struct:
      return struct(type.children, children, at);
    case Type.Map: {
      const entries = children[0] as Any;
      const parts = [];
      for (let entry = Number(offsets[at]); entry < Number(offsets[at + 1]); entry++) {
        parts.push(`${inner(entries.children[0], entry)}: ${inner(entries.children[1], entry)}`);
      }
      return `{${parts.join(", ")}}`;
    }
    case Type.Interval:
      return interval(batch as Any, at);
    default:
      return plain(batch.value(at));
  }
}

function list(child: Batch<unknown>, start: number, end: number): string {
  const parts = [];
  for (let at = start; at < end; at++) parts.push(inner(child, at));
  return `[${parts.join(", ")}]`;
}

function struct(fields: { name: string }[], children: Batch<unknown>[], at: number): string {
  return `{${fields.map((field, number) => `${field.name}: ${inner(children[number], at)}`).join(", ")}}`;
}

/** Returns a value within another: texts in quotes. */
function inner(batch: Batch<unknown>, at: number): string {
  const found = cell(batch, at);
  if (found === null) return "null";
  const { typeId } = batch.type as Any;
  return typeId === Type.Utf8 || typeId === Type.LargeUtf8 || typeId === Type.Utf8View ? JSON.stringify(found) : found;
}

function plain(value: unknown): string {
  return typeof value === "object"
    ? JSON.stringify(value, (_, inside) => (typeof inside === "bigint" ? inside.toString() : inside))
    : String(value);
}

/** Divides towards minus infinity. */
function divided(value: bigint, by: bigint): [bigint, bigint] {
  const rest = ((value % by) + by) % by;
  return [(value - rest) / by, rest];
}

/** Returns the date of a day since 1970, in any year. */
function date(days: bigint): string {
  // Days of the Gregorian calendar, counted from 1 March of the year 0.
  const [era, ofEra] = divided(days + 719_468n, 146_097n);
  const yearOfEra = (ofEra - ofEra / 1_460n + ofEra / 36_524n - ofEra / 146_096n) / 365n;
  const ofYear = ofEra - (365n * yearOfEra + yearOfEra / 4n - yearOfEra / 100n);
  const shifted = (5n * ofYear + 2n) / 153n;
  const day = ofYear - (153n * shifted + 2n) / 5n + 1n;
  const month = shifted < 10n ? shifted + 3n : shifted - 9n;
  const year = yearOfEra + era * 400n + (month <= 2n ? 1n : 0n);
  const years = year < 0n ? `-${padded(-year, 4)}` : padded(year, 4);
  return `${years}-${padded(month, 2)}-${padded(day, 2)}`;
}

function timestamp(value: bigint, unit: number): string {
  const [days, within] = divided(value, 86_400n * UNITS[unit]);
  return `${date(days)} ${clock(within, unit)}`;
}

function clock(value: bigint, unit: number): string {
  const [whole, part] = divided(value, UNITS[unit]);
  const time = `${padded(whole / 3600n, 2)}:${padded((whole / 60n) % 60n, 2)}:${padded(whole % 60n, 2)}`;
  const digits = unit * 3;
  return part === 0n ? time : `${time}.${padded(part, digits).replace(/0+$/, "")}`;
}

function duration(value: bigint, unit: number): string {
  const sign = value < 0n ? "-" : "";
  return `${sign}${clock(value < 0n ? -value : value, unit)}`;
}

function decimal(value: bigint, scale: number): string {
  if (scale <= 0) return (value * 10n ** BigInt(-scale)).toString();
  const digits = (value < 0n ? -value : value).toString().padStart(scale + 1, "0");
  return `${value < 0n ? "-" : ""}${digits.slice(0, -scale)}.${digits.slice(-scale)}`;
}

/** Returns the shortest text that stands for the same number in the column's precision. */
function float(value: number, precision: number): string {
  if (precision !== 1 || !Number.isFinite(value)) return Object.is(value, -0) ? "-0" : String(value);
  for (let digits = 6; digits <= 9; digits++) {
    const shorter = Number(value.toPrecision(digits));
    if (Math.fround(shorter) === value) return Object.is(value, -0) ? "-0" : String(shorter);
  }
  return String(value);
}

function hex(value: Uint8Array): string {
  let digits = "";
  for (const byte of value) digits += byte.toString(16).padStart(2, "0");
  return `0x${digits}`;
}

function interval(batch: Any, at: number): string {
  const { type, values } = batch;
  if (type.unit === 0) return `${batch.value(at)} months`;
  if (type.unit === 1) return `${values[2 * at]} days ${values[2 * at + 1]} ms`;
  // From the bytes: the library refuses nanoseconds of more than 104 days.
  const bytes = new DataView(values.buffer, values.byteOffset + 16 * at, 16);
  return `${bytes.getInt32(0, true)} months ${bytes.getInt32(4, true)} days ${bytes.getBigInt64(8, true)} ns`;
}

function padded(value: bigint, digits: number): string {
  return value.toString().padStart(digits, "0");
}

/** Returns the name of a type as people of SQL know it. */
export function typeName(type: DataType): string {
  const any = type as Any;
  switch (any.typeId) {
    case Type.Int:
      return `${any.signed ? "Int" : "UInt"}${any.bitWidth}`;
    case Type.Float:
      return ["Float16", "Float32", "Float64"][any.precision];
    case Type.Utf8:
    case Type.LargeUtf8:
    case Type.Utf8View:
      return "Text";
    case Type.Decimal:
      return `Decimal(${any.precision}, ${any.scale})`;
    case Type.Timestamp:
      return any.timezone ? `Timestamp, ${any.timezone}` : "Timestamp";
    case Type.Dictionary:
      return typeName(any.dictionary);
    default:
      return Object.entries(Type).find(([, id]) => id === any.typeId)?.[0] ?? "?";
  }
}

export type Kind = "number" | "time" | "text" | "other";

/** Returns the kind of a column, for its alignment and for charts. */
export function kindOf(type: DataType): Kind {
  const any = type as Any;
  switch (any.typeId) {
    case Type.Int:
    case Type.Float:
    case Type.Decimal:
      return "number";
    case Type.Timestamp:
    case Type.Date:
      return "time";
    case Type.Utf8:
    case Type.LargeUtf8:
    case Type.Utf8View:
    case Type.Bool:
      return "text";
    case Type.Dictionary:
      return kindOf(any.dictionary);
    default:
      return "other";
  }
}
