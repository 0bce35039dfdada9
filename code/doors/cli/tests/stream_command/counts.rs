//! Counts over streams: words, a counter over restarts, and the rows that the state has.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Folder, Result, rows, same, succeeds};

/// Counts words in a stream and in a batch query over the same file.
pub(crate) fn words() -> Result {
    let folder = Folder::new()?;
    let text = ["the quick brown fox", "the lazy dog", "the fox"];
    let lines: String = (0..300)
        .map(|i| format!("{{\"t\":\"2024-01-01T00:{:02}:{:02}\",\"line\":\"{}\"}}\n", i / 60, i % 60, text[i % 3]))
        .collect();
    let input = folder.write("in.json", &lines)?;
    let script = format!(
        "CREATE TABLE lines (t TIMESTAMP, line TEXT, WATERMARK FOR t) WITH (connector='single_file', path='{}', \
         format='json');\nSET epoch_rows = 50;\n\
         CREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\n\
         INSERT INTO out SELECT word, count(*) AS n FROM (SELECT unnest(string_to_array(line, ' ')) AS word, \
         tumble(interval '1 day') AS day FROM lines) GROUP BY word, day;",
        input.display(),
        folder.text("out.json")
    );
    let path = folder.write("s.sql", &script)?.display().to_string();
    succeeds(&["run", &path, "--until-end", "--state", &folder.text("state"), "--parallelism", "3"])?;
    let sql =
        "SELECT word, count(*) AS n FROM (SELECT unnest(string_to_array(line, ' ')) AS word FROM lines) GROUP BY word";
    let batch = Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["sql", sql, "--format", "ndjson", "--table", &format!("lines={}", input.display())])
        .output()?;
    let batch = folder.write("batch.json", &String::from_utf8(batch.stdout)?)?;
    let expected = rows(&batch)?;
    if expected.len() != 6 {
        return Err(format!("{expected:?}").into());
    }
    same("words", &expected, &rows(&folder.path("out.json"))?)
}

/// A counter has each value once in the sink, although the run stops and starts again with other workers.
pub(crate) fn counter() -> Result {
    let folder = Folder::new()?;
    let script = format!(
        "CREATE TABLE impulse WITH (connector='impulse', events='2000', real_time='false');\nSET epoch_rows = 100;\n\
         CREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\n\
         INSERT INTO out SELECT counter FROM impulse;",
        folder.text("out.json")
    );
    let path = folder.write("s.sql", &script)?.display().to_string();
    let state = folder.text("state");
    for workers in ["2", "5", "3", "1", "4", "2", "3"] {
        let arguments = ["run", &path, "--until-end", "--state", &state, "--epochs", "3", "--parallelism", workers];
        succeeds(&arguments)?;
    }
    let text = fs::read_to_string(folder.path("out.json"))?;
    let values: Vec<u64> =
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["counter"].as_u64()).collect();
    if values == (0..2000).collect::<Vec<_>>() { Ok(()) } else { Err(format!("{} values", values.len()).into()) }
}

/// The rows that epochs write to the state depend on the keys, not on the events.
pub(crate) fn state_rows() -> Result {
    let folder = Folder::new()?;
    let rows_of = |rate: u64, keys: u64| -> Result<Vec<u64>> {
        let script = format!(
            "CREATE TABLE impulse WITH (connector='impulse', event_rate='{rate}', events='{}', real_time='false');\n\
             CREATE TABLE out WITH (connector='blackhole', type='sink');\nSET epoch_rows = {rate};\n\
             INSERT INTO out SELECT counter % {keys} AS k, count(*) AS n, tumble(interval '1 hour') AS w FROM impulse \
             GROUP BY 1, w;",
            rate * 6
        );
        let name = format!("s{rate}-{keys}");
        let path = folder.write(&format!("{name}.sql"), &script)?.display().to_string();
        let state = folder.text(&name);
        succeeds(&["run", &path, "--until-end", "--state", &state, "--parallelism", "2", "--epochs", "4"])?;
        let newest = fs::read_dir(folder.path(&format!("{name}/pipelines/{name}/v1/epochs")))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .max()
            .ok_or("no record")?;
        let record: Value = serde_json::from_str(&fs::read_to_string(newest)?)?;
        Ok(record["state"].as_array().into_iter().flatten().filter_map(|file| file["rows"].as_u64()).collect())
    };
    let (few, many, other) = (rows_of(1_000, 10)?, rows_of(10_000, 10)?, rows_of(10_000, 100)?);
    // One row per key and partition of the map in each of four epochs.
    if few == many && few == [20; 4] && other == [200; 4] {
        Ok(())
    } else {
        Err(format!("{few:?} {many:?} {other:?}").into())
    }
}
