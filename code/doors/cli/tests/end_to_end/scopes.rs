//! References from subqueries to the outer query: to one side of a join that merges columns, and in correlated subqueries
//! that DataFusion refuses. The expected rows are written by hand.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use buzz_protocol::ErrorKind;
use tempfile::{TempDir, tempdir};

use crate::common::{ask, statement};
use crate::standard::{TABLES, WAYS, batch, check, check_on, table, tables};

/// Writes the tables `x(k, v)`, `y(k, w)`, `z(k)` and `u(x, y)`.
fn sides() -> TempDir {
    let dir = tempdir().unwrap();
    let numbers = |values: &[i64]| {
        let known = values.iter().map(|value| (*value != 0).then_some(*value));
        Arc::new(Int64Array::from_iter(known)) as ArrayRef
    };
    table(dir.path(), "x", &batch(vec![("k", numbers(&[1, 2, 0])), ("v", numbers(&[10, 20, 30]))]));
    table(dir.path(), "y", &batch(vec![("k", numbers(&[2, 3, 0])), ("w", numbers(&[200, 300, 400]))]));
    table(dir.path(), "z", &batch(vec![("k", numbers(&[1, 3, 3, 0]))]));
    table(dir.path(), "u", &batch(vec![("x", numbers(&[1, 2, 0, 2, 0])), ("y", numbers(&[1, 3, 3, 0, 1]))]));
    dir
}

const SIDES: [(&str, &str, &str); 4] =
    [("x", "Parquet", "x"), ("y", "Parquet", "y"), ("z", "Parquet", "z"), ("u", "Parquet", "u")];

