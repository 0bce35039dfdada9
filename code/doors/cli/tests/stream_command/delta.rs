//! Delta Lake tables as sources and sinks.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::support::{Folder, Result, fails, normal, succeeds};

/// Writes a data file with the values `id`, and returns the action that adds it.
fn added(table: &Path, day: &str, name: &str, ids: &[i64], data_change: bool) -> Result<Value> {
    let path = format!("day={day}/{name}.parquet");
    fs::create_dir_all(table.join(format!("day={day}")))?;
    let column: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    let batch = RecordBatch::try_from_iter([("id", column)])?;
    let mut writer = ArrowWriter::try_new(fs::File::create(table.join(&path))?, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close()?;
    let size = fs::metadata(table.join(&path))?.len();
    Ok(json!({"add": {"path": path, "size": size, "partitionValues": {"day": day}, "modificationTime": 0,
        "dataChange": data_change}}))
}

fn removed(day: &str, name: &str, data_change: bool) -> Value {
    json!({"remove": {"path": format!("day={day}/{name}.parquet"), "dataChange": data_change, "deletionTimestamp": 0}})
}

fn commit(table: &Path, version: u64, actions: &[Value]) -> Result {
    let text: String = actions.iter().map(|action| format!("{action}\n")).collect();
    fs::create_dir_all(table.join("_delta_log"))?;
    fs::write(table.join(format!("_delta_log/{version:020}.json")), text)?;
    Ok(())
}

/// Creates a table partitioned by day, with two rows in version 0.
pub(crate) fn create(table: &Path) -> Result {
    let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
    let schema = json!({"type": "struct", "fields": [field("id", "long"), field("day", "string")]}).to_string();
    let first = added(table, "mon", "a", &[1, 2], true)?;
    commit(
        table,
        0,
        &[
            json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
            json!({"metaData": {"id": "a", "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
                "partitionColumns": ["day"], "configuration": {}, "createdTime": 0}}),
            first,
        ],
    )
}

/// The rows of a table, as sorted JSON lines with their keys in order.
pub(crate) fn table_rows(path: &str) -> Result<Vec<String>> {
    let output = Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["sql", "SELECT * FROM t", "--format", "ndjson", "--table"])
        .arg(format!("t={path}"))
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let text = String::from_utf8(output.stdout)?;
    let rows = text.lines().map(|line| Ok(normal(&serde_json::from_str(line)?).to_string()));
    let mut rows = rows.collect::<Result<Vec<String>>>()?;
    rows.sort();
    Ok(rows)
}

/// A table gets each epoch as one commit with an application transaction, and has the rows of a file beside it.
pub(crate) fn sink() -> Result {
    let folder = Folder::new()?;
    let script = |select: &str| {
        format!(
            "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='1000', events='5000', real_time='false');\n\
             CREATE TABLE lake WITH (connector='delta', path='{}', partition_by='channel', type='sink');\n\
             CREATE TABLE files WITH (connector='parquet', path='{}', partition_by='channel', type='sink');\n\
             SET epoch_rows = 300;\n\
             CREATE VIEW best AS SELECT bid.channel AS channel, max(bid.price) AS price, count(*) AS n FROM nexmark \
             WHERE bid IS NOT NULL GROUP BY bid.channel, tumble(interval '500 milliseconds');\n\
             INSERT INTO lake {select};\nINSERT INTO files SELECT n, channel, price FROM best;",
            folder.text("lake"),
            folder.text("files")
        )
    };
    let path = folder.write("s.sql", &script("SELECT n, channel, price FROM best"))?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &path, "--until-end", "--state", &state, "--epochs", "7"])?;
    let first = table_rows(&folder.text("lake"))?;
    succeeds(&["run", &path, "--until-end", "--state", &state, "--parallelism", "3"])?;
    succeeds(&["run", &path, "--until-end", "--state", &state])?;
    let (lake, files) = (table_rows(&folder.text("lake"))?, table_rows(&folder.text("files"))?);
    if first.is_empty() || first.len() >= lake.len() || lake != files {
        return Err(format!("{} rows, then {} instead of {}", first.len(), lake.len(), files.len()).into());
    }
    let mut transactions = Vec::new();
    for file in fs::read_dir(folder.path("lake/_delta_log"))? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "json") {
            for line in fs::read_to_string(file)?.lines() {
                let action: Value = serde_json::from_str(line)?;
                transactions.extend(action["txn"]["version"].as_u64());
            }
        }
    }
    let count = transactions.len();
    transactions.sort_unstable();
    transactions.dedup();
    if count < 5 || transactions.len() != count {
        return Err(format!("{count} commits of the epochs {transactions:?}").into());
    }
    // Other columns than those of the table, in a new version of the pipeline.
    folder.write("s.sql", &script("SELECT channel, price FROM best"))?;
    let error = fails(&["run", &path, "--until-end", "--state", &state])?;
    if !error.contains("has the columns") || !error.contains("select those of the table") {
        return Err(error.into());
    }
    folder.write("s.sql", &script("SELECT channel, n AS \"a b\" FROM best"))?;
    let error = fails(&["check", &path])?;
    if error.contains("column `a b` has a name that Delta tables do not take") { Ok(()) } else { Err(error.into()) }
}

