//! The JSON form of a continuous query: a query with `stream`, whose catalogs are streams and which has sinks.
//!
//! It is translated to a script. A step becomes a view, and the last step the statement: an `HBee` step that groups by a
//! window is folded as its rows come, and an `HComb` step runs on the rows of closed windows.

use buzz_protocol::{QueryError, Result};
use buzz_stream::Script;
use serde_json::{Map, Value};

use crate::unique::check_keys;

/// Returns a script as it is. Translates a query in JSON to one, and returns it with the pipeline's name if it has one.
///
/// # Errors
/// `Invalid` if a field of the query is missing, unknown or of another type.
pub fn script_of(text: String) -> Result<(String, Option<String>)> {
    if text.trim_start().starts_with('{') { to_script(&text) } else { Ok((text, None)) }
}

/// Translates `text` to a script, and returns it with the pipeline's name if it has one.
///
/// # Errors
/// `Invalid` if a field is missing, unknown or of another type.
fn to_script(text: &str) -> Result<(String, Option<String>)> {
    let json: Value =
        serde_json::from_str(text).map_err(|error| QueryError::invalid(format!("the query is not JSON: {error}")))?;
    check_keys(text)?;
    let query = json.as_object().ok_or_else(|| QueryError::invalid("the query is not a JSON object"))?;
    known(query, "the query", &["stream", "sql", "steps", "catalogs", "sinks"])?;
    let stream = query.get("stream").and_then(Value::as_object).ok_or_else(|| {
        QueryError::invalid("the query has no object `stream`; run it with `buzz query`, or add \"stream\": {}")
    })?;
    known(
        stream,
        "stream",
        &["name", "epoch", "epoch_rows", "parallelism", "on_error", "overflow", "updating_ttl", "into"],
    )?;
    let mut script = String::new();
    for key in ["epoch", "epoch_rows", "parallelism", "on_error", "overflow", "updating_ttl"] {
        if let Some(value) = given(stream, key) {
            script.push_str(&format!("SET {key} = '{}';\n", escaped(&scalar(value, "stream", key)?)));
        }
    }
    for entry in list(query, "catalogs")? {
        script.push_str(&source(entry)?);
    }
    for entry in list(query, "sinks")? {
        script.push_str(&sink(entry)?);
    }
    let into = optional_text(stream, "stream", "into")?;
    let steps = list(query, "steps")?;
    match (optional_text(query, "the query", "sql")?, steps.as_slice()) {
        (Some(sql), []) => script.push_str(&statement(into, sql)?),
        (None, [first @ .., last]) => {
            for step in first {
                let (name, sql) = (text_of(step, "a step", "name")?, step_sql(step)?);
                if !Script::is_query(sql)? {
                    return Err(QueryError::invalid(format!(
                        "`sql` of step `{name}` is not one query; later steps read its rows, so write one SELECT"
                    )));
                }
                script.push_str(&format!("CREATE VIEW {} AS {sql}\n;\n", quoted(name)));
            }
            script.push_str(&statement(into, step_sql(last)?)?);
        }
        (Some(_), _) => return Err(QueryError::invalid("the query has both `sql` and `steps`; use one of them")),
        (None, []) => return Err(QueryError::invalid("the query has neither `sql` nor `steps`; add one of them")),
    }
    Ok((script, optional_text(stream, "stream", "name")?.map(str::to_string)))
}

/// Returns the statements of `sql`, whose rows go into the sink `into` if one is named.
fn statement(into: Option<&str>, sql: &str) -> Result<String> {
    // The line may end with a comment.
    match into {
        None => Ok(format!("{sql}\n;\n")),
        Some(into) if Script::is_query(sql)? => Ok(format!("INSERT INTO {} {sql}\n;\n", quoted(into))),
        Some(into) => Err(QueryError::invalid(format!(
            "`into` of stream is `{into}`, but `sql` is not one query; remove `into` and write INSERT INTO in `sql`"
        ))),
    }
}

