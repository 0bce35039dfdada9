//! Scripts of other engines with their stored answers.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Folder, Result, fails, normal, rows, same, succeeds};

/// Scripts of Arroyo that run as they stand.
pub(crate) const ARROYO: &[&str] = &[
    "cast_to_sink_type",
    "global_session_window",
    "hourly_by_event_type",
    "memory_table",
    "most_active_driver_last_hour",
    // Each row of one stream has one partner, so the join of all rows is that of Arroyo's windows.
    "offset_impulse_join",
    "select_star",
    "session_window",
    "sliding_window_end",
    "tight_watermark",
    "union",
    "unnest_in_view",
    "windowed_inner_join",
    "windowed_outer_join",
];

/// Scripts of Arroyo whose rows change. Of `every_aggregate`, which runs too, approximations are those of DataFusion.
pub(crate) const ARROYO_CHANGES: &[&str] = &[
    "aggregates",
    "filter_updating_aggregates",
    "grouped_aggregates",
    "updating_full_join",
    "updating_inner_join",
    "updating_left_join",
];

/// Scripts of Arroyo over changes that Debezium has read of PostgreSQL.
pub(crate) const ARROYO_DEBEZIUM: &[&str] = &["debezium_agg", "debezium_pass_through"];

/// Scripts of Arroyo that are refused, and a part of the message.
pub(crate) const ARROYO_REFUSED: &[(&str, &str)] = &[
    // Numbers in a TIMESTAMP column, whose unit is not known. [`ARROYO_DEBEZIUM`] declares them as numbers.
    ("debezium_agg", "AS to_timestamp_millis(order_date)"),
    ("debezium_pass_through", "AS to_timestamp_millis(order_date)"),
    // DataFusion has no JSON operators.
    ("json_operators", "Operator -> is not yet supported"),
    // Its input is not in the folder.
    ("nexmark_q5", "does not exist"),
];

/// Statements of RisingWave's Nexmark views.
pub(crate) const RISINGWAVE: &[&str] = &["q0", "q1", "q2", "q5", "q8", "q10", "q14", "q21"];

/// Runs a script straight; then with 2 workers, stopped after three epochs; then from there with 3 workers.
pub(crate) fn arroyo(data: &Path, name: &str) -> Result {
    let folder = Folder::new()?;
    let script = fs::read_to_string(data.join(format!("queries/{name}.sql")))?;
    let script = script.replace("$input_dir", &data.join("inputs").display().to_string());
    let expected = rows(&data.join(format!("golden/{name}.json")))?;
    let straight = folder.write("straight.sql", &script.replace("$output_path", &folder.text("straight.json")))?;
    succeeds(&["run", &straight.display().to_string(), "--until-end"])?;
    same("straight", &expected, &rows(&folder.path("straight.json"))?)?;
    let small = if expected.len() > 500 { 900 } else { 23 };
    let script = format!("SET epoch_rows = {small};\n{}", script.replace("$output_path", &folder.text("resumed.json")));
    let resumed = folder.write("resumed.sql", &script)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &resumed, "--until-end", "--state", &state, "--parallelism", "2", "--epochs", "3"])?;
    succeeds(&["run", &resumed, "--until-end", "--state", &state, "--parallelism", "3"])?;
    same("resumed", &expected, &rows(&folder.path("resumed.json"))?)
}

/// Applies the changes in a file of JSON lines to no rows, and returns the rows, sorted.
pub(crate) fn applied(path: &Path) -> Result<Vec<String>> {
    let mut rows: Vec<String> = Vec::new();
    for line in fs::read_to_string(path)?.lines().filter(|line| !line.trim().is_empty()) {
        let change: Value = serde_json::from_str(line)?;
        if !change["before"].is_null() {
            let before = normal(&change["before"]).to_string();
            let place = rows.iter().position(|row| *row == before);
            rows.remove(place.ok_or_else(|| format!("{line} takes a row away that does not exist"))?);
        }
        if !change["after"].is_null() {
            rows.push(normal(&change["after"]).to_string());
        }
    }
    rows.sort();
    Ok(rows)
}

/// As [`arroyo`], for a script whose rows change.
pub(crate) fn arroyo_changes(data: &Path, name: &str) -> Result {
    let script = fs::read_to_string(data.join(format!("queries/{name}.sql")))?;
    let script = script.replace("$input_dir", &data.join("inputs").display().to_string());
    changes(&script, &applied(&data.join(format!("golden/{name}.json")))?)
}

/// As [`arroyo_changes`], for a script that reads changes. One that passes them on has the rows of its input.
pub(crate) fn arroyo_debezium(data: &Path, name: &str) -> Result {
    let script = fs::read_to_string(data.join(format!("queries/{name}.sql")))?;
    let script = script.replace("$input_dir", &data.join("inputs").display().to_string());
    let expected = if name == "debezium_pass_through" { "inputs/aggregate_updates" } else { "golden/debezium_agg" };
    let expected = applied(&data.join(format!("{expected}.json")))?;
    changes(&script.replace("order_date TIMESTAMP", "order_date BIGINT"), &expected)
}

