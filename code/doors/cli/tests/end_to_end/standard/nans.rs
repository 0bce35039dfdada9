//! NaN, which is one value and greater than all numbers, also with a sign bit.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, ListArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use tempfile::{TempDir, tempdir};

use super::{batch, check_on, table};

/// Writes the table `f(id, x, y, s: {x}, l: [x])`. `0.0 / 0.0` has a sign bit on many machines, and so has it in files.
fn doubles() -> TempDir {
    let dir = tempdir().unwrap();
    let signed = -f64::NAN.abs();
    let x = [Some(1.0), Some(f64::NAN), Some(signed), Some(-0.0), Some(f64::INFINITY), Some(f64::NEG_INFINITY), None];
    let y = [Some(f64::NAN), Some(signed), Some(1.0), Some(0.0), Some(signed), Some(signed), Some(signed)];
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(1..=7));
    let x: ArrayRef = Arc::new(Float64Array::from_iter(x));
    let y: ArrayRef = Arc::new(Float64Array::from_iter(y));
    let field = |name: &str| Field::new(name, DataType::Float64, true);
    let s: ArrayRef = Arc::new(StructArray::new(Fields::from(vec![field("x")]), vec![Arc::clone(&x)], None));
    let each = OffsetBuffer::from_lengths(vec![1; x.len()]);
    let l: ArrayRef = Arc::new(ListArray::new(Arc::new(field("item")), each, Arc::clone(&x), None));
    table(dir.path(), "f", &batch(vec![("id", ids), ("x", x), ("y", y), ("s", s), ("l", l)]));
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn nan_is_one_value_and_the_greatest() {
    check_on(
        &doubles(),
        &[("f", "Parquet", "f")],
        &[],
        &[
            ("SELECT id FROM f WHERE x < 5", &["1", "4", "6"]),
            ("SELECT id FROM f WHERE NOT (x > 5)", &["1", "4", "6"]),
            (
                "SELECT id, x > 5, x < y, x = y FROM f",
                &[
                    "1 | false | true | false",
                    "2 | true | false | true",
                    "3 | true | false | false",
                    "4 | false | false | true",
                    "5 | true | true | false",
                    "6 | false | true | false",
                    "7 | NULL | NULL | NULL",
                ],
            ),
            ("SELECT id FROM f WHERE x = y", &["2", "4"]),
            ("SELECT id FROM f WHERE x >= y", &["2", "3", "4"]),
            ("SELECT id FROM f WHERE x IS DISTINCT FROM y", &["1", "3", "5", "6", "7"]),
            ("SELECT id FROM f WHERE x BETWEEN y AND y", &["2", "4"]),
            ("SELECT id FROM f WHERE x = CAST('NaN' AS DOUBLE)", &["2", "3"]),
            ("SELECT id FROM f WHERE x <= 'Infinity'::DOUBLE", &["1", "4", "5", "6"]),
            (
                "SELECT a.id, b.id FROM f a, f b WHERE a.x = b.y AND a.id < 4",
                &["1 | 3", "2 | 1", "2 | 2", "2 | 5", "2 | 6", "2 | 7", "3 | 1", "3 | 2", "3 | 5", "3 | 6", "3 | 7"],
            ),
            ("SELECT string_agg(CAST(id AS VARCHAR), ' ' ORDER BY x, id) FROM f WHERE x IS NOT NULL", &["6 4 1 5 2 3"]),
            (
                "SELECT string_agg(CAST(id AS VARCHAR), ' ' ORDER BY x DESC, id) FROM f WHERE x IS NOT NULL",
                &["2 3 5 1 4 6"],
            ),
            ("SELECT id FROM (SELECT id, x FROM f ORDER BY x, id LIMIT 4) q", &["6", "4", "1", "5"]),
            ("SELECT id FROM f WHERE s.x < 5", &["1", "4", "6"]),
            ("SELECT id, s.x < 5 FROM f WHERE id = 3", &["3 | false"]),
            (
                "SELECT id, s.x < 5, l[1] < 5 FROM f",
                &[
                    "1 | true | true",
                    "2 | false | false",
                    "3 | false | false",
                    "4 | true | true",
                    "5 | false | false",
                    "6 | true | true",
                    "7 | NULL | NULL",
                ],
            ),
            ("SELECT median(-y) > 5 FROM f WHERE id = 1", &["true"]),
            (
                "SELECT id % 3, CAST(max(x) AS VARCHAR), CAST(min(x) AS VARCHAR) FROM f GROUP BY id % 3",
                &["0 | NaN | -inf", "1 | 1.0 | -0.0", "2 | NaN | inf"],
            ),
            (
                "SELECT id, CAST(max(x) AS VARCHAR), CAST(min(x) AS VARCHAR) FROM f WHERE id > 4 GROUP BY id",
                &["5 | inf | inf", "6 | -inf | -inf", "7 | NULL | NULL"],
            ),
            ("SELECT count(*) FROM (SELECT max(-y) OVER () AS m FROM f WHERE id IN (1, 3)) q WHERE m > 5", &["2"]),
            ("SELECT id FROM (SELECT id, UNNEST(l) AS v FROM f) q WHERE v > 5", &["2", "3", "5"]),
            ("SELECT id, greatest(x, 0.0) > 5 FROM f WHERE id IN (3, 5)", &["3 | true", "5 | true"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nan_that_a_statement_computes_is_the_greatest() {
    let made = "(SELECT id, x, CASE WHEN id = 1 THEN 0.0 / (x - 1) WHEN id = 4 THEN x - 1 ELSE -y END AS z FROM f)";
    check_on(
        &doubles(),
        &[("f", "Parquet", "f")],
        &[],
        &[
            (&format!("SELECT id FROM {made} q WHERE z > 5"), &["1", "2", "5", "6", "7"]),
            (&format!("SELECT id FROM {made} q WHERE z < 5"), &["3", "4"]),
            ("SELECT id FROM f WHERE -y < 5", &["3", "4"]),
            (
                "SELECT id, -y < 5, 0.0 / (x - 1) > 5 FROM f WHERE id IN (1, 3)",
                &["1 | false | true", "3 | true | true"],
            ),
            (&format!("SELECT id FROM (SELECT id FROM {made} q ORDER BY z, id LIMIT 3) p"), &["4", "3", "1"]),
            (
                &format!("SELECT id FROM (SELECT id FROM {made} q WHERE id <> 7 ORDER BY -z DESC, id LIMIT 2) p"),
                &["1", "2"],
            ),
            (
                &format!("SELECT a.id, b.id FROM {made} a, {made} b WHERE a.z = b.z AND a.id < 3 AND b.id < 3"),
                &["1 | 1", "1 | 2", "2 | 1", "2 | 2"],
            ),
            (
                "SELECT 0.0::DOUBLE / 0 > 5, 0.0::DOUBLE / 0 = CAST('NaN' AS DOUBLE), -('NaN'::DOUBLE) < 5",
                &["true | true | false"],
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nan_is_found_in_files_whose_bounds_do_not_count_it() {
    let dir = tempdir().unwrap();
    let x: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 4.0, -f64::NAN.abs()]));
    table(dir.path(), "g", &batch(vec![("id", Arc::new(Int64Array::from_iter_values(1..=4))), ("x", x)]));
    check_on(
        &dir,
        &[("g", "Parquet", "g")],
        &[],
        &[
            ("SELECT id FROM g WHERE x IN ('NaN')", &["4"]),
            ("SELECT id FROM g WHERE x IN ('NaN', '9')", &["4"]),
            ("SELECT id FROM g WHERE x BETWEEN 'NaN'::DOUBLE AND 'NaN'::DOUBLE", &["4"]),
            ("SELECT id FROM g WHERE x BETWEEN 5 AND 'NaN'::DOUBLE", &["4"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nan_that_a_statement_builds_into_values_is_the_greatest() {
    check_on(
        &tempdir().unwrap(),
        &[],
        &[],
        &[
            ("SELECT count(*) FROM (VALUES (1.0), (0.0 / 0.0), (3.0)) AS t(a) WHERE a > 2", &["2"]),
            ("SELECT [0.0 / 0.0][1] > 1, named_struct('a', 0.0 / 0.0)['a'] > 1", &["true | true"]),
            ("SELECT count(*) FROM UNNEST([1.0, 0.0 / 0.0, 3.0]) AS t(u) WHERE u > 2", &["2"]),
        ],
    )
    .await;
}
