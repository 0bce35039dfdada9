//! Delta Lake tables as sources.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::support::{Folder, Result, fails, succeeds};

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
fn create(table: &Path) -> Result {
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