/// Runs a script as [`arroyo`] does. The changes that it writes must add up to `expected`.
fn changes(script: &str, expected: &[String]) -> Result {
    let folder = Folder::new()?;
    let straight = folder.write("straight.sql", &script.replace("$output_path", &folder.text("straight.json")))?;
    succeeds(&["run", &straight.display().to_string(), "--until-end"])?;
    same("straight", expected, &applied(&folder.path("straight.json"))?)?;
    let script = format!("SET epoch_rows = 23;\n{}", script.replace("$output_path", &folder.text("resumed.json")));
    let resumed = folder.write("resumed.sql", &script)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &resumed, "--until-end", "--state", &state, "--parallelism", "2", "--epochs", "3"])?;
    succeeds(&["run", &resumed, "--until-end", "--state", &state, "--parallelism", "3"])?;
    same("resumed", expected, &applied(&folder.path("resumed.json"))?)
}

pub(crate) fn arroyo_refused(data: &Path, name: &str, message: &str) -> Result {
    let folder = Folder::new()?;
    let script = fs::read_to_string(data.join(format!("queries/{name}.sql")))?;
    let script = script.replace("$input_dir", &data.join("inputs").display().to_string());
    let path = folder.write("script.sql", &script.replace("$output_path", &folder.text("out.json")))?;
    let error = fails(&["run", &path.display().to_string(), "--until-end"])?;
    if error.contains(message) { Ok(()) } else { Err(format!("`{error}` does not contain `{message}`").into()) }
}

/// The values of `INSERT INTO … (columns) VALUES (…), …`, as JSON lines.
pub(crate) fn inserted(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path)?;
    let (head, values) = text.split_once("VALUES").ok_or("no VALUES")?;
    let columns: Vec<&str> = head
        .split_once('(')
        .ok_or("no columns")?
        .1
        .split_once(')')
        .ok_or("no columns")?
        .0
        .split(',')
        .map(str::trim)
        .collect();
    let (mut lines, mut row, mut field, mut quoted) = (String::new(), Vec::new(), String::new(), false);
    let mut inside = false;
    let mut is_text = false;
    for c in values.chars() {
        match c {
            '\'' => (quoted, is_text) = (!quoted, true),
            '(' if !quoted && !inside => inside = true,
            ',' | ')' if !quoted && inside => {
                let value = if is_text { Value::from(field.clone()) } else { serde_json::from_str(field.trim())? };
                row.push(value);
                (field, is_text) = (String::new(), false);
                if c == ')' {
                    let object: serde_json::Map<String, Value> =
                        columns.iter().map(ToString::to_string).zip(row.drain(..)).collect();
                    lines.push_str(&format!("{}\n", Value::Object(object)));
                    inside = false;
                }
            }
            c if inside && (quoted || !c.is_whitespace()) => field.push(c),
            _ => {}
        }
    }
    Ok(lines)
}

/// Runs RisingWave's view on its rows, and compares with its rows.
pub(crate) fn risingwave(data: &Path, name: &str) -> Result {
    let folder = Folder::new()?;
    let mut script = String::new();
    for (table, columns) in [
        (
            "person",
            "id BIGINT, name VARCHAR, email_address VARCHAR, credit_card VARCHAR, city VARCHAR, state VARCHAR, \
             date_time TIMESTAMP, extra VARCHAR",
        ),
        (
            "auction",
            "id BIGINT, item_name VARCHAR, description VARCHAR, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMP, \
             expires TIMESTAMP, seller BIGINT, category BIGINT, extra VARCHAR",
        ),
        (
            "bid",
            "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR",
        ),
    ] {
        let lines = inserted(&data.join(format!("input/nexmark/insert_{table}.slt.part")))?;
        let path = folder.write(&format!("{table}.json"), &lines)?;
        script.push_str(&format!(
            "CREATE SOURCE {table} ({columns}, WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND) WITH \
             (connector = 'single_file', path = '{}', format = 'json');\n",
            path.display()
        ));
    }
    let view = fs::read_to_string(data.join(format!("nexmark/views/{name}.slt.part")))?;
    // Functions come before the view.
    let (functions, view) = view.split_once("CREATE MATERIALIZED VIEW").ok_or("no view")?;
    let functions = functions.replace("statement ok", "");
    let (_, view) = view.split_once("AS\n").or_else(|| view.split_once("AS ")).ok_or("no view")?;
    let view = view.trim().trim_end_matches(';');
    // PostgreSQL's patterns of TO_CHAR are not those of DataFusion.
    let view = view.replace("'YYYY-MM-DD'", "'%Y-%m-%d'").replace("'HH:MI'", "'%I:%M'");
    script.push_str(&format!("SET epoch_rows = 17;\n{functions}\nINSERT INTO out {view};\n"));
    script.push_str(&format!(
        "CREATE TABLE out WITH (connector = 'single_file', path = '{}', format = 'json', type = 'sink');",
        folder.text("out.json")
    ));
    let path = folder.write("script.sql", &script)?;
    succeeds(&["run", &path.display().to_string(), "--until-end"])?;
    let text = fs::read_to_string(folder.path("out.json"))?;
    let mut found = Vec::new();
    for line in text.lines() {
        let Value::Object(row) = serde_json::from_str(line)? else { return Err("not an object".into()) };
        found.push(row.values().map(plain).collect::<Vec<_>>().join(" "));
    }
    found.sort();
    let answer = fs::read_to_string(data.join(format!("nexmark/{name}.slt.part")))?;
    let (_, answer) = answer.split_once("----").ok_or("no answer")?;
    let mut expected: Vec<String> = answer
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.split_whitespace().map(trimmed).collect::<Vec<_>>().join(" "))
        .collect();
    expected.sort();
    same(name, &expected, &found)
}

