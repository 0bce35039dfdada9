//! Inner joins in the order that estimates choose: the same rows as in the order of the statement, and fewer on the way.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use buzz_engine::{Content, Engine, Want};
use buzz_fuse::Fuse;
use buzz_testkit::{plain_rows, same_rows, sorted_text};
use tempfile::tempdir;

use crate::common::{ask, host, question, statement};
use crate::tables::write_file;

/// Joins sold items to stock of the same item first, which makes many rows, and then to few days.
const SALES: &str = "SELECT sold.item, days.day, COUNT(*) AS n, MAX(stock.item) AS s FROM sold
    JOIN stock ON sold.item = stock.item JOIN days ON sold.day = days.day AND stock.day = days.day
    WHERE days.year = 3 GROUP BY sold.item, days.day";

/// Statements whose rows do not depend on the order of their joins.
const STATEMENTS: [&str; 7] = [
    SALES,
    // Columns that USING merges.
    "SELECT item, d.year, COUNT(*) FROM sold JOIN stock USING (item) JOIN days d ON sold.day = d.day AND stock.day = d.day WHERE d.year = 3
        GROUP BY item, d.year",
    // Outer, semi and anti joins around inner ones and below them.
    "SELECT d.year, s.item, t.day, e.year AS other FROM sold s JOIN stock t ON s.item = t.item JOIN days d ON s.day = d.day AND t.day = d.day
        LEFT JOIN days e ON e.day = s.item AND e.year = 0 WHERE d.year < 2",
    "SELECT s.item, d.day, COUNT(*) FROM sold s JOIN stock t ON s.item = t.item JOIN days d ON s.day = d.day AND t.day = d.day
        WHERE d.year = 3 AND s.item NOT IN (SELECT day FROM days WHERE year = 2) AND EXISTS (SELECT 1 FROM stock x WHERE x.item = s.item)
        GROUP BY s.item, d.day",
    "SELECT a.item, COUNT(*) FROM (SELECT s.item, s.day, d.year FROM sold s LEFT JOIN days d ON s.day = d.day) a
        JOIN stock t ON a.item = t.item JOIN days f ON t.day = f.day AND f.year = 1 AND a.day = f.day GROUP BY a.item",
    // A condition that fails for rows that another condition excludes.
    "SELECT COUNT(*) FROM sold s JOIN stock t ON s.item = t.item
        JOIN days d ON s.day = d.day AND t.day = d.day AND 1000 / (s.day - d.day + 1) > 0 WHERE d.year = 3",
    // A relation without a key, and conditions that are not equalities.
    "SELECT COUNT(*) FROM sold s CROSS JOIN (SELECT day FROM days WHERE day < 2) o JOIN stock t ON s.item = t.item
        JOIN days d ON s.day = d.day AND t.day = d.day AND t.item >= o.day AND o.day <= d.day WHERE d.year = 3",
];

/// NULL is equal to NULL in one join only. Plain DataFusion makes the same of both.
const ONE_OF_TWO: (&str, &str) = (
    "SELECT s.item, COUNT(*) FROM sold s JOIN stock t ON s.item IS NOT DISTINCT FROM t.item
        JOIN days d ON s.day = d.day AND t.day = d.day WHERE d.year = 3 GROUP BY s.item",
    "SELECT s.item, COUNT(*) FROM sold s JOIN stock t ON s.item = t.item OR (s.item IS NULL AND t.item IS NULL)
        JOIN days d ON s.day = d.day AND t.day = d.day WHERE d.year = 3 GROUP BY s.item",
);

/// Keys with NaN, two zeros and NULL.
const DOUBLES: &str = "SELECT COUNT(*), SUM(s.item), SUM(d.day) FROM sold s JOIN stock t ON s.amount = t.amount
    JOIN days d ON s.day = d.day AND t.day = d.day WHERE d.year = 3";

/// Tables of [`write_tables`].
pub(crate) const TABLES: [&str; 3] = ["sold", "stock", "days"];

