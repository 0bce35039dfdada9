//! Tests folders of Parquet whose files differ: types are widened, spellings are one column, and no value changes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use buzz_protocol::{ErrorKind, QueryError};
use buzz_testkit::sorted_text;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ArrowWriter, encode_arrow_schema};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{Answer, ask};
use crate::tables::write_file;

/// Writes one file per column, each with the column `name`.
fn folder(dir: &Path, name: &str, columns: &[(&str, ArrayRef)]) {
    fs::create_dir_all(dir.join(name)).unwrap();
    for (number, (column, values)) in columns.iter().enumerate() {
        let batch = RecordBatch::try_from_iter_with_nullable([(*column, Arc::clone(values), true)]).unwrap();
        write_file(&dir.join(name).join(format!("part-{number}.parquet")), &batch);
    }
}

async fn answer(dir: &Path, sql: &str, mut entry: Value) -> Result<Answer, QueryError> {
    entry["name"] = json!("t");
    ask(&json!({"sql": sql, "catalogs": [entry]}), dir, &[]).await
}

async fn rows(dir: &Path, sql: &str, entry: Value) -> Vec<String> {
    sorted_text(&answer(dir, sql, entry).await.unwrap().rows)
}

fn ints(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn floats(values: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

#[tokio::test]
async fn numbers_of_different_types_are_widened() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let small: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    folder(dir, "ints", &[("a", Arc::clone(&small)), ("a", ints(&[1 << 40]))]);
    let sql = "SELECT arrow_typeof(a), sum(a), min(a), max(a), count(*) FROM t GROUP BY 1";
    assert_eq!(rows(dir, sql, json!({"uri": "ints"})).await, ["Int64 | 1099511627779 | 1 | 1099511627776 | 3"]);
    assert_eq!(rows(dir, "SELECT max(a) FROM t", json!({"uri": "ints"})).await, ["1099511627776"]);
    assert_eq!(rows(dir, "SELECT a FROM t WHERE a > 2", json!({"uri": "ints"})).await, ["1099511627776"]);

    folder(dir, "floats", &[("a", ints(&[1, 2])), ("a", floats(&[0.5, 1.0]))]);
    assert_eq!(
        rows(dir, sql, json!({"uri": "floats"})).await,
        ["Float64 | 4.500000000e0 | 5.000000000e-1 | 2.000000000e0 | 4"]
    );
    folder(dir, "large", &[("a", ints(&[(1 << 53) + 1])), ("a", floats(&[0.5]))]);
    let error = answer(dir, sql, json!({"uri": "large"})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data, "{error}");
    let text = error.to_string();
    assert!(text.contains("part-0.parquet") && text.contains("`9007199254740993` is not Float64"), "{text}");

    let decimals = |values: Vec<i128>, precision, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
    };
    folder(dir, "decimals", &[("a", decimals(vec![150], 5, 2)), ("a", decimals(vec![12_345], 9, 4)), ("a", small)]);
    let sql = "SELECT a FROM t";
    assert_eq!(rows(dir, sql, json!({"uri": "decimals"})).await, ["1.0000", "1.2345", "1.5000", "2.0000"]);
}

#[tokio::test]
async fn timestamps_get_the_finest_unit() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let files: [(&str, ArrayRef); 3] = [
        ("a", Arc::new(TimestampMillisecondArray::from(vec![1_000]))),
        ("a", Arc::new(TimestampMicrosecondArray::from(vec![2_000_001]))),
        ("a", Arc::new(TimestampNanosecondArray::from(vec![3_000_000_001]))),
    ];
    folder(dir, "t", &files);
    let sql = "SELECT a::varchar FROM t WHERE a > '1970-01-01T00:00:01.5'";
    let expected = ["1970-01-01T00:00:02.000001", "1970-01-01T00:00:03.000000001"];
    assert_eq!(rows(dir, sql, json!({"uri": "t"})).await, expected);
    let max = rows(dir, "SELECT max(a)::varchar, count(DISTINCT a) FROM t", json!({"uri": "t"})).await;
    assert_eq!(max, ["1970-01-01T00:00:03.000000001 | 3"]);
}

