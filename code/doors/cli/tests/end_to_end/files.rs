//! Tests tables of CSV, JSON lines, Parquet and Delta: partitions in paths, compression, splits, merged schemas, and
//! invalid files.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use buzz_protocol::{ErrorKind, QueryError};
use buzz_testkit::sorted_text;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{ask, ask_on, host, statement};
use crate::tables::{rides, write_file};

/// Runs `sql` on the catalog entry `entry`, named `t`. Returns rows as lines of text.
async fn rows(sql: &str, entry: Value, base: &Path, sets: &[&str]) -> Result<Vec<String>, QueryError> {
    let mut query = statement(1, sql, &[]);
    let mut entry = entry;
    entry["name"] = json!("t");
    query["catalogs"] = json!([entry]);
    Ok(texts(&ask(&query, base, sets).await?.rows))
}

fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        let row = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" | ");
        rows.extend((0..batch.num_rows()).map(row));
    }
    rows
}

/// `price,id\n7,3\n`, compressed with gzip.
const ZIPPED: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 43, 40, 202, 76, 78, 213, 201, 76, 225, 50, 215, 49, 230, 2, 0, 56, 46, 123, 91,
    13, 0, 0, 0,
];

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn hive_partitions_become_columns_and_prune_files() {
    let dir = tempfile::tempdir().unwrap();
    for (index, folder) in
        ["year=2024/kind=a%2Fb", "year=2024/kind=c d", "year=__HIVE_DEFAULT_PARTITION__/kind=x"].into_iter().enumerate()
    {
        let folder = dir.path().join("t").join(folder);
        fs::create_dir_all(&folder).unwrap();
        write_file(&folder.join("part-0.parquet"), &rides(index * 10, 10));
    }
    let entry = || json!({"type": "Parquet", "uri": "t"});
    let sql = "SELECT year, kind, COUNT(*), MIN(id) FROM t GROUP BY year, kind ORDER BY 4";
    let found = rows(sql, entry(), dir.path(), &[]).await.unwrap();
    assert_eq!(found, ["2024 | a/b | 10 | 0", "2024 | c d | 10 | 10", "NULL | x | 10 | 20"]);

    let query = statement(1, "SELECT SUM(id) FROM t WHERE year = 2024 AND kind > 'b'", &[("t", "Parquet", "t")]);
    let answer = ask(&query, dir.path(), &[]).await.unwrap();
    assert_eq!((answer.summary.files_found, answer.summary.files_read), (3, 1));

    let typed = json!({"type": "Parquet", "uri": "t", "partition_columns": [{"name": "year", "type": "Utf8"}]});
    let found = rows("SELECT DISTINCT year || '!' FROM t ORDER BY 1", typed, dir.path(), &[]).await.unwrap();
    assert_eq!(found, ["2024!", "NULL"]);
    let glob = json!({"type": "Parquet", "uri": "t/year=2024/*/*.parquet"});
    assert_eq!(rows("SELECT SUM(year) FROM t", glob, dir.path(), &[]).await.unwrap(), ["40480"]);
    let wrong = json!({"type": "Parquet", "uri": "t", "partition_columns": [{"name": "month", "type": "Int32"}]});
    let error = rows("SELECT 1 FROM t", wrong, dir.path(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("its path has no `month=`"), "{error}");
}

#[tokio::test]
async fn csv_files_are_merged_by_header() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("t/day=2024-01-01/a.csv"), "id,name,price\n1,one,1.5\n2,\"two, too\",\n");
    write(&dir.path().join("t/day=2024-01-02/b.csv.gz"), ZIPPED);
    let entry = json!({"type": "Csv", "uri": "t"});
    let found = rows("SELECT id, name, price, day FROM t ORDER BY id", entry, dir.path(), &["tasks=2"]).await.unwrap();
    assert_eq!(
        found,
        ["1 | one | 1.5 | 2024-01-01", "2 | two, too | NULL | 2024-01-01", "3 | NULL | 7.0 | 2024-01-02"]
    );
}

#[tokio::test]
async fn csv_options_of_the_catalog_entry_apply() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("t.txt"), "# made by hand\n1;'a;''b''';-\n2;c;2024-01-31\n");
    let entry = json!({
        "type": "Csv", "uri": "t.txt", "header": false, "delimiter": ";", "quote": "'", "comment": "#", "null": "-",
        "schema": [{"name": "n", "type": "Int16"}, {"name": "s", "type": "Utf8"}, {"name": "d", "type": "Date32"}]
    });
    let found = rows("SELECT n, s, d, arrow_typeof(n) FROM t ORDER BY n", entry, dir.path(), &[]).await.unwrap();
    assert_eq!(found, ["1 | a;'b' | NULL | Int16", "2 | c | 2024-01-31 | Int16"]);
}