fn step_sql(step: &Map<String, Value>) -> Result<&str> {
    known(step, "a step", &["name", "step_type", "sql"])?;
    match text_of(step, "a step", "step_type")? {
        "HBee" | "HComb" => Ok(text_of(step, "a step", "sql")?.trim().trim_end_matches(';')),
        other => Err(QueryError::invalid(format!("step_type `{other}` is unknown; use HBee or HComb"))),
    }
}

fn source(entry: &Map<String, Value>) -> Result<String> {
    known(entry, "a catalog", &["name", "type", "uri", "format", "schema", "watermark", "options"])?;
    let name = text_of(entry, "a catalog", "name")?;
    let mut elements = Vec::new();
    for column in list(entry, "schema")? {
        known(column, "a column", &["name", "type"])?;
        elements.push(format!(
            "{} {}",
            quoted(text_of(column, "a column", "name")?),
            text_of(column, "a column", "type")?
        ));
    }
    if let Some(watermark) = optional_object(entry, "a catalog", "watermark")? {
        known(watermark, "watermark", &["column", "delay"])?;
        let column = quoted(text_of(watermark, "watermark", "column")?);
        elements.push(match optional_text(watermark, "watermark", "delay")? {
            None => format!("WATERMARK FOR {column}"),
            Some(delay) => {
                let nanos = buzz_connect::parse_duration(delay)
                    .ok_or_else(|| QueryError::invalid(format!("delay `{delay}` is not a duration; write it as 5s")))?;
                let interval = match nanos % 1_000_000 {
                    0 => format!("{} milliseconds", nanos / 1_000_000),
                    _ => format!("{nanos} nanoseconds"),
                };
                format!("WATERMARK FOR {column} AS {column} - INTERVAL '{interval}'")
            }
        });
    }
    let columns = if elements.is_empty() { String::new() } else { format!(" ({})", elements.join(", ")) };
    let mut options =
        connector(entry, "a catalog", &[("Nexmark", "nexmark"), ("Impulse", "impulse"), ("Stream", "json")])?;
    options.push(("type".to_string(), "source".to_string()));
    Ok(format!("CREATE TABLE {}{columns} WITH ({});\n", quoted(name), with(&options)))
}

fn sink(entry: &Map<String, Value>) -> Result<String> {
    known(entry, "a sink", &["name", "type", "uri", "format", "options"])?;
    let name = text_of(entry, "a sink", "name")?;
    let mut options = connector(entry, "a sink", &[("Stdout", "stdout")])?;
    options.push(("type".to_string(), "sink".to_string()));
    Ok(format!("CREATE TABLE {} WITH ({});\n", quoted(name), with(&options)))
}

/// Returns the connector and its options.
fn connector(entry: &Map<String, Value>, place: &str, more: &[(&str, &str)]) -> Result<Vec<(String, String)>> {
    let kind = text_of(entry, place, "type")?;
    let format = optional_text(entry, place, "format")?.map(str::to_lowercase);
    let known = [
        ("Parquet", "parquet"),
        ("JSON", "json"),
        ("Json", "json"),
        ("CSV", "csv"),
        ("Csv", "csv"),
        ("SingleFile", "single_file"),
    ];
    let connector = known.iter().chain(more).find(|(name, _)| *name == kind).map(|(_, connector)| *connector);
    let connector = connector.ok_or_else(|| {
        let mut names: Vec<&str> = known.iter().chain(more).map(|(name, _)| *name).collect();
        names.dedup_by_key(|name| name.to_lowercase());
        QueryError::invalid(format!("type `{kind}` of {place} is not supported; use one of {}", names.join(", ")))
    })?;
    let connector = match (kind, &format) {
        ("Stream", Some(format)) => format.clone(),
        _ => connector.to_string(),
    };
    let mut options = vec![("connector".to_string(), connector.clone())];
    if connector == "single_file" {
        options.push(("format".to_string(), format.unwrap_or_else(|| "json".to_string())));
    }
    if let Some(uri) = optional_text(entry, place, "uri")? {
        options.push(("path".to_string(), uri.to_string()));
    }
    for (key, value) in optional_object(entry, place, "options")?.into_iter().flatten() {
        options.push((key.clone(), scalar(value, "options", key)?));
    }
    Ok(options)
}

