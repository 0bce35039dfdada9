//! Messages of the planner about functions and forms of other engines, with what to write instead.

use crate::nearest::nearest;

/// Functions of Athena, BigQuery, DuckDB, MySQL, PostgreSQL, Snowflake and Spark that do not exist, each group with what has the
/// same meaning.
const FUNCTIONS: [(&[&str], &str); 30] = [
    (&["date_add", "dateadd", "adddate", "date_sub", "timestampadd"], "`x + INTERVAL '1 day'`"),
    (
        &["date_diff", "datediff", "timestampdiff", "age"],
        "`day2 - day1`, which is a number of days for dates, or `extract(epoch FROM t2 - t1)` for seconds between times",
    ),
    (
        &["date_parse", "strptime", "parse_datetime", "parse_timestamp", "str_to_date", "try_strptime"],
        "`to_timestamp(x, '%Y-%m-%d %H:%M')`",
    ),
    (&["date_format", "strftime", "format_datetime", "format_timestamp", "format_date"], "`to_char(x, '%Y-%m-%d')`"),
    (
        &["from_iso8601_timestamp", "from_iso8601_date", "timestamp", "datetime"],
        "`CAST(x AS TIMESTAMP)` or `CAST(x AS DATE)`",
    ),
    (
        &["date", "int", "integer", "bigint", "string", "double", "to_number", "safe_cast"],
        "`CAST(x AS …)` or `TRY_CAST(x AS …)`",
    ),
    (
        &["year", "quarter", "month", "week", "day", "hour", "minute", "second", "epoch", "unix_timestamp"],
        "`extract(year FROM x)`, with `quarter`, `month`, `week`, `day`, `hour`, `minute`, `second` or `epoch`",
    ),
    (&["day_of_week", "dayofweek", "dow", "weekday", "isodow"], "`extract(dow FROM x)`, which is 0 for Sunday"),
    (&["day_of_year", "dayofyear", "doy"], "`extract(doy FROM x)`"),
    (&["dayname", "monthname"], "`to_char(x, '%A')` or `to_char(x, '%B')`"),
    (&["last_day", "last_day_of_month"], "`date_trunc('month', x) + INTERVAL '1 month' - INTERVAL '1 day'`"),
    (&["getdate", "sysdate", "localtimestamp", "current_datetime", "sysdatetime"], "`now()`"),
    (&["curdate", "today"], "`current_date`"),
    (&["approx_percentile", "approx_quantile", "approx_quantiles"], "`approx_percentile_cont(x, 0.5)`"),
    (
        &["quantile", "percentile", "percentile_disc", "quantile_disc"],
        "`percentile_cont(0.5) WITHIN GROUP (ORDER BY x)`",
    ),
    (&["approx_count_distinct", "hll"], "`approx_distinct(x)`"),
    (&["count_if", "countif", "sum_if", "sumif"], "`count(*) FILTER (WHERE …)`"),
    (&["max_by", "arg_max", "argmax"], "`first_value(x ORDER BY y DESC NULLS LAST)`"),
    (&["min_by", "arg_min", "argmin"], "`first_value(x ORDER BY y NULLS LAST)`"),
    (&["arbitrary"], "`any_value(x)`"),
    (&["every"], "`bool_and(x)`"),
    (&["listagg", "group_concat"], "`string_agg(x, ',' ORDER BY x)`"),
    (&["if", "iff", "iif"], "`CASE WHEN … THEN … ELSE … END`"),
    (&["try"], "`TRY_CAST(x AS …)`, or `x / nullif(y, 0)`"),
    (&["isnull", "zeroifnull"], "`x IS NULL` or `coalesce(x, 0)`"),
    (
        &[
            "json_extract",
            "json_extract_scalar",
            "json_value",
            "json_query",
            "get_json_object",
            "json_parse",
            "parse_json",
            "to_json",
        ],
        "`a['b']` for objects in a table of JSON files; the text of a column is not parsed as JSON",
    ),
    (&["regexp_extract", "regexp_substr"], "`regexp_match(x, 'a(b)')[1]`"),
    (&["split", "string_split", "str_split", "regexp_split_to_array"], "`string_to_array(x, ',')`"),
    (&["len", "size"], "`length(x)` of a text, or `array_length(x)` of a list"),
    (&["mod", "div"], "`x % y` or `x / y`, which is a whole number for integers"),
];

/// Functions that exist with a window only.
const WINDOWS: [&str; 8] = ["row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead"];

/// Functions with another name here.
const RENAMED: [(&str, &str); 9] = [
    ("sequence", "generate_series"),
    ("typeof", "arrow_typeof"),
    ("pg_typeof", "arrow_typeof"),
    ("charindex", "strpos"),
    ("startswith", "starts_with"),
    ("lcase", "lower"),
    ("ucase", "upper"),
    ("truncate", "trunc"),
    ("array_join", "array_to_string"),
];