#[tokio::test]
async fn spellings_of_a_column_are_one_column_with_a_warning() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    folder(dir, "t", &[("ID", ints(&[1, 2])), ("id", ints(&[3]))]);
    for sql in ["SELECT count(id), min(id), sum(id) FROM t", "SELECT count(id), min(id), sum(id) FROM t WHERE id < 10"]
    {
        let answer = answer(dir, sql, json!({"uri": "t"})).await.unwrap();
        assert_eq!(sorted_text(&answer.rows), ["3 | 1 | 6"]);
        let [warning] = answer.warnings.as_slice() else { panic!("{:?}", answer.warnings) };
        assert_eq!(warning, "table `t`: some files spell column `id` as `ID`; it is read as one column");
    }
    assert_eq!(rows(dir, "SELECT id FROM t WHERE id <= 1", json!({"uri": "t"})).await, ["1"]);
    let schema = json!([{"name": "Id", "type": "Int64"}]);
    assert_eq!(rows(dir, "SELECT sum(\"Id\") FROM t", json!({"uri": "t", "schema": schema})).await, ["6"]);
    for (folder_name, value) in [("Year=2023", 1), ("year=2024", 2)] {
        folder(dir, &format!("hive/{folder_name}"), &[("x", ints(&[value]))]);
    }
    let answer = answer(dir, "SELECT year, x FROM t", json!({"uri": "hive"})).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), ["2023 | 1", "2024 | 2"]);
    assert!(answer.warnings[0].contains("`year` as `Year`"), "{:?}", answer.warnings);
}

#[tokio::test]
async fn spellings_of_a_field_are_one_field_with_a_warning() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let pair = |x: &str, y: &str, values: [i64; 2]| -> ArrayRef {
        let field = |name: &str, value: i64| (Arc::new(Field::new(name, DataType::Int64, true)), ints(&[value]));
        Arc::new(StructArray::from(vec![field(x, values[0]), field(y, values[1])]))
    };
    let listed = |item: ArrayRef| -> ArrayRef {
        let field = Arc::new(Field::new_list_field(item.data_type().clone(), true));
        Arc::new(ListArray::new(field, OffsetBuffer::from_lengths([1]), item, None))
    };
    folder(dir, "t", &[("s", pair("id", "n", [1, 10])), ("s", pair("N", "ID", [20, 2]))]);
    for filter in ["", " WHERE s['id'] > 0", " WHERE s['n'] IN (10, 20)"] {
        let sql = format!("SELECT count(s['id']), sum(s['id']), sum(s['n']) FROM t{filter}");
        let found = answer(dir, &sql, json!({"uri": "t"})).await.unwrap();
        assert_eq!(sorted_text(&found.rows), ["2 | 3 | 30"], "{filter}");
        let expected = [("s.id", "ID"), ("s.n", "N")].map(|(path, other)| {
            format!("table `t`: some files spell field `{path}` as `{other}`; it is read as one field")
        });
        assert_eq!(found.warnings, expected);
    }
    assert_eq!(rows(dir, "SELECT s['n'] FROM t WHERE s['id'] = 2", json!({"uri": "t"})).await, ["20"]);
    folder(dir, "l", &[("s", listed(pair("id", "n", [1, 10]))), ("s", listed(pair("ID", "N", [2, 20])))]);
    assert_eq!(rows(dir, "SELECT s[1]['n'] FROM t WHERE s[1]['id'] = 2", json!({"uri": "l"})).await, ["20"]);
}