fn with(options: &[(String, String)]) -> String {
    let options = options.iter().map(|(key, value)| format!("'{}' = '{}'", escaped(key), escaped(value)));
    options.collect::<Vec<_>>().join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn escaped(text: &str) -> String {
    text.replace('\'', "''")
}

/// Returns a field unless it is missing or null.
fn given<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

fn optional_text<'a>(object: &'a Map<String, Value>, place: &str, key: &str) -> Result<Option<&'a str>> {
    let text = given(object, key).map(|value| value.as_str().ok_or_else(|| mistyped(value, place, key, "a text")));
    text.transpose()
}

fn optional_object<'a>(
    object: &'a Map<String, Value>,
    place: &str,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>> {
    let found =
        given(object, key).map(|value| value.as_object().ok_or_else(|| mistyped(value, place, key, "an object")));
    found.transpose()
}

/// Returns a text, number or boolean as text.
fn scalar(value: &Value, place: &str, key: &str) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => Err(mistyped(value, place, key, "a text, a number or a boolean")),
    }
}

fn mistyped(value: &Value, place: &str, key: &str, expected: &str) -> QueryError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    QueryError::invalid(format!("`{key}` of {place} is {found}; write {expected}"))
}

fn text_of<'a>(object: &'a Map<String, Value>, place: &str, key: &str) -> Result<&'a str> {
    let text = object.get(key).and_then(Value::as_str);
    text.ok_or_else(|| QueryError::invalid(format!("{place} has no text `{key}`")))
}

fn list<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Vec<&'a Map<String, Value>>> {
    let Some(value) = given(object, key) else { return Ok(Vec::new()) };
    let objects = value.as_array().and_then(|values| values.iter().map(Value::as_object).collect::<Option<Vec<_>>>());
    objects.ok_or_else(|| QueryError::invalid(format!("`{key}` is not a list of objects")))
}