#[tokio::test]
async fn csv_and_json_splits_keep_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let lines = |line: &dyn Fn(usize) -> String| (0..5000).map(line).collect::<String>();
    write(&dir.path().join("t.csv"), format!("id,text\n{}", lines(&|id| format!("{id},{}\n", "x".repeat(id % 50)))));
    write(&dir.path().join("t.jsonl"), lines(&|id| format!("{{\"id\": {id}, \"in\": {{\"a\": [{id}]}}}}\n")));
    let sets = ["split_bytes=7000", "tasks=5"];
    let csv = json!({"type": "Csv", "uri": "t.csv", "newlines_in_values": false});
    let sql = "SELECT COUNT(*), SUM(id), MAX(length(text)) FROM t";
    assert_eq!(rows(sql, csv, dir.path(), &sets).await.unwrap(), ["5000 | 12497500 | 49"]);
    let sql = "SELECT COUNT(*), SUM(id), SUM(t.\"in\".a[1]) FROM t";
    let json = json!({"type": "Json", "uri": "t.jsonl"});
    assert_eq!(rows(sql, json, dir.path(), &sets).await.unwrap(), ["5000 | 12497500 | 12497500"]);
    let query = statement(1, "SELECT COUNT(id) FROM t", &[("t", "Json", "t.jsonl")]);
    assert_eq!(ask(&query, dir.path(), &sets).await.unwrap().summary.tasks, 5);
}

#[tokio::test]
async fn invalid_value_error_names_the_file_and_the_value() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("t.csv"), "id,x\n1,2\n2,oops\n");
    let entry = json!({"type": "Csv", "uri": "t.csv", "schema": [
        {"name": "id", "type": "Int64"}, {"name": "x", "type": "Int64"}
    ]});
    let error = rows("SELECT SUM(x) FROM t", entry, dir.path(), &[]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    let text = error.to_string();
    assert!(text.contains("t.csv") && text.contains("oops"), "{text}");
    assert!(text.contains("line 3, column `x`: `oops` is not Int64"), "{text}");
    write(&dir.path().join("t.jsonl"), "{\"id\": 1}\n{\"id\" 1}\n");
    let entry = json!({"type": "Json", "uri": "t.jsonl", "schema": [{"name": "id", "type": "Int64"}],
                       "newlines_in_values": false});
    let error = rows("SELECT id FROM t", entry, dir.path(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("line 2: expected `:`"), "{error}");
}

#[tokio::test]
async fn delta_time_travel_by_version_or_timestamp() {
    let dir = tempfile::tempdir().unwrap();
    let table = crate::tables::partitioned_delta(dir.path());
    let log = table.join("_delta_log");
    let first = fs::read_to_string(log.join("00000000000000000000.json")).unwrap();
    let path = first.lines().find_map(|line| {
        let action: Value = serde_json::from_str(line).unwrap();
        action["add"]["path"].as_str().map(str::to_string)
    });
    let remove = json!({"remove": {"path": path.unwrap(), "deletionTimestamp": 1, "dataChange": true}});
    write(&log.join("00000000000000000001.json"), remove.to_string());
    for (version, seconds) in [(0, 1_000_000), (1, 2_000_000)] {
        let file = fs::File::options().write(true).open(log.join(format!("{version:020}.json"))).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    }
    let count = async |key: &str, value: Value| {
        let mut entry = json!({"type": "DeltaLake", "uri": "partitioned"});
        entry[key] = value;
        rows("SELECT COUNT(id) FROM t", entry, dir.path(), &[]).await.map_err(|error| error.to_string())
    };
    assert_eq!(count("version", json!(null)).await.unwrap(), ["250"]);
    assert_eq!(count("version", json!(1)).await.unwrap(), ["250"]);
    assert_eq!(count("version", json!(0)).await.unwrap(), ["300"]);
    assert_eq!(count("timestamp", json!("1970-01-13")).await.unwrap(), ["300"]);
    let missing = count("version", json!(7)).await.unwrap_err();
    assert!(missing.contains("has no version 7; the newest is 1"), "{missing}");
    let early = count("timestamp", json!("1970-01-01")).await.unwrap_err();
    assert!(early.contains("has no version at or before 1970-01-01T00:00:00.000Z"), "{early}");
}

#[tokio::test]
async fn changed_or_missing_delta_files_are_named_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let table = crate::tables::partitioned_delta(dir.path());
    let entry = || json!({"type": "DeltaLake", "uri": "partitioned"});
    let failed = async || rows("SELECT SUM(id) FROM t", entry(), dir.path(), &["tasks=1"]).await.unwrap_err();
    let file = table.join("day=2024-01-02/kind=a/level=1/part-0.parquet");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, [&bytes[..], b"more"].concat()).unwrap();
    let error = failed().await;
    assert_eq!(error.kind, ErrorKind::Data);
    let text = error.to_string();
    assert!(text.contains("day=2024-01-02/kind=a/level=1/part-0.parquet` of table `t`"), "{text}");
    assert!(text.contains(&format!("it has {} bytes, but its table lists {}", bytes.len() + 4, bytes.len())), "{text}");
    fs::remove_file(&file).unwrap();
    let error = failed().await;
    assert_eq!(error.kind, ErrorKind::Data);
    let text = error.to_string();
    assert!(text.contains("level=1/part-0.parquet` of table `t`: the file does not exist although"), "{text}");

    let log = table.join("_delta_log");
    write(&log.join("00000000000000000002.json"), "{}");
    let error = failed().await;
    assert!(error.message.contains("has a gap: version 0 is followed by version 2"), "{error}");
}