#[tokio::test(flavor = "multi_thread")]
async fn subqueries_refer_to_one_side_of_a_join_that_merges_columns() {
    check_on(&sides(), &SIDES, &[], &[
        ("SELECT x.k AS xk, y.k AS yk, v, w FROM x FULL JOIN y USING (k)", &["1 | NULL | 10 | NULL", "2 | 2 | 20 | 200", "NULL | NULL | 30 | NULL", "NULL | 3 | NULL | 300", "NULL | NULL | NULL | 400"]),
        ("SELECT x.k AS xk, y.k AS yk, v, w FROM x FULL JOIN y USING (k) WHERE EXISTS (SELECT 1 FROM z WHERE z.k = x.k)", &["1 | NULL | 10 | NULL"]),
        ("SELECT x.k AS xk, y.k AS yk, v, w FROM x FULL JOIN y USING (k) WHERE EXISTS (SELECT 1 FROM z WHERE z.k = y.k)", &["NULL | 3 | NULL | 300"]),
        ("SELECT v, w FROM x FULL JOIN y USING (k) WHERE NOT EXISTS (SELECT 1 FROM z WHERE z.k = x.k)", &["20 | 200", "30 | NULL", "NULL | 300", "NULL | 400"]),
        ("SELECT v, w FROM x FULL JOIN y USING (k) WHERE NOT EXISTS (SELECT 1 FROM z WHERE z.k = y.k)", &["10 | NULL", "20 | 200", "30 | NULL", "NULL | 400"]),
        ("SELECT v, w FROM x FULL JOIN y USING (k) WHERE EXISTS (SELECT 1 FROM z WHERE z.k = x.k) OR w = 400", &["10 | NULL", "NULL | 400"]),
        ("SELECT v, w, (SELECT count(*) FROM z WHERE z.k = x.k) AS n FROM x FULL JOIN y USING (k)", &["10 | NULL | 1", "20 | 200 | 0", "30 | NULL | 0", "NULL | 300 | 0", "NULL | 400 | 0"]),
        ("SELECT v, w, (SELECT count(*) FROM z WHERE z.k = y.k) AS n FROM x FULL JOIN y USING (k)", &["10 | NULL | 0", "20 | 200 | 0", "30 | NULL | 0", "NULL | 300 | 2", "NULL | 400 | 0"]),
        ("SELECT v, w FROM x NATURAL FULL JOIN y WHERE NOT EXISTS (SELECT 1 FROM z WHERE z.k = y.k)", &["10 | NULL", "20 | 200", "30 | NULL", "NULL | 400"]),
        ("SELECT v, w FROM x RIGHT JOIN y USING (k) WHERE EXISTS (SELECT 1 FROM z WHERE z.k = x.k)", &[]),
        ("SELECT v, w FROM x RIGHT JOIN y USING (k) WHERE EXISTS (SELECT 1 FROM z WHERE z.k = y.k)", &["NULL | 300"]),
        ("SELECT v, w FROM y LEFT JOIN x USING (k) WHERE NOT EXISTS (SELECT 1 FROM z WHERE z.k = x.k)", &["20 | 200", "NULL | 300", "NULL | 400"]),
        ("SELECT v, w FROM y LEFT JOIN x USING (k) WHERE EXISTS (SELECT 1 FROM z WHERE z.k = y.k)", &["NULL | 300"]),
        ("SELECT v, w, q FROM x FULL JOIN y USING (k), LATERAL (SELECT z.k AS q FROM z WHERE z.k = x.k) AS l", &["10 | NULL | 1"]),
        ("SELECT z.k FROM z WHERE EXISTS (SELECT 1 FROM x FULL JOIN y USING (k) WHERE x.k = z.k)", &["1"]),
        ("SELECT v AS n FROM x WHERE EXISTS (SELECT 1 FROM z WHERE z.k = x.k) UNION ALL SELECT w FROM x FULL JOIN y USING (k) WHERE x.k IS NULL", &["10", "NULL", "300", "400"]),
        ("SELECT w AS n FROM x FULL JOIN y USING (k) WHERE x.k IS NULL UNION ALL SELECT v FROM x WHERE EXISTS (SELECT 1 FROM z WHERE z.k = x.k)", &["NULL", "300", "400", "10"]),
        ("SELECT x.k AS xk, count(*) AS n FROM x FULL JOIN y USING (k) GROUP BY GROUPING SETS ((x.k), ())", &["1 | 1", "2 | 1", "NULL | 3", "NULL | 5"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_values_are_compared_with_subqueries_of_one_row() {
    check_on(
        &sides(),
        &SIDES,
        &[],
        &[
            ("SELECT x, y FROM u WHERE (x, y) NOT IN (SELECT max(x), max(y) FROM u)", &["1 | 1", "NULL | 1"]),
            ("SELECT x, y FROM u WHERE (x, y) IN (SELECT max(x), max(y) FROM u)", &["2 | 3"]),
            ("SELECT x, y FROM u WHERE ((x, y) IN (SELECT max(x), max(y) FROM u)) IS NULL", &["NULL | 3", "2 | NULL"]),
            ("SELECT x, y FROM u WHERE (x, y) NOT IN (SELECT max(x), max(y) FROM u WHERE x > 9)", &[]),
            ("SELECT x, y FROM u WHERE (x, y) NOT IN (SELECT max(k), max(k) FROM z WHERE z.k = u.x)", &[]),
            ("SELECT x, y FROM u WHERE (x, y) IN (SELECT max(k), max(k) FROM z WHERE z.k = u.x)", &["1 | 1"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grouping_sets_contain_subqueries() {
    check_on(
        &sides(),
        &SIDES,
        &[],
        &[
            (
                "SELECT x, count(*) AS n FROM u GROUP BY GROUPING SETS ((x, (SELECT max(k) FROM z)), ())",
                &["1 | 1", "2 | 2", "NULL | 2", "NULL | 5"],
            ),
            ("SELECT count(*) AS n FROM u GROUP BY CUBE (x % (SELECT max(k) FROM z))", &["1", "2", "2", "5"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn correlated_subqueries_compare_by_more_than_equality() {
    check(&[], &[
        ("SELECT id, (SELECT max(k) FROM u WHERE u.k <= t.a) FROM t", &["1 | 1", "2 | 1", "3 | 2", "4 | NULL", "5 | 2", "6 | 2", "7 | 2", "8 | NULL"]),
        ("SELECT id, (SELECT count(*) FROM u WHERE u.k < t.a) FROM t", &["1 | 0", "2 | 0", "3 | 1", "4 | 0", "5 | 3", "6 | 3", "7 | 3", "8 | 0"]),
        ("SELECT id FROM t WHERE b > (SELECT sum(k) FROM u WHERE u.k <> t.a)", &["7"]),
        ("SELECT id, (SELECT max(k) + t.a FROM u WHERE u.k <= t.b) FROM t WHERE id < 6", &["1 | NULL", "2 | 3", "3 | NULL", "4 | NULL", "5 | 5"]),
        ("SELECT id, (SELECT sum(k * t.b) FROM u WHERE u.k > t.a) FROM t WHERE id < 5", &["1 | 0", "2 | 8", "3 | NULL", "4 | NULL"]),
        ("SELECT id, (SELECT count(*) FROM u WHERE u.k >= t.a HAVING count(*) > 2) FROM t WHERE id < 5", &["1 | 3", "2 | 3", "3 | NULL", "4 | NULL"]),
        ("SELECT sum((SELECT count(*) FROM u WHERE u.k < t.a)) FROM t", &["10"]),
        ("SELECT id, EXISTS (SELECT 1 FROM u WHERE u.k > t.a) FROM t WHERE id < 4", &["1 | true", "2 | true", "3 | false"]),
        ("SELECT id, a FROM t ORDER BY (SELECT count(*) FROM u WHERE u.k < t.a) DESC, id LIMIT 4", &["3 | 2", "5 | 3", "6 | 3", "7 | 3"]),
        ("SELECT id, (SELECT max(k) FROM u WHERE u.k < t.a) + (SELECT min(k) FROM u WHERE u.k > t.a) FROM t WHERE id < 4", &["1 | NULL", "2 | NULL", "3 | NULL"]),
        ("SELECT (SELECT count(*) FROM u WHERE u.k > f.x) FROM (SELECT 0e0 * -1 AS x UNION ALL SELECT 0e0 UNION ALL SELECT NULL) AS f", &["3", "3", "0"]),
        ("SELECT id FROM t WHERE b = (SELECT max(x.b) FROM t x WHERE x.b < (SELECT avg(y.b) FROM t y WHERE y.id < x.id) AND x.id < t.id)", &["6"]),
        ("SELECT a, (SELECT count(*) FROM u WHERE u.k < x.a) FROM (SELECT a, count(*) FROM t GROUP BY a) x", &["1 | 0", "2 | 1", "3 | 3", "NULL | 0"]),
        ("SELECT id, (SELECT max(k) + t.a FROM u) FROM t WHERE id < 4", &["1 | 3", "2 | 3", "3 | 4"]),
        ("SELECT id, (SELECT max(v) FROM u WHERE upper(u.v) = upper(t.s || 'x')), (SELECT max(k) FROM u WHERE u.k % 2 = t.a) FROM t WHERE id < 4", &["1 | NULL | 1", "2 | NULL | 1", "3 | NULL | NULL"]),
        ("SELECT id, (SELECT sum(10 / (t.id - 1) + k) FROM u WHERE t.id > 1 AND u.k <= t.a) FROM t WHERE id < 4", &["1 | NULL", "2 | 11", "3 | 20"]),
        ("SELECT a, count(*) FROM t GROUP BY a HAVING count(*) > (SELECT count(*) FROM u WHERE u.k < t.a)", &["1 | 2", "NULL | 2"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn correlated_subqueries_have_one_row() {
    check(&[], &[
        ("SELECT id, (SELECT v FROM u WHERE u.k <= t.a ORDER BY k DESC, v DESC LIMIT 1) FROM t WHERE id < 6", &["1 | one", "2 | one", "3 | zwei", "4 | NULL", "5 | zwei"]),
        ("SELECT id, (SELECT v FROM u WHERE u.k = t.a ORDER BY v LIMIT 1) FROM t WHERE id < 6", &["1 | one", "2 | one", "3 | two", "4 | NULL", "5 | NULL"]),
        ("SELECT id, (SELECT upper(v) || t.id FROM u WHERE u.k = t.a ORDER BY length(v) DESC LIMIT 1) FROM t WHERE id < 4", &["1 | ONE1", "2 | ONE2", "3 | ZWEI3"]),
        ("SELECT id, (SELECT count(*) FROM u WHERE u.k = t.a LIMIT 1) FROM t WHERE id < 4", &["1 | 1", "2 | 1", "3 | 2"]),
        ("SELECT id, (SELECT v FROM u WHERE u.k = t.id) FROM t WHERE id IN (1, 3)", &["1 | one", "3 | NULL"]),
        ("SELECT id, (SELECT 10 / (t.id - 1) FROM u WHERE u.k = t.a AND t.id <> 1 ORDER BY v LIMIT 1) FROM t WHERE id < 4", &["1 | NULL", "2 | 10", "3 | 5"]),
        ("SELECT id FROM t WHERE (SELECT v FROM u WHERE u.k + 1 = t.id AND v = 'one') = 'one'", &["2"]),
    ])
    .await;
    let dir = tables();
    // The outer query would be computed twice, with other rows.
    let varies = "SELECT w.a, (SELECT count(*) FROM u WHERE u.v < w.m) FROM (SELECT a, string_agg(s, ',') AS m FROM t GROUP BY a) w";
    let error = ask(&statement(1, varies, &TABLES), dir.path(), &[]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error:?}");
    for (zones, way) in WAYS {
        let query = statement(zones, "SELECT id, (SELECT v FROM u WHERE u.k = t.id) FROM t", &TABLES);
        let error = ask(&query, dir.path(), way).await.unwrap_err();
        assert!(error.kind == ErrorKind::Invalid && error.message.contains("more than one row"), "{error:?}");
    }
}
