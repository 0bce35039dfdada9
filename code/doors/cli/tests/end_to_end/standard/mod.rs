//! Statements that mean something else in DataFusion than in the SQL standard, or that it refuses. The expected rows are
//! written by hand.

mod clauses;
mod conditions;
mod intervals;
mod joins;
mod nans;
mod numbers;
mod subqueries;
mod times;
mod windows;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Int64Array, RecordBatch, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Fields};
use buzz_testkit::sorted_text;
use tempfile::{TempDir, tempdir};

use crate::common::{ask, statement};
use crate::tables::write_file;

/// The ways to run a statement: one comb, three combs over sockets, and 16 tasks whose rows are exchanged.
pub(crate) const WAYS: [(usize, &[&str]); 3] = [
    (1, &["transport=memory", "tasks=1"]),
    (3, &["transport=tcp", "reducer=comb", "tasks=4"]),
    (1, &["tasks=16", "build_bytes=0", "reducer=comb"]),
];

pub(crate) const TABLES: [(&str, &str, &str); 4] =
    [("t", "Parquet", "t"), ("u", "Parquet", "u"), ("d", "Parquet", "d"), ("g", "Parquet", "g")];

/// Writes `batch` as a table of files with two rows each.
pub(crate) fn table(dir: &Path, name: &str, batch: &RecordBatch) {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).unwrap();
    for (number, start) in (0..batch.num_rows()).step_by(2).enumerate() {
        let rows = batch.slice(start, 2.min(batch.num_rows() - start));
        write_file(&folder.join(format!("part-{number}.parquet")), &rows);
    }
}

pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

/// Writes the tables `t(id, a, b, s)`, `u(k, v)`, `d(id, ts, ms, ns, day, tm, z)` and `g(id, s: {x, y})`.
pub(crate) fn tables() -> TempDir {
    let dir = tempdir().unwrap();
    let numbers = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let ids = |count: i64| numbers((1..=count).map(Some).collect());
    let a = vec![Some(1), Some(1), Some(2), None, Some(3), Some(3), Some(3), None];
    let b = [0, 2, 0, 4, 5, 0, 7, 8].map(Some).to_vec();
    let s = vec![Some("hello"), Some("help"), Some("a.c"), Some("abc"), Some("50%"), Some("50x"), None, Some("")];
    let s: ArrayRef = Arc::new(StringArray::from(s));
    table(dir.path(), "t", &batch(vec![("id", ids(8)), ("a", numbers(a)), ("b", numbers(b)), ("s", s)]));
    let v: ArrayRef = Arc::new(StringArray::from(vec!["one", "two", "zwei", "none"]));
    table(dir.path(), "u", &batch(vec![("k", numbers(vec![Some(1), Some(2), Some(2), None])), ("v", v)]));

    let (end, noon, old) = (253_402_214_400, 1_719_835_200, -10_085_212_800);
    let micros =
        |seconds: [i64; 3]| TimestampMicrosecondArray::from_iter_values(seconds.map(|second| second * 1_000_000));
    let millis = [end, noon, old].map(|second| second * 1000);
    let zoned = micros([noon - 21_600, noon, noon + 21_600]).with_timezone("UTC");
    let hours = [11.0, 12.5, 13.0].map(|hour: f64| (hour * 3.6e9) as i64);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", ids(3)),
        ("ts", Arc::new(micros([end, noon, old]))),
        ("ms", Arc::new(TimestampMillisecondArray::from_iter_values(millis))),
        ("ns", Arc::new(TimestampNanosecondArray::from_iter_values([1, noon * 1_000_000_000, 3]))),
        (
            "day",
            Arc::new(Date32Array::from_iter_values([end, noon, old].map(|second| second.div_euclid(86_400) as i32))),
        ),
        ("tm", Arc::new(Time64MicrosecondArray::from_iter_values(hours))),
        ("z", Arc::new(zoned)),
    ];
    table(dir.path(), "d", &batch(columns));

    let leaves = Fields::from(vec![Field::new("x", DataType::Int64, false), Field::new("y", DataType::Utf8, true)]);
    let x: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let y: ArrayRef = Arc::new(StringArray::from(vec![Some("p"), None, Some("q")]));
    let present = Some(vec![true, false, true].into());
    let structs: ArrayRef = Arc::new(StructArray::new(leaves, vec![x, y], present));
    table(dir.path(), "g", &batch(vec![("id", ids(3)), ("s", structs)]));
    dir
}

/// Runs each statement in every way, with `sets`, and compares its rows, in any order, with those that are expected.
pub(crate) async fn check(sets: &[&str], cases: &[(&str, &[&str])]) {
    check_on(&tables(), &TABLES, sets, cases).await;
}

/// Does the same over `tables`, whose files are in `dir`.
pub(crate) async fn check_on(dir: &TempDir, tables: &[(&str, &str, &str)], sets: &[&str], cases: &[(&str, &[&str])]) {
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        let mut expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        expected.sort();
        for (zones, way) in WAYS {
            let sets: Vec<&str> = way.iter().chain(sets).copied().collect();
            match ask(&statement(zones, sql, tables), dir.path(), &sets).await {
                Ok(answer) if sorted_text(&answer.rows) == expected => {}
                Ok(answer) => wrong.push(format!("{zones} zones: {sql}: {:?}", sorted_text(&answer.rows))),
                Err(error) => wrong.push(format!("{zones} zones: {sql}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