#[tokio::test]
async fn delta_variant_is_read_as_stored() {
    let dir = tempfile::tempdir().unwrap();
    let binary = |name: &str, value: &[u8]| {
        let column: ArrayRef = Arc::new(BinaryArray::from(vec![value; 2]));
        (Arc::new(Field::new(name, DataType::Binary, false)), column)
    };
    let variant: ArrayRef =
        Arc::new(StructArray::from(vec![binary("value", &[12, 7]), binary("metadata", &[1, 0, 0])]));
    let id: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let log = dir.path().join("t/_delta_log");
    fs::create_dir_all(&log).unwrap();
    let file = dir.path().join("t/part-0.parquet");
    write_file(&file, &RecordBatch::try_from_iter([("id", id), ("v", variant)]).unwrap());
    let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
    let schema = json!({"type": "struct", "fields": [field("id", "long"), field("v", "variant")]});
    let protocol = |features: Value| {
        json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features,
                            "writerFeatures": features}})
    };
    let rest = [
        json!({"metaData": {"id": "00000000-0000-4000-8000-000000000000", "format": {"provider": "parquet", "options": {}},
            "schemaString": schema.to_string(), "partitionColumns": [], "configuration": {}, "createdTime": 0}}),
        json!({"add": {"path": "part-0.parquet", "size": fs::metadata(&file).unwrap().len(), "partitionValues": {},
            "modificationTime": 0, "dataChange": true}}),
    ];
    let commit = |features: Value| {
        let lines = [protocol(features)].into_iter().chain(rest.clone()).map(|action| format!("{action}\n"));
        fs::write(log.join("00000000000000000000.json"), lines.collect::<String>()).unwrap();
    };
    let sql = "SELECT id, encode(v['value'], 'hex'), encode(v['metadata'], 'hex') FROM t ORDER BY id";
    let entry = || json!({"type": "DeltaLake", "uri": "t"});
    commit(json!(["variantType"]));
    assert_eq!(rows(sql, entry(), dir.path(), &[]).await.unwrap(), ["1 | 0c07 | 010000", "2 | 0c07 | 010000"]);
    // With shredding, parts of the value would be stored in separate columns.
    commit(json!(["variantType", "variantShredding-preview"]));
    let error = rows(sql, entry(), dir.path(), &[]).await.unwrap_err();
    assert!(error.message.contains("`variantShredding-preview`, which Buzz does not support"), "{error}");
}