fn known(object: &Map<String, Value>, place: &str, keys: &[&str]) -> Result<()> {
    match object.keys().find(|key| !keys.contains(&key.as_str())) {
        None => Ok(()),
        Some(unknown) => {
            Err(QueryError::invalid(format!("field `{unknown}` of {place} is unknown; known are {}", keys.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_become_views_and_a_statement() {
        let (script, name) = to_script(
            r#"{"stream": {"name": "busy", "epoch": "1s", "into": "out"},
                "steps": [{"name": "m", "step_type": "HBee", "sql": "SELECT a FROM bids"},
                          {"name": "r", "step_type": "HComb", "sql": "SELECT a FROM m"}],
                "catalogs": [{"name": "bids", "type": "Stream", "uri": "in", "schema": [{"name": "a", "type": "BIGINT"}],
                              "watermark": {"column": "ts", "delay": "5s"}}],
                "sinks": [{"name": "out", "type": "Parquet", "uri": "lake"}]}"#,
        )
        .expect("the query is complete");
        assert_eq!(name.as_deref(), Some("busy"));
        assert_eq!(
            script,
            "SET epoch = '1s';\n\
             CREATE TABLE \"bids\" (\"a\" BIGINT, WATERMARK FOR \"ts\" AS \"ts\" - INTERVAL '5000 milliseconds') WITH \
             ('connector' = 'json', 'path' = 'in', 'type' = 'source');\n\
             CREATE TABLE \"out\" WITH ('connector' = 'parquet', 'path' = 'lake', 'type' = 'sink');\n\
             CREATE VIEW \"m\" AS SELECT a FROM bids\n;\n\
             INSERT INTO \"out\" SELECT a FROM m\n;\n"
        );
    }

    #[test]
    fn unknown_field_is_refused() {
        let error = to_script(r#"{"stream": {"every": "1s"}, "sql": "SELECT 1"}"#).expect_err("`every` is unknown");
        assert!(error.to_string().contains("field `every` of stream is unknown"), "{error}");
    }

    #[test]
    fn key_that_is_given_twice_is_refused() {
        let error =
            to_script(r#"{"stream": {}, "sql": "SELECT 1", "sql": "SELECT 2"}"#).expect_err("`sql` is there twice");
        assert!(error.to_string().contains("key `sql` is given twice"), "{error}");
    }

    #[test]
    fn value_of_another_type_is_refused() {
        let query = |stream: &str, catalog: &str, more: &str| {
            format!(r#"{{"stream": {{{stream}}}, "catalogs": [{{"name": "t", "type": "Stream", {catalog}}}], {more}}}"#)
        };
        let (catalog, sql) = (r#""uri": "in""#, r#""sql": "SELECT 1""#);
        for (text, message) in [
            (query(r#""into": 1"#, catalog, sql), "`into` of stream is a number; write a text"),
            (query(r#""name": ["a"]"#, catalog, sql), "`name` of stream is a list; write a text"),
            (
                query(r#""epoch": {}"#, catalog, sql),
                "`epoch` of stream is an object; write a text, a number or a boolean",
            ),
            (query("", r#""watermark": "ts""#, sql), "`watermark` of a catalog is a text; write an object"),
            (
                query("", r#""watermark": {"column": "ts", "delay": 10}"#, sql),
                "`delay` of watermark is a number; write a text",
            ),
            (query("", r#""uri": 5"#, sql), "`uri` of a catalog is a number; write a text"),
            (query("", r#""format": true"#, sql), "`format` of a catalog is a boolean; write a text"),
            (query("", r#""options": ["header"]"#, sql), "`options` of a catalog is a list; write an object"),
            (query("", r#""options": {"path": null}"#, sql), "`path` of options is null; write a text"),
            (query("", catalog, r#""sql": 1"#), "`sql` of the query is a number; write a text"),
        ] {
            let error = to_script(&text).expect_err("a value has another type").to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
        to_script(&query(r#""into": null"#, r#""watermark": null"#, sql)).expect("null is as if it were missing");
    }

    #[test]
    fn rows_of_a_query_go_into_the_sink() {
        let query = |sql: &str| {
            let json = serde_json::json!({"stream": {"into": "out"}, "sql": sql});
            to_script(&json.to_string()).map(|(script, _)| Script::parse(&script).expect("the query is complete"))
        };
        for sql in ["SELECT 'it''s' AS a FROM t", "-- rows\n select 1 AS a -- end", "(SELECT 1 AS a);", "VALUES (1)"] {
            let script = query(sql).expect("it is a query");
            assert_eq!(script.statements.len(), 1, "{sql}");
            assert_eq!(script.statements[0].into.as_deref(), Some("out"), "{sql}");
        }
        let error = query("SET epoch = '1s'; SELECT 1").expect_err("`into` belongs to no statement").to_string();
        assert!(error.contains("`sql` is not one query"), "{error}");
    }

    #[test]
    fn step_with_several_statements_is_refused() {
        let query = r#"{"stream": {}, "steps": [
            {"name": "m", "step_type": "HBee", "sql": "SELECT 1; SELECT 2"},
            {"name": "r", "step_type": "HComb", "sql": "SELECT a FROM m"}]}"#;
        let error = to_script(query).expect_err("a view has one query").to_string();
        assert!(error.contains("`sql` of step `m` is not one query"), "{error}");
    }

    #[test]
    fn delay_keeps_its_nanoseconds() {
        for (delay, interval) in [("5s", "5000 milliseconds"), ("1500us", "1500000 nanoseconds")] {
            let query = serde_json::json!({"stream": {}, "sql": "SELECT 1", "catalogs": [
                {"name": "t", "type": "Stream", "watermark": {"column": "ts", "delay": delay}}]});
            let (script, _) = to_script(&query.to_string()).expect("the query is complete");
            assert!(script.contains(&format!("\"ts\" - INTERVAL '{interval}'")), "{script}");
        }
    }
}