/// Each version's appended rows are read once; a compaction has none, and a version that removes rows is an error.
pub(crate) fn appended_rows() -> Result {
    let folder = Folder::new()?;
    let table = folder.path("table");
    create(&table)?;
    let script = |options: &str| {
        format!(
            "CREATE TABLE t WITH (connector='delta', path='{}'{options});\n\
             CREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\nINSERT INTO out SELECT id, day FROM t;",
            table.display(),
            folder.text("out.json")
        )
    };
    let path = folder.write("s.sql", &script(""))?.display().to_string();
    let state = folder.text("state");
    let run = |expected: &str| -> Result {
        succeeds(&["run", &path, "--until-end", "--state", &state])?;
        let rows = fs::read_to_string(folder.path("out.json"))?;
        if rows == expected { Ok(()) } else { Err(format!("{rows} instead of {expected}").into()) }
    };
    let first = "{\"id\":1,\"day\":\"mon\"}\n{\"id\":2,\"day\":\"mon\"}\n";
    run(first)?;
    run(first)?;
    commit(&table, 1, &[added(&table, "tue", "b", &[3], true)?])?;
    commit(&table, 2, &[removed("mon", "a", false), added(&table, "mon", "c", &[1, 2], false)?])?;
    commit(&table, 3, &[added(&table, "mon", "d", &[4], true)?])?;
    run(&format!("{first}{{\"id\":3,\"day\":\"tue\"}}\n{{\"id\":4,\"day\":\"mon\"}}\n"))?;
    let delete = [json!({"commitInfo": {"operation": "DELETE"}}), removed("tue", "b", true)];
    commit(&table, 4, &delete)?;
    commit(&table, 5, &[added(&table, "tue", "e", &[5], true)?])?;
    let error = fails(&["run", &path, "--until-end", "--state", &state])?;
    if !error.contains("version 4 of Delta table") || !error.contains("removes rows (DELETE)") {
        return Err(error.into());
    }
    let rows = |options: &str| -> Result<String> {
        let script =
            format!("CREATE TABLE t WITH (connector='delta', path='{}'{options});\nSELECT id FROM t;", table.display());
        let path = folder.write("print.sql", &script)?.display().to_string();
        succeeds(&["run", &path, "--until-end"])
    };
    for (options, ids) in [
        (", start='1', removals='skip'", vec![3, 4, 5]),
        (", start='5'", vec![5]),
        (", start='latest'", vec![]),
        // All rows of the newest version: those of the files c, d and e.
        ("", vec![1, 2, 4, 5]),
    ] {
        let expected: String = ids.iter().map(|id| format!("{{\"id\":{id}}}\n")).collect();
        let found = rows(options)?;
        if found != expected {
            return Err(format!("{options}: {found} instead of {expected}").into());
        }
    }
    // A log that was cleaned before it was read.
    fs::remove_file(table.join("_delta_log/00000000000000000001.json"))?;
    let script = format!(
        "CREATE TABLE t (id BIGINT) WITH (connector='delta', path='{}', start='1');\nSELECT id FROM t;",
        table.display()
    );
    let path = folder.write("gap.sql", &script)?.display().to_string();
    let error = fails(&["run", &path, "--until-end"])?;
    if error.contains("version 1 of Delta table") && error.contains("no longer in its log") {
        Ok(())
    } else {
        Err(error.into())
    }
}