#[tokio::test]
async fn struct_fields_are_merged_across_files_also_in_maps() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    fs::create_dir_all(&folder).unwrap();
    let files = [
        "SELECT 1 AS id, MAP {'k': named_struct('v', 1)} AS m, named_struct('x', 7, 'list', [named_struct('z', 'q')]) AS s",
        "SELECT 2 AS id, MAP {'k': named_struct('w', 'e', 'v', 2)} AS m, \
         named_struct('list', [named_struct('zz', 3, 'z', 'r')], 'n', 9, 'x', 8) AS s",
    ];
    for (number, sql) in files.into_iter().enumerate() {
        let answer = ask(&statement(1, sql, &[]), dir.path(), &[]).await.unwrap();
        write_file(&folder.join(format!("part-{number}.parquet")), &answer.rows[0]);
    }
    let entry = || json!({"type": "Parquet", "uri": "t"});
    let all = rows("SELECT m, s FROM t ORDER BY id", entry(), dir.path(), &[]).await.unwrap();
    let first = "{k: {v: 1, w: NULL}} | {x: 7, list: [{z: q, zz: NULL}], n: NULL}";
    let second = "{k: {v: 2, w: e}} | {x: 8, list: [{z: r, zz: 3}], n: 9}";
    assert_eq!(all, [first, second]);
    let sql = "SELECT m['k']['v'], s['x'] FROM t WHERE m['k']['w'] = 'e' OR s['n'] > 10";
    assert_eq!(rows(sql, entry(), dir.path(), &[]).await.unwrap(), ["2 | 8"]);

    let answer = ask(&statement(1, "SELECT named_struct('x', 'text') AS s", &[]), dir.path(), &[]).await.unwrap();
    write_file(&folder.join("part-2.parquet"), &answer.rows[0]);
    let error = rows("SELECT s FROM t", entry(), dir.path(), &[]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    let named = ["column `s`", "part-0.parquet", "part-2.parquet"];
    assert!(named.iter().all(|word| error.to_string().contains(word)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_files_of_a_folder_do_not_change_its_table() {
    let dir = tempfile::tempdir().unwrap();
    let folder = crate::tables::parquet_folder(dir.path(), "t", 2, 3);
    for (name, text) in [("aaa.txt", "a,b\n1,2\n"), ("README.txt", "two\nlines\n"), ("expected.json", "{\"id\": 7}\n")]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
    std::fs::write(folder.join("empty.parquet"), "").unwrap();
    for entry in
        [serde_json::json!({"name": "t", "uri": "t"}), serde_json::json!({"name": "t", "type": "Parquet", "uri": "t"})]
    {
        let query = serde_json::json!({"sql": "SELECT COUNT(*) AS n FROM t", "catalogs": [entry]});
        let answer = ask(&query, dir.path(), &[]).await.unwrap();
        assert_eq!(buzz_testkit::sorted_text(&answer.rows), ["6"]);
        let [warning] = answer.warnings.as_slice() else { panic!("{:?}", answer.warnings) };
        assert!(warning.starts_with("3 of the files in ") && warning.contains("are not .parquet files"), "{warning}");
    }
    let csv = dir.path().join("c");
    std::fs::create_dir(&csv).unwrap();
    for (name, text) in [
        ("README.txt", "This folder holds the data\nof two days\n"),
        ("d0.csv", "x,y\n1,2\n"),
        ("d1.csv", "x,y\n3,4\n"),
    ] {
        std::fs::write(csv.join(name), text).unwrap();
    }
    let query = serde_json::json!({"sql": "SELECT x, y FROM c", "catalogs": [{"name": "c", "uri": "c"}]});
    let answer = ask(&query, dir.path(), &[]).await.unwrap();
    assert_eq!(buzz_testkit::sorted_text(&answer.rows), ["1 | 2", "3 | 4"]);
}

/// Writes a Parquet file without compression with the ids `start..start + 100`. Its size does not depend on `start`.
fn write_ids(path: &Path, start: i64) -> u64 {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(start..start + 100));
    write_file(path, &RecordBatch::try_from_iter([("id", ids)]).unwrap());
    fs::metadata(path).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn file_replaced_by_one_of_equal_size_is_not_read_by_its_old_footer() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("part-0.parquet");
    let size = write_ids(&file, 1000);
    let manifest = json!({
        "schema": [{"name": "id", "type": "Int64"}], "files": [{"uri": "part-0.parquet", "size": size}],
    });
    fs::write(dir.path().join("list.json"), manifest.to_string()).unwrap();
    let sql = "SELECT count(*) AS n FROM t WHERE id >= 3000";
    let query = statement(1, sql, &[("t", "Static", "list.json")]);
    let host = host(&[]);
    let before = ask_on(&host, &query, dir.path(), &[]).await.unwrap();
    assert_eq!(sorted_text(&before.rows), ["0"]);
    assert_eq!(write_ids(&file, 5000), size);
    let after = ask_on(&host, &query, dir.path(), &[]).await.unwrap();
    assert_eq!(sorted_text(&after.rows), ["100"]);
}
