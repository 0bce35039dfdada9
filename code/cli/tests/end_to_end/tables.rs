//! Generates tables for the tests in this folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::json;

/// Writes a folder of `files` Parquet files with `rows` rows each: `(id: Int64, grp: Utf8, amount: Float64)`. Row
/// groups have 100 rows; every seventh `amount` is null.
pub(crate) fn parquet_folder(dir: &Path, name: &str, files: usize, rows: usize) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).unwrap();
    for file in 0..files {
        write_file(&folder.join(format!("part-{file}.parquet")), &rides(file * rows, rows));
    }
    folder
}

/// Returns the rows `start..start + rows` of the table.
pub(crate) fn rides(start: usize, rows: usize) -> RecordBatch {
    let ids = start..start + rows;
    let groups = ids.clone().map(|id| ["cash", "credit", "dispute"][id % 3]);
    let amounts = ids.clone().map(|id| (id % 7 != 0).then_some(id as f64 / 4.0));
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from_iter_values(ids.map(|id| id as i64)))),
        ("grp", Arc::new(StringArray::from_iter_values(groups))),
        ("amount", Arc::new(amounts.collect::<Float64Array>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// Writes a folder with one Parquet file of two rows, `(grp: Utf8, label: Utf8)`. The third group has no label.
pub(crate) fn kinds_folder(dir: &Path) -> PathBuf {
    let folder = dir.join("kinds");
    fs::create_dir_all(&folder).unwrap();
    let columns: [(&str, ArrayRef); 2] = [
        ("grp", Arc::new(StringArray::from(vec!["cash", "credit"]))),
        ("label", Arc::new(StringArray::from(vec!["paid", "open"]))),
    ];
    write_file(&folder.join("part-0.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
    folder
}

pub(crate) fn write_file(path: &Path, batch: &RecordBatch) {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(100)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Writes a Delta table with the columns `day, id, kind, grp, amount, level`. The partition columns are `day` (date),
/// `kind` (string) and `level` (integer): the first, a middle and the last column. Every file has 50 rows.
pub(crate) fn partitioned_delta(dir: &Path) -> PathBuf {
    let table = dir.join("partitioned");
    let mut adds = Vec::new();
    let mut start = 0;
    for day in ["2024-01-01", "2024-01-02", "2024-02-01"] {
        for (kind, level) in [("a", Some(1)), ("b/c d", None)] {
            let escaped = kind.replace('/', "%2F");
            let path = format!("day={day}/kind={escaped}/level={}/part-0.parquet", level.unwrap_or(-1));
            fs::create_dir_all(table.join(&path).parent().unwrap()).unwrap();
            write_file(&table.join(&path), &rides(start, 50));
            start += 50;
            // The log stores paths as URIs, so percent signs are escaped again.
            let logged = path.replace('%', "%25").replace(' ', "%20");
            let level = level.map(|level: i32| level.to_string());
            let size = fs::metadata(table.join(&path)).unwrap().len();
            adds.push(json!({"add": {
                "path": logged, "size": size, "modificationTime": 0, "dataChange": true,
                "partitionValues": {"day": day, "kind": kind, "level": level},
            }}));
        }
    }
    let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
    let schema = json!({"type": "struct", "fields": [
        field("day", "date"), field("id", "long"), field("kind", "string"), field("grp", "string"),
        field("amount", "double"), field("level", "integer"),
    ]});
    let head = [
        json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
        json!({"metaData": {
            "id": "00000000-0000-4000-8000-000000000000", "format": {"provider": "parquet", "options": {}},
            "schemaString": schema.to_string(), "partitionColumns": ["day", "kind", "level"], "configuration": {},
            "createdTime": 0,
        }}),
    ];
    let log: String = head.iter().chain(&adds).map(|action| format!("{action}\n")).collect();
    fs::create_dir_all(table.join("_delta_log")).unwrap();
    fs::write(table.join("_delta_log/00000000000000000000.json"), log).unwrap();
    table
}
