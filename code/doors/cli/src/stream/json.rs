//! The JSON form of a continuous query: a query with `stream`, whose catalogs are streams and which has sinks.
//!
//! It is translated to a script. A step becomes a view, and the last step the statement: an `HBee` step that groups by a
//! window is folded as its rows come, and an `HComb` step runs on the rows of closed windows.

use buzz_protocol::{QueryError, Result};
use serde_json::{Map, Value};

/// Translates `text` to a script, and returns it with the pipeline's name if it has one.
///
/// # Errors
/// `Invalid` if a field is missing, unknown or of another type.
pub(super) fn to_script(text: &str) -> Result<(String, Option<String>)> {
    let json: Value =
        serde_json::from_str(text).map_err(|error| QueryError::invalid(format!("the query is not JSON: {error}")))?;
    let query = json.as_object().ok_or_else(|| QueryError::invalid("the query is not a JSON object"))?;
    known(query, "the query", &["stream", "sql", "steps", "catalogs", "sinks"])?;
    let stream = query.get("stream").and_then(Value::as_object).ok_or_else(|| {
        QueryError::invalid("the query has no object `stream`; run it with `buzz query`, or add \"stream\": {}")
    })?;
    known(stream, "stream", &["name", "epoch", "epoch_rows", "parallelism", "on_error", "into"])?;
    let mut script = String::new();
    for key in ["epoch", "epoch_rows", "parallelism", "on_error"] {
        if let Some(value) = stream.get(key) {
            script.push_str(&format!("SET {key} = {};\n", quoted_value(value)));
        }
    }
    for entry in list(query, "catalogs")? {
        script.push_str(&source(entry)?);
    }
    for entry in list(query, "sinks")? {
        script.push_str(&sink(entry)?);
    }
    let into = stream.get("into").and_then(Value::as_str);
    let into = into.map(|into| format!("INSERT INTO {} ", quoted(into))).unwrap_or_default();
    let steps = list(query, "steps")?;
    match (query.get("sql").and_then(Value::as_str), steps.as_slice()) {
        (Some(sql), [])
            if sql.trim_start().to_uppercase().starts_with("SELECT")
                || sql.trim_start().to_uppercase().starts_with("WITH") =>
        {
            script.push_str(&format!("{into}{sql};\n"));
        }
        (Some(sql), []) => script.push_str(&format!("{sql};\n")),
        (None, [first @ .., last]) => {
            for step in first {
                script.push_str(&format!(
                    "CREATE VIEW {} AS {};\n",
                    quoted(text_of(step, "a step", "name")?),
                    step_sql(step)?
                ));
            }
            script.push_str(&format!("{into}{};\n", step_sql(last)?));
        }
        (Some(_), _) => return Err(QueryError::invalid("the query has both `sql` and `steps`; use one of them")),
        (None, []) => return Err(QueryError::invalid("the query has neither `sql` nor `steps`; add one of them")),
    }
    Ok((script, stream.get("name").and_then(Value::as_str).map(str::to_string)))
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
    if let Some(watermark) = entry.get("watermark").and_then(Value::as_object) {
        known(watermark, "watermark", &["column", "delay"])?;
        let column = quoted(text_of(watermark, "watermark", "column")?);
        let delay = watermark.get("delay").and_then(Value::as_str);
        elements.push(match delay {
            None => format!("WATERMARK FOR {column}"),
            Some(delay) => {
                let nanos = buzz_connect::parse_duration(delay)
                    .ok_or_else(|| QueryError::invalid(format!("delay `{delay}` is not a duration; write it as 5s")))?;
                format!("WATERMARK FOR {column} AS {column} - INTERVAL '{} milliseconds'", nanos / 1_000_000)
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
    let format = entry.get("format").and_then(Value::as_str).map(str::to_lowercase);
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
    if let Some(uri) = entry.get("uri").and_then(Value::as_str) {
        options.push(("path".to_string(), uri.to_string()));
    }
    for (key, value) in entry.get("options").and_then(Value::as_object).into_iter().flatten() {
        options.push((key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_string)));
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

fn quoted_value(value: &Value) -> String {
    format!("'{}'", escaped(&value.as_str().map_or_else(|| value.to_string(), str::to_string)))
}

fn text_of<'a>(object: &'a Map<String, Value>, place: &str, key: &str) -> Result<&'a str> {
    let text = object.get(key).and_then(Value::as_str);
    text.ok_or_else(|| QueryError::invalid(format!("{place} has no text `{key}`")))
}

fn list<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Vec<&'a Map<String, Value>>> {
    let Some(value) = object.get(key) else { return Ok(Vec::new()) };
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
             CREATE VIEW \"m\" AS SELECT a FROM bids;\n\
             INSERT INTO \"out\" SELECT a FROM m;\n"
        );
    }

    #[test]
    fn unknown_field_is_refused() {
        let error = to_script(r#"{"stream": {"every": "1s"}, "sql": "SELECT 1"}"#).expect_err("`every` is unknown");
        assert!(error.to_string().contains("field `every` of stream is unknown"), "{error}");
    }
}