/// Writes sold items, stock of items, and days, with NULL in every column but `days.day`.
pub(crate) fn write_tables(dir: &Path) {
    let numbers =
        |number: fn(i64) -> Option<i64>, rows: i64| Arc::new((0..rows).map(number).collect::<Int64Array>()) as ArrayRef;
    let amounts = |step: i64| -> ArrayRef {
        let amount = |row: i64| match row * step % 11 {
            0 => None,
            1 => Some(f64::NAN),
            2 => Some(-0.0),
            3 => Some(0.0),
            other => Some(other as f64 / 2.0),
        };
        Arc::new((0..2000).map(amount).collect::<Float64Array>())
    };
    let items = |row: i64| (row % 13 != 0).then_some(row * 7 % 50);
    let sold: [(&str, ArrayRef); 3] = [
        ("item", numbers(items, 2000)),
        ("day", numbers(|row| (row % 17 != 0).then_some(row * 3 % 400), 2000)),
        ("amount", amounts(1)),
    ];
    let stock: [(&str, ArrayRef); 3] = [
        ("item", numbers(items, 2000)),
        ("day", numbers(|row| (row % 19 != 0).then_some(row * 5 % 400), 2000)),
        ("amount", amounts(3)),
    ];
    let days: [(&str, ArrayRef); 2] =
        [("day", numbers(Some, 400)), ("year", numbers(|row| (row != 333).then_some(row / 40), 400))];
    for (name, batch) in [
        ("sold", RecordBatch::try_from_iter_with_nullable(sold.map(|(name, column)| (name, column, true)))),
        ("stock", RecordBatch::try_from_iter_with_nullable(stock.map(|(name, column)| (name, column, true)))),
        ("days", RecordBatch::try_from_iter_with_nullable(days.map(|(name, column)| (name, column, true)))),
    ] {
        fs::create_dir_all(dir.join(name)).unwrap();
        write_file(&dir.join(name).join("part-0.parquet"), &batch.unwrap());
    }
}

/// Combs and options, with and without the order that estimates choose.
const WAYS: [(usize, [&str; 3]); 4] = [
    (1, ["join_order=written", "transport=memory", "build_bytes=256MiB"]),
    (1, ["join_order=estimated", "transport=memory", "build_bytes=256MiB"]),
    (3, ["join_order=estimated", "transport=tcp", "build_bytes=0"]),
    (3, ["join_order=written", "transport=memory", "build_bytes=0"]),
];

async fn rows_of(sql: &str, dir: &Path, (zones, sets): (usize, [&str; 3])) -> Vec<RecordBatch> {
    let query = statement(zones, sql, &TABLES.map(|name| (name, "Parquet", name)));
    let sets = sets.into_iter().chain(["tasks=3", "split_bytes=1"]).collect::<Vec<_>>();
    ask(&query, dir, &sets).await.expect(sql).rows
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_those_of_plain_datafusion_in_either_order() {
    let dir = tempdir().unwrap();
    write_tables(dir.path());
    let folders = TABLES.map(|name| dir.path().join(name).to_string_lossy().into_owned());
    let tables: Vec<_> = TABLES.into_iter().zip(folders.iter().map(String::as_str)).collect();
    for (sql, plain) in STATEMENTS.into_iter().map(|sql| (sql, sql)).chain([ONE_OF_TWO]) {
        let expected = plain_rows(plain, &tables, 2).await.expect(plain);
        assert!(expected.iter().any(|batch| batch.num_rows() > 0), "no rows to compare: {sql}");
        for way in WAYS {
            let rows = rows_of(sql, dir.path(), way).await;
            assert!(same_rows(&rows, &expected, false), "{way:?}: {sql}\n{:?}", sorted_text(&rows));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doubles_are_the_same_keys_in_either_order() {
    let dir = tempdir().unwrap();
    write_tables(dir.path());
    let [written, others @ ..] = WAYS;
    let expected = sorted_text(&rows_of(DOUBLES, dir.path(), written).await);
    for way in others {
        assert_eq!(sorted_text(&rows_of(DOUBLES, dir.path(), way).await), expected, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filtered_table_is_joined_first() {
    let dir = tempdir().unwrap();
    write_tables(dir.path());
    let lowest_join = async |order: &str| {
        let query = statement(1, SALES, &TABLES.map(|name| (name, "Parquet", name)));
        let sets = [order, "build_bytes=0"];
        let (question, _) = question(&query, dir.path(), &sets);
        let mut running = Fuse::new(host(&sets).host()).start(question.with_want(Want::Plan));
        let Content::Plan(plan) = running.answer().await.unwrap().content else { panic!("rows instead of a plan") };
        plan.lines().rfind(|line| line.contains("HashJoinExec")).expect("a join").to_string()
    };
    let written = lowest_join("join_order=written").await;
    assert!(written.contains("on=[(item@"), "{written}");
    let estimated = lowest_join("join_order=estimated").await;
    assert!(estimated.contains("on=[(day@"), "{estimated}");
}
