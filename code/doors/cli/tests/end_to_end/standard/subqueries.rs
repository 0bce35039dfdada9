//! `IN`, `EXISTS`, `ANY` and `ALL` with subqueries, and set operations.

use super::check;
use crate::common::{ask, statement};

#[tokio::test(flavor = "multi_thread")]
async fn membership_knows_three_values_in_every_place() {
    check(&[], &[
        ("SELECT id FROM t WHERE a NOT IN (SELECT k FROM u) OR id = 5", &["5"]),
        ("SELECT id FROM t WHERE a NOT IN (SELECT k FROM u)", &[]),
        ("SELECT id FROM t WHERE a NOT IN (SELECT k FROM u WHERE k IS NOT NULL)", &["5", "6", "7"]),
        ("SELECT id FROM t WHERE (a NOT IN (SELECT k FROM u WHERE k IS NOT NULL)) IS NULL", &["4", "8"]),
        ("SELECT id FROM t WHERE NOT (a IN (SELECT k FROM u WHERE k IS NOT NULL) AND b < 3)", &["4", "5", "6", "7", "8"]),
        ("SELECT id, a IN (SELECT k FROM u) FROM t WHERE id < 6", &["1 | true", "2 | true", "3 | true", "4 | NULL", "5 | NULL"]),
        ("SELECT id, a NOT IN (SELECT k FROM u WHERE k > 9) FROM t WHERE id IN (3, 4)", &["3 | true", "4 | true"]),
        ("SELECT count(*) FROM t WHERE NULL NOT IN (SELECT k FROM u)", &["0"]),
        ("SELECT count(*) FROM t WHERE NULL NOT IN (SELECT k FROM u WHERE k > 9)", &["8"]),
        ("SELECT count(*) FROM t WHERE 7 NOT IN (SELECT k FROM u)", &["0"]),
        ("SELECT count(*) FROM t WHERE 7 NOT IN (SELECT id FROM t WHERE id < 5)", &["8"]),
        ("SELECT id FROM t WHERE a NOT IN (SELECT k FROM u WHERE u.k <= t.b)", &["1", "3", "5", "6", "7"]),
        ("SELECT id FROM t WHERE b NOT IN (SELECT x.b FROM t x WHERE x.a = t.a AND x.id <> t.id)", &["1", "2", "3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE b = 8 OR id IN (SELECT k FROM u)", &["1", "2", "8"]),
        ("SELECT id, a >= ALL (SELECT u.k FROM u WHERE u.k <= t.b) FROM t WHERE id < 5", &["1 | true", "2 | false", "3 | true", "4 | NULL"]),
        ("SELECT id, a < ANY (SELECT u.k FROM u WHERE u.k <= t.b) AS x FROM t WHERE id < 5", &["1 | false", "2 | true", "3 | false", "4 | NULL"]),
        ("SELECT id, a IN (SELECT u.k + 0 FROM u WHERE u.k = t.b OR u.k IS NULL) FROM t WHERE id IN (2, 3)", &["2 | NULL", "3 | NULL"]),
        ("SELECT id, a NOT IN (SELECT u.k FROM u WHERE u.k < t.b) FROM t WHERE id < 4", &["1 | true", "2 | false", "3 | true"]),
        ("SELECT id FROM t WHERE a >= ALL (SELECT u.k FROM u WHERE u.k <= t.b)", &["1", "3", "5", "6", "7"]),
        ("SELECT CASE WHEN a IN (SELECT k FROM u WHERE k = 1) THEN 'one' ELSE 'other' END, count(*) FROM t GROUP BY 1", &["one | 2", "other | 6"]),
        ("SELECT id FROM t WHERE (a, b) IN (SELECT a, b FROM t WHERE id IN (2, 4))", &["2"]),
        ("SELECT id FROM t WHERE (a, b) NOT IN (SELECT k, k FROM u)", &[]),
        ("SELECT id FROM t WHERE (a, b) NOT IN (SELECT k, 2 FROM u WHERE k IS NOT NULL)", &["1", "3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE (a, b) IN ((1, 2), (3, 7)) OR (id, b) = (8, 8)", &["2", "7", "8"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exists_over_an_aggregate_and_in_every_place() {
    check(&[], &[
        ("SELECT id FROM t WHERE EXISTS (SELECT count(*) FROM u WHERE u.k = t.id)", &["1", "2", "3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE NOT EXISTS (SELECT max(k) FROM u WHERE u.k = t.id)", &[]),
        ("SELECT id FROM t WHERE EXISTS (SELECT count(*) FROM u WHERE u.k = t.id HAVING count(*) = 0)", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE EXISTS (SELECT count(*) FROM u WHERE u.k = t.id HAVING count(*) > 1)", &["2"]),
        ("SELECT id FROM t WHERE EXISTS (SELECT count(*) FROM u WHERE u.k = t.id GROUP BY v)", &["1", "2"]),
        ("SELECT id FROM t WHERE 0 IN (SELECT count(*) FROM u WHERE u.k = t.id)", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE 0 IN (SELECT count(*) FROM u WHERE u.k = t.id HAVING count(*) < 5) OR b > 100", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE 1 > ANY (SELECT count(*) FROM u WHERE u.k = t.id HAVING count(*) < 5)", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT count(*) FROM (SELECT 0e0 / 0e0 AS x EXCEPT SELECT 0e0 / 0e0)", &["0"]),
        ("SELECT id FROM t WHERE 0 NOT IN (SELECT count(*) FROM u WHERE u.k = t.id)", &["1", "2"]),
        ("SELECT id, EXISTS (SELECT 1 FROM u WHERE u.k = t.id) FROM t WHERE id < 4", &["1 | true", "2 | true", "3 | false"]),
        ("SELECT EXISTS (SELECT 1 FROM t WHERE b > 7), NOT EXISTS (SELECT 1 FROM u), EXISTS (SELECT 1 FROM t WHERE b > 8)", &["true | false | false"]),
        ("SELECT id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.id) OR b = 7", &["1", "2", "7"]),
        ("SELECT id FROM t ORDER BY id * (SELECT -1) LIMIT 2", &["7", "8"]),
        ("SELECT sum(id + (SELECT max(k) FROM u)) FROM t", &["52"]),
        ("SELECT (SELECT 42) AS n, count(*) FROM t GROUP BY n", &["42 | 8"]),
        ("SELECT id, sum(id + (SELECT 1)) OVER () FROM t WHERE id < 3", &["1 | 5", "2 | 5"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_operations_with_all_count_rows() {
    check(
        &[],
        &[
            ("SELECT a FROM t EXCEPT ALL SELECT k FROM u", &["1", "NULL", "3", "3", "3"]),
            ("SELECT a FROM t INTERSECT ALL SELECT k FROM u", &["1", "2", "NULL"]),
            ("SELECT k FROM u EXCEPT ALL SELECT a FROM t", &["2"]),
            ("SELECT a, b FROM t EXCEPT ALL SELECT a, b FROM t WHERE id > 2", &["1 | 0", "1 | 2"]),
            ("SELECT 'x' FROM t INTERSECT ALL SELECT 'x' FROM u", &["x", "x", "x", "x"]),
            ("SELECT a FROM t EXCEPT SELECT k FROM u", &["3"]),
            ("SELECT DISTINCT a FROM t INTERSECT ALL SELECT k FROM u", &["1", "2", "NULL"]),
            ("SELECT count(*) FROM (SELECT a FROM t EXCEPT ALL SELECT a FROM t WHERE id IN (1, 5, 6))", &["5"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_and_all_know_three_values_in_every_place() {
    let all = &["1", "2", "3", "4", "5", "6", "7", "8"];
    check(&[], &[
        ("SELECT id FROM t WHERE id = ANY (SELECT k FROM u)", &["1", "2"]),
        ("SELECT id, id = ANY (SELECT k FROM u) FROM t WHERE id < 4", &["1 | true", "2 | true", "3 | NULL"]),
        ("SELECT id, id = SOME (SELECT k FROM u WHERE k > 1) FROM t WHERE id < 3", &["1 | false", "2 | true"]),
        ("SELECT id FROM t WHERE id <> ALL (SELECT k FROM u)", &[]),
        ("SELECT id FROM t WHERE id <> ALL (SELECT k FROM u WHERE k IS NOT NULL)", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE id > ALL (SELECT k FROM u WHERE k IS NOT NULL)", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT id, id > ALL (SELECT k FROM u) FROM t WHERE id IN (1, 2, 3)", &["1 | false", "2 | false", "3 | NULL"]),
        ("SELECT id, id > ANY (SELECT k FROM u) FROM t WHERE id IN (1, 2)", &["1 | NULL", "2 | true"]),
        ("SELECT id FROM t WHERE NOT (id > ANY (SELECT k FROM u WHERE k IS NOT NULL))", &["1"]),
        ("SELECT id FROM t WHERE NOT (id >= ALL (SELECT k FROM u WHERE k IS NOT NULL)) OR id = 8", &["1", "8"]),
        ("SELECT id FROM t WHERE id = ALL (SELECT k FROM u WHERE k > 9)", all),
        ("SELECT id FROM t WHERE (id > ANY (SELECT k FROM u WHERE k > 9)) IS FALSE", all),
        ("SELECT id FROM t WHERE a = ALL (SELECT k FROM u WHERE k = 1)", &["1", "2"]),
        ("SELECT id FROM t WHERE a < ALL (SELECT k FROM u WHERE k = 2)", &["1", "2"]),
        ("SELECT id FROM t WHERE id > ALL (SELECT max(k) FROM u)", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT id FROM t WHERE b > ANY (SELECT x.b FROM t x WHERE x.a = t.a)", &["2", "5", "7"]),
        ("SELECT CASE WHEN id = ANY (SELECT k FROM u WHERE k = 1) THEN 'one' ELSE 'other' END, count(*) FROM t GROUP BY 1", &["one | 1", "other | 7"]),
        ("SELECT id FROM t ORDER BY id = ANY (SELECT k FROM u WHERE k IS NOT NULL) DESC, id LIMIT 3", &["1", "2", "3"]),
        ("SELECT a, count(*) FROM t GROUP BY a HAVING a = ANY (SELECT k FROM u)", &["1 | 2", "2 | 1"]),
        ("SELECT sum(CASE WHEN id < ALL (SELECT k FROM u WHERE k = 2) THEN 1 ELSE 0 END) FROM t", &["1"]),
        ("SELECT id FROM t WHERE id * INTERVAL '12 hours' = ANY (SELECT k * INTERVAL '1 day' FROM u)", &["2", "4"]),
        ("SELECT id FROM t WHERE id * INTERVAL '12 hours' > ALL (SELECT k * INTERVAL '1 day' FROM u WHERE k IS NOT NULL)", &["5", "6", "7", "8"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scalar_subqueries_may_compute_what_the_query_computes() {
    check(&[], &[
        ("SELECT sum(id) * 100 / (SELECT sum(id) FROM t) FROM t WHERE a = 3", &["50"]),
        ("SELECT a, max(b), (SELECT max(b) FROM t WHERE a = 1) FROM t WHERE a < 3 GROUP BY a", &["1 | 2 | 2", "2 | 0 | 2"]),
        ("SELECT max(b) - (SELECT max(b) FROM t) FROM t", &["0"]),
        ("SELECT a FROM t GROUP BY a HAVING max(b) = (SELECT max(b) FROM t)", &["NULL"]),
        ("SELECT a FROM t GROUP BY a HAVING max(b) = (SELECT max(b) FROM t WHERE a > 0) AND min(b) = (SELECT min(b) FROM t)", &["3"]),
        ("SELECT m FROM (SELECT max(b) AS m FROM t) q WHERE m = (SELECT max(b) AS m FROM t)", &["8"]),
        ("SELECT id FROM (SELECT id FROM t UNION ALL SELECT k FROM u) q WHERE id = (SELECT max(k) AS id FROM u)", &["2", "2", "2"]),
        ("SELECT k FROM (SELECT k FROM u UNION SELECT a FROM t) q WHERE k = (SELECT k FROM u WHERE v = 'one')", &["1"]),
        ("SELECT a, sum(b) OVER () - (SELECT sum(b) FROM t) AS d FROM t WHERE id < 2", &["1 | -26"]),
        ("SELECT a, max(b) FROM t WHERE a > 1 GROUP BY a ORDER BY max(b) - (SELECT max(b) FROM t) LIMIT 1", &["2 | 0"]),
        ("SELECT DISTINCT (SELECT max(v) FROM u WHERE u.k = t.a) AS m FROM t WHERE a < 3 ORDER BY (SELECT max(v) FROM u WHERE u.k = t.a)", &["one", "zwei"]),
        ("SELECT count(*) FROM t WHERE a < 4 GROUP BY (SELECT max(v) FROM u WHERE u.k = t.a) ORDER BY (SELECT max(v) FROM u WHERE u.k = t.a)", &["1", "2", "3"]),
        ("SELECT a, max(b) AS m FROM t WHERE a > 1 GROUP BY a ORDER BY max(b) - (SELECT max(b) AS m FROM t) DESC LIMIT 1", &["3 | 7"]),
        ("SELECT a, count(1), (SELECT count(1) FROM u WHERE u.k = t.a) FROM t WHERE a < 4 GROUP BY a", &["1 | 2 | 1", "2 | 1 | 2", "3 | 3 | 0"]),
        ("SELECT a FROM t WHERE a < 4 GROUP BY a HAVING sum(1) > (SELECT sum(1) FROM u WHERE u.k = t.a)", &["1"]),
    ])
    .await;
    let dir = super::tables();
    let several = "SELECT sum(k) FROM u HAVING sum(k) > (SELECT k FROM u)";
    let error = ask(&statement(1, several, &super::TABLES), dir.path(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("more than one row"), "{error}");
    let empty = "SELECT (SELECT FROM u) FROM t";
    let error = ask(&statement(1, empty, &super::TABLES), dir.path(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("has no column; write one after its SELECT"), "{error}");
}