#[tokio::test]
async fn schema_that_does_not_fit_a_value_is_an_error() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    folder(dir, "f", &[("a", floats(&[1.0, 1.5, 3.0]))]);
    let decimal: ArrayRef = Arc::new(Decimal128Array::from(vec![99_999]).with_precision_and_scale(10, 4).unwrap());
    folder(dir, "d", &[("a", decimal)]);
    folder(dir, "t", &[("a", Arc::new(TimestampMicrosecondArray::from(vec![1])))]);
    folder(dir, "s", &[("a", Arc::new(StringArray::from(vec!["7", "07.5"])))]);
    for (uri, kind, value) in [
        ("f", "Int64", "1.5"),
        ("d", "Decimal128(10, 2)", "9.9999"),
        ("t", "Date32", "1970-01-01T00:00:00.000001"),
        ("s", "Int32", "07.5"),
    ] {
        let schema = json!([{"name": "a", "type": kind}]);
        for sql in ["SELECT a FROM t", "SELECT sum(1) FROM t WHERE a IS NOT NULL AND a <> a"] {
            let error = answer(dir, sql, json!({"uri": uri, "schema": schema})).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Data, "{error}");
            assert!(error.to_string().contains(&format!("`{value}` is not {kind}")), "{error}");
        }
    }
    let schema = json!([{"name": "a", "type": "Decimal128(10, 2)"}]);
    let bounded = answer(dir, "SELECT max(a) FROM t", json!({"uri": "d", "schema": schema})).await;
    assert!(bounded.unwrap_err().message.starts_with("`9.9999` is not"), "a bound is not a value of another type");
    let schema = json!([{"name": "a", "type": "Int64"}]);
    folder(dir, "whole", &[("a", floats(&[1.0, -0.0]))]);
    assert_eq!(rows(dir, "SELECT a FROM t", json!({"uri": "whole", "schema": schema})).await, ["0", "1"]);
}

/// Writes a file with the column `a`, and beside it the Arrow types that a writer would have stored.
fn with_arrow_types(path: &Path, column: ArrayRef, types: String) {
    let batch = RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap();
    let pairs = vec![KeyValue::new(ARROW_SCHEMA_META_KEY.to_string(), types)];
    let properties = WriterProperties::builder().set_key_value_metadata(Some(pairs)).build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new_with_options(file, batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// The Arrow types that Polars stores for one column `a` of integers of 128 bits, which arrow-rs does not have.
const INTEGERS_OF_128_BITS: &str = "/////3YAAAAEAAAA8v///xQAAAAEAAEAAAAKAAsACAAKAAQA+P///wwAAAAIAAgAAAAEAAEAAAAEAAAA7P\
    ///zgAAAAgAAAAGAAAAAECAAAQABIABAAQABEACAAAAAwAAAAAAPT///+AAAAAAQAAAAgACQAEAAgAAQAAAGEA";

#[tokio::test]
async fn arrow_types_that_the_reader_lacks_are_replaced() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let types = |data_type: DataType| encode_arrow_schema(&Schema::new(vec![Field::new("a", data_type, true)]));
    let decimals: ArrayRef =
        Arc::new(Decimal128Array::from(vec![Some(125), None, Some(-300)]).with_precision_and_scale(38, 2).unwrap());
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(decimals.data_type().clone()));
    with_arrow_types(&dir.join("categories.parquet"), decimals, types(dictionary));
    let sql = "SELECT sum(a), min(a), count(*) FROM t WHERE a < 100";
    assert_eq!(rows(dir, sql, json!({"uri": "categories.parquet"})).await, ["-1.75 | -3.00 | 2"]);

    let days: ArrayRef = Arc::new(Date32Array::from(vec![Some(19_753), None]));
    with_arrow_types(&dir.join("days/0.parquet"), Arc::clone(&days), types(DataType::Date64));
    with_arrow_types(&dir.join("days/1.parquet"), days, types(DataType::Date32));
    let sql = "SELECT arrow_typeof(a), count(*) FROM t WHERE a = '2024-01-31' GROUP BY 1";
    assert_eq!(rows(dir, sql, json!({"uri": "days"})).await, ["Date32 | 2"]);

    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None]));
    with_arrow_types(&dir.join("large.parquet"), bytes, INTEGERS_OF_128_BITS.to_string());
    let sql = "SELECT encode(a, 'hex'), arrow_typeof(a) FROM t WHERE a IS NOT NULL";
    let found = rows(dir, sql, json!({"uri": "large.parquet"})).await;
    assert!(found[0].starts_with("00ff | Binary"), "{found:?}");
}