/// The text of a value as in RisingWave's answers, with times as `date time`.
pub(crate) fn plain(value: &Value) -> String {
    let text = match value {
        Value::String(text) => {
            text.replace('T', if text.len() >= 19 && text.as_bytes()[10] == b'T' { " " } else { "T" })
        }
        Value::Null => "NULL".to_string(),
        other => other.to_string(),
    };
    text.split_whitespace().map(trimmed).collect::<Vec<_>>().join(" ")
}

/// Numbers and times without trailing zeros after the point.
pub(crate) fn trimmed(text: &str) -> String {
    let numeric = text.contains('.') && text.chars().all(|c| c.is_ascii_digit() || ".:-".contains(c));
    // RisingWave computes 0.908 * price with decimals, DataFusion with floats.
    if let Ok(number) = text.parse::<f64>()
        && numeric
    {
        return format!("{:.4}", number).trim_end_matches('0').trim_end_matches('.').to_string();
    }
    if numeric { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text.to_string() }
}

/// RisingWave's rows of tumbling and hopping windows.
pub(crate) fn time_window(data: &Path) -> Result {
    let folder = Folder::new()?;
    let test = fs::read_to_string(data.join("time_window.slt"))?;
    let values = test.split_once("insert into t1 values").ok_or("no rows")?.1.split_once(';').ok_or("no rows")?.0;
    let lines: String = values
        .split("(")
        .skip(1)
        .map(|row| {
            let fields: Vec<&str> = row.split(')').next().unwrap_or_default().split(',').map(str::trim).collect();
            format!(
                "{{\"row_id\":{},\"uid\":{},\"v\":{},\"created_at\":\"{}\"}}\n",
                fields[0],
                fields[1],
                fields[2],
                fields[3].trim_matches('\'')
            )
        })
        .collect();
    let input = folder.write("t1.json", &lines)?;
    let cases = [
        (
            "select row_id, uid, created_at, window_start, window_end from tumble(t1, created_at, interval '30' minute)",
            "from mv_tumble order",
        ),
        (
            "select row_id, uid, created_at, window_start, window_end from hop(t1, created_at, interval '15' minute, interval '30' minute)",
            "from mv_hop order",
        ),
        (
            "select sum(v) as sum_v, window_start from tumble(t1, created_at, interval '30' minute) group by window_start",
            "from mv_tumble_agg_1",
        ),
        (
            "select uid, sum(v) as sum_v, window_start from tumble(t1, created_at, interval '30' minute) group by window_start, uid",
            "from mv_tumble_agg_2",
        ),
        (
            "select sum(v) as sum_v, window_start from hop(t1, created_at, interval '15' minute, interval '30' minute) group by window_start",
            "from mv_hop_agg_1",
        ),
        (
            "select uid, sum(v) as sum_v, window_start from hop(t1, created_at, interval '15' minute, interval '30' minute) group by window_start, uid",
            "from mv_hop_agg_2",
        ),
    ];
    for (statement, answer) in cases {
        let script = format!(
            "CREATE TABLE t1 (row_id INT, uid INT, v INT, created_at TIMESTAMP, WATERMARK FOR created_at) WITH \
             (connector = 'single_file', path = '{}', format = 'json');\n{statement};",
            input.display()
        );
        let path = folder.write("script.sql", &script)?;
        let out = succeeds(&["run", &path.display().to_string(), "--until-end"])?;
        let mut found = Vec::new();
        for line in out.lines() {
            let Value::Object(row) = serde_json::from_str(line)? else { return Err("not an object".into()) };
            found.push(row.values().map(plain).collect::<Vec<_>>().join(" "));
        }
        found.sort();
        let expected = test.split_once(answer).and_then(|(_, rest)| rest.split_once("----")).ok_or("no answer")?.1;
        let expected = expected.split("\n\n").next().unwrap_or_default();
        let mut expected: Vec<String> = expected
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        expected.sort();
        same(statement, &expected, &found)?;
    }
    Ok(())
}