/// Forms that the planner does not know: a part of its message, and what to write instead.
const FORMS: [(&str, &str); 8] = [
    ("TOP", "write `LIMIT n` at the end of the statement"),
    ("Unsupported ast node Pivot", "write `sum(x) FILTER (WHERE kind = 'a') AS a` for each value"),
    ("Unsupported ast node Unpivot", "write `SELECT 'a' AS kind, a AS x FROM t UNION ALL …`"),
    ("Unsupported binary operator: PGOverlap", "write `AND` instead of `&&`"),
    (
        "Unsupported SQL type JSON",
        "a table of JSON files has columns `a['b']`; the text of a column is not parsed as JSON",
    ),
    ("Unsupported SQL type HUGEINT", "write `DECIMAL(38, 0)`"),
    (
        "Dot access not supported for non-string expr",
        "write a name that is also a function or a word of SQL, such as `user`, in double quotes, and a field of a struct as \
         `a['b']`",
    ),
    ("table function 'unnest' not found", "write `CROSS JOIN UNNEST(list) AS u(x)`"),
];

/// Returns `message` of the planner, of which `more` are the lines behind the first, with what to write instead.
pub(crate) fn explained<'a>(message: &str, more: impl Iterator<Item = &'a str>) -> String {
    if let Some(name) = between(message, "Invalid function '", "'") {
        return missing_function(name, more);
    }
    if let Some(column) = between(message, "While expanding wildcard, column \"", "\" must appear in the GROUP BY") {
        let column = column.replace('"', "");
        return format!(
            "column `{column}` stands neither in GROUP BY nor in an aggregate function; add it to one of them"
        );
    }
    if let Some(name) = between(message, "table 'datafusion.", "' not found")
        && let Some((schema, table)) = name.split_once('.')
        && schema != "public"
    {
        return format!("table `{name}` does not exist; tables have no schema but `public`: write FROM {table}");
    }
    // A short form is the whole message.
    let is_of = |form: &str| message == form || form.len() > 3 && message.contains(form);
    let form = FORMS.iter().find(|(form, _)| is_of(form));
    match form {
        Some((_, advice)) => format!("{message}; {advice}"),
        None => message.to_string(),
    }
}

/// Returns the text of `message` from `start` to the next `end`.
fn between<'a>(message: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(start)?;
    Some(rest.split_once(end)?.0)
}

/// Returns the message about a function that does not exist. The planner's own proposal, in `more`, may be far from it.
fn missing_function<'a>(name: &str, mut more: impl Iterator<Item = &'a str>) -> String {
    let lower = name.to_lowercase();
    let missing = format!("function `{name}` does not exist");
    if WINDOWS.contains(&lower.as_str()) {
        return format!("function `{name}` needs a window; write `{name}(…) OVER (ORDER BY …)`");
    }
    if let Some((_, other)) = RENAMED.iter().find(|(known, _)| *known == lower) {
        return format!("{missing}; it is called `{other}`");
    }
    if let Some((_, instead)) = FUNCTIONS.iter().find(|(names, _)| names.contains(&lower.as_str())) {
        return format!("{missing}; write {instead}");
    }
    let proposed = more.find_map(|line| between(line, "Did you mean '", "'"));
    match proposed.and_then(|proposed| nearest(name, [proposed])) {
        Some(near) => format!("{missing}; did you mean `{near}`?"),
        None => format!("{missing}; check its name; docs/limits.md names the dialect of SQL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str) -> String {
        explained(&format!("Invalid function '{name}'."), ["Did you mean 'to_date'?"].into_iter())
    }

    #[test]
    fn functions_of_other_engines_have_an_equivalent() {
        assert_eq!(function("DATE_DIFF"), format!("function `DATE_DIFF` does not exist; write {}", FUNCTIONS[1].1));
        assert_eq!(function("rank"), "function `rank` needs a window; write `rank(…) OVER (ORDER BY …)`");
        assert_eq!(function("typeof"), "function `typeof` does not exist; it is called `arrow_typeof`");
        assert_eq!(function("to_dat"), "function `to_dat` does not exist; did you mean `to_date`?");
        assert_eq!(
            function("soundex"),
            "function `soundex` does not exist; check its name; docs/limits.md names the dialect of SQL"
        );
    }

    #[test]
    fn function_has_one_equivalent() {
        let mut names: Vec<&str> = FUNCTIONS.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        names.extend(RENAMED.iter().map(|(name, _)| *name));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn forms_of_other_engines_have_an_equivalent() {
        for (message, words) in [
            ("TOP", "TOP; write `LIMIT n`"),
            ("Unsupported binary operator: PGOverlap", "`AND` instead of `&&`"),
            ("table 'datafusion.default.t' not found", "table `default.t` does not exist; tables have no schema"),
            (
                "Column in SELECT must be in GROUP BY or an aggregate function: While expanding wildcard, column \"t.a\" must \
                 appear in the GROUP BY clause or must be part of an aggregate function, currently only \"t.id\" appears",
                "column `t.a` stands neither in GROUP BY",
            ),
        ] {
            let text = explained(message, std::iter::empty());
            assert!(text.contains(words), "{text}");
        }
        for message in ["STOP", "table 'datafusion.public.t' not found", "anything else"] {
            assert_eq!(explained(message, std::iter::empty()), message);
        }
    }
}
