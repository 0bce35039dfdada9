// The words of Buzz's SQL that the editor knows: fewer than the standard has, so that completions are those that help.
import type { CompletionContext, CompletionResult } from "@codemirror/autocomplete";
import { SQLDialect } from "@codemirror/lang-sql";
import { syntaxTree } from "@codemirror/language";

const KEYWORDS =
  "all and any as asc between by case cast create cross cube current desc describe distinct drop else end escape except exists " +
  "explain external extract false fetch filter first following for from full group grouping having ilike in inner intersect " +
  "interval into is join last lateral left like limit location natural not null nulls offset on only options or order outer over " +
  "partition partitioned preceding qualify range recursive replace right rollup row rows select semi anti sets show similar some " +
  "stored table tables then ties to true unbounded union unnest using values view when where window with within zone at time if insert watermark";

const TYPES =
  "array bigint boolean bytea char date decimal double float int integer numeric real smallint struct text time timestamp " +
  "timestamptz tinyint varchar";

const FUNCTIONS: Record<string, string> = {
  abs: "number", approx_distinct: "aggregate", approx_median: "aggregate", approx_percentile_cont: "aggregate",
  array_agg: "aggregate", avg: "aggregate", ceil: "number", coalesce: "any", concat: "text", concat_ws: "text", corr: "aggregate",
  count: "aggregate", cume_dist: "window", current_date: "time", date_bin: "time", date_part: "time", date_trunc: "time",
  dense_rank: "window", exp: "number", first_value: "window", floor: "number", generate_series: "table", greatest: "any", hop: "window of a stream",
  lag: "window", last_value: "window", lead: "window", least: "any", length: "text", ln: "number", log: "number", lower: "text",
  lpad: "text", ltrim: "text", make_date: "time", max: "aggregate", md5: "text", median: "aggregate", min: "aggregate",
  now: "time", ntile: "window", nullif: "any", percent_rank: "window", power: "number", random: "number", rank: "window",
  regexp_like: "text", regexp_match: "text", regexp_replace: "text", repeat: "text", reverse: "text", round: "number",
  row_number: "window", rpad: "text", rtrim: "text", session: "window of a stream", split_part: "text", sqrt: "number", starts_with: "text", stddev: "aggregate",
  string_agg: "aggregate", strpos: "text", substr: "text", sum: "aggregate", to_char: "time", to_date: "time",
  to_timestamp: "time", trim: "text", trunc: "number", tumble: "window of a stream", upper: "text", var_samp: "aggregate",
};

export const dialect = SQLDialect.define({
  keywords: KEYWORDS,
  types: TYPES,
  builtin: Object.keys(FUNCTIONS).join(" "),
  operatorChars: "+-*/<>=~!@#%^&|`?",
  doubleQuotedStrings: false,
  identifierQuotes: '"',
});

const options = Object.entries(FUNCTIONS).map(([name, detail]) => ({
  label: name,
  apply: `${name}(`,
  detail,
  type: "function",
}));

/** Returns the completions of functions. */
export function functions(context: CompletionContext): CompletionResult | null {
  const word = context.matchBefore(/\w+/);
  if (!word || context.matchBefore(/\.\w*/)) return null;
  if (/String|Comment|Quoted/.test(syntaxTree(context.state).resolveInner(context.pos, -1).name)) return null;
  return { from: word.from, options, validFor: /^\w*$/ };
}
