//! Joins that merge columns, lists beside their rows, fields of structs.

use buzz_testkit::sorted_text;

use super::{TABLES, check, tables};
use crate::common::{ask, statement, steps};

#[tokio::test(flavor = "multi_thread")]
async fn merged_columns_of_outer_joins_have_the_value_of_the_side_with_a_row() {
    let full = "FROM (SELECT a AS k, count(*) AS n FROM t GROUP BY a) x FULL JOIN (SELECT k, count(*) AS m FROM u GROUP BY k) y USING (k)";
    check(&[], &[
        (&format!("SELECT k, n, m {full}"), &["1 | 2 | 1", "2 | 1 | 2", "3 | 3 | NULL", "NULL | 2 | NULL", "NULL | NULL | 1"]),
        (&format!("SELECT count(k), sum(k) {full} WHERE k > 1"), &["2 | 5"]),
        ("SELECT k, id FROM (SELECT id, id AS k FROM t WHERE id < 2) x RIGHT JOIN u USING (k)", &["1 | 1", "2 | NULL", "2 | NULL", "NULL | NULL"]),
        ("SELECT k, v FROM u RIGHT JOIN (SELECT id AS k FROM t WHERE id IN (2, 7)) x USING (k)", &["2 | two", "2 | zwei", "7 | NULL"]),
        ("SELECT x.k AS xk, y.k AS yk, k FROM (SELECT 1 AS k) x FULL JOIN (SELECT 2 AS k) y USING (k)", &["1 | NULL | 1", "NULL | 2 | 2"]),
        ("SELECT x.k, y.k FROM (SELECT 1 AS k) x FULL JOIN (SELECT 2 AS k) y USING (k)", &["1 | NULL", "NULL | 2"]),
        ("SELECT * FROM (SELECT 1 AS k, 'l' AS l) x FULL JOIN (SELECT 2 AS k, 'r' AS r) y USING (k)", &["1 | l | NULL", "2 | NULL | r"]),
        ("SELECT k FROM (SELECT 1 AS k) a FULL JOIN (SELECT 2 AS k) b USING (k) FULL JOIN (SELECT 2 AS k UNION ALL SELECT 3) c USING (k)", &["1", "2", "3"]),
        ("SELECT k, count(*) FROM u a JOIN u b USING (k) JOIN u c USING (k) WHERE k > 1 GROUP BY k", &["2 | 8"]),
        ("SELECT k FROM (SELECT 1 AS k) x NATURAL FULL JOIN (SELECT 2 AS k) y", &["1", "2"]),
        ("SELECT k, l FROM (SELECT * FROM (SELECT 5 AS k, 'l' AS l) y LEFT JOIN (SELECT 6 AS k, 'r' AS r) x USING (k)) s", &["5 | l"]),
        ("SELECT z.id FROM (SELECT id, id AS k FROM t) z LEFT JOIN u USING (k) WHERE u.k IS NULL", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT c.id FROM (SELECT id, id AS k FROM t) c LEFT JOIN u USING (k) WHERE u.k IS NULL", &["3", "4", "5", "6", "7", "8"]),
        ("SELECT k, count(*) FROM (SELECT id AS k FROM t) x FULL JOIN u USING (k) GROUP BY k HAVING count(*) > 1 ORDER BY k", &["2 | 2"]),
        ("SELECT k, count(*) FROM (SELECT id AS k FROM t) x NATURAL JOIN u WHERE k = 2 GROUP BY k", &["2 | 2"]),
        ("SELECT k FROM (SELECT 1 AS k UNION SELECT 3) x NATURAL FULL JOIN (SELECT 2 AS k) y WHERE k > 1", &["2", "3"]),
        ("SELECT k, l FROM (SELECT 1 AS k, 5 AS l UNION ALL SELECT 2, 6) x NATURAL JOIN (SELECT 1 AS k, 5 AS l UNION ALL SELECT 2, 6) y WHERE k + l > 6", &["2 | 6"]),
        ("SELECT k, m FROM (SELECT 1 AS k) x NATURAL LEFT JOIN (SELECT 2 AS k, 3 AS m) y WHERE k = 1", &["1 | NULL"]),
        ("SELECT k, m FROM (SELECT 1 AS k) x NATURAL JOIN (SELECT 1 AS k, 3 AS m) y NATURAL JOIN (SELECT 3 AS m) z WHERE m = 3 AND k = 1", &["1 | 3"]),
        ("SELECT DISTINCT x.k FROM (SELECT 1 AS k) x FULL JOIN u USING (k) ORDER BY x.k NULLS FIRST LIMIT 2", &["1", "NULL"]),
        ("SELECT k, o FROM (SELECT 1 AS k UNION SELECT 3) x NATURAL FULL JOIN (SELECT 2 AS k) y CROSS JOIN (SELECT 7 AS o) z WHERE k > 1", &["2 | 7", "3 | 7"]),
        ("SELECT k FROM (SELECT 7 AS o) z, (SELECT 1 AS k) x NATURAL JOIN u WHERE k = 1 AND o = 7", &["1"]),
        ("SELECT k, o FROM (SELECT id AS k FROM t) x NATURAL JOIN u JOIN (SELECT 2 AS o) z ON o = k WHERE k < 9", &["2 | 2", "2 | 2"]),
        ("SELECT count(*) FROM (SELECT DISTINCT a AS k FROM t) NATURAL JOIN u CROSS JOIN (SELECT DISTINCT b FROM t) z", &["18"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_unnested_beside_their_rows() {
    let lists = "(SELECT id, CASE WHEN id < 3 THEN [id, b] WHEN id = 4 THEN [] END AS l FROM t WHERE id < 5) q";
    check(
        &[],
        &[
            (&format!("SELECT id, x FROM {lists} CROSS JOIN UNNEST(l) AS y(x)"), &["1 | 1", "1 | 0", "2 | 2", "2 | 2"]),
            (
                &format!("SELECT id, sum(x) FROM {lists}, UNNEST(q.l) AS y(x) WHERE x > 0 GROUP BY id"),
                &["1 | 1", "2 | 4"],
            ),
            (
                &format!("SELECT id, x FROM {lists} LEFT JOIN UNNEST(l) AS y(x) ON true"),
                &["1 | 1", "1 | 0", "2 | 2", "2 | 2", "3 | NULL", "4 | NULL"],
            ),
            (
                &format!("SELECT id, x, n FROM {lists} CROSS JOIN UNNEST(l) WITH ORDINALITY AS y(x, n)"),
                &["1 | 1 | 1", "1 | 0 | 2", "2 | 2 | 1", "2 | 2 | 2"],
            ),
            ("SELECT id, x FROM t CROSS JOIN UNNEST([10, 20]) AS y(x) WHERE id = 1", &["1 | 10", "1 | 20"]),
            (&format!("SELECT id, y.l FROM {lists} CROSS JOIN UNNEST(l) AS y(l) WHERE id = 1"), &["1 | 1", "1 | 0"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn required_field_of_a_null_struct_is_null() {
    check(
        &[],
        &[
            ("SELECT sum(s['x']), count(s['x']), count(s) FROM g", &["4 | 2 | 2"]),
            ("SELECT id, s['x'], s['y'] FROM g", &["1 | 1 | p", "2 | NULL | NULL", "3 | 3 | q"]),
            ("SELECT id FROM g WHERE s['x'] IS NULL", &["2"]),
            ("SELECT id FROM g WHERE s['x'] > 0", &["1", "3"]),
            ("SELECT unnest(s) FROM g", &["1 | p", "NULL | NULL", "3 | q"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_mean_the_same_as_one_statement() {
    let dir = tables();
    let tables = [TABLES[0], TABLES[1]];
    let maps = [
        ("m", "SELECT id, id AS k, a, b, s FROM t WHERE b <> 0 AND 10 / b > 0 AND s NOT SIMILAR TO 'x%'"),
        ("n", "SELECT k, v FROM u"),
    ];
    for (sql, expected) in [
        ("SELECT k FROM (SELECT k FROM m WHERE k > 4) x FULL JOIN n USING (k)", vec!["1", "2", "2", "5", "8", "NULL"]),
        (
            "SELECT x.k AS x, y.k AS y FROM (SELECT k FROM m WHERE k > 4) x FULL JOIN (SELECT k FROM n WHERE k > 1) y USING (k)",
            vec!["5 | NULL", "8 | NULL", "NULL | 2", "NULL | 2"],
        ),
        ("SELECT id FROM m WHERE a NOT IN (SELECT k FROM n) OR id = 8", vec!["8"]),
        ("SELECT k FROM n EXCEPT ALL SELECT id FROM m", vec!["1", "2", "NULL"]),
        ("SELECT id FROM m ORDER BY id FETCH FIRST 2 ROWS ONLY", vec!["2", "4"]),
    ] {
        // The plan of a step that is read once is a part of the plan of its reader.
        for reduces in [vec![("r", sql)], vec![("r", sql), ("last", "SELECT * FROM r")]] {
            for zones in [1, 3] {
                let answer = ask(&steps(zones, &maps, &reduces, &tables), dir.path(), &["tasks=4"]).await;
                assert_eq!(sorted_text(&answer.unwrap().rows), expected, "{zones} zones: {reduces:?}");
            }
        }
    }
    let maps = [("m", "SELECT sum(9223372036854775807 + id * 0) AS x FROM t")];
    let error = ask(&steps(1, &maps, &[("r", "SELECT x FROM m")], &tables[..1]), dir.path(), &[]).await.unwrap_err();
    assert!(error.message.contains("exceeds the type Int64"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_a_natural_join_does_not_merge_is_ambiguous() {
    let dir = tables();
    let right = "SELECT count(*) FROM u NATURAL JOIN (SELECT 1 AS k) x, (SELECT 2 AS o) z WHERE k = 1";
    let wrong = "SELECT count(*) FROM u NATURAL JOIN (SELECT 1 AS k) x, (SELECT 2 AS k) z WHERE k = 2";
    // In another SELECT, the column is merged.
    for sql in [wrong.to_string(), format!("SELECT ({right}), ({wrong})"), format!("SELECT ({wrong}), ({right})")] {
        let error = ask(&statement(1, &sql, &TABLES), dir.path(), &[]).await.unwrap_err();
        assert!(error.to_string().contains("mbiguous"), "{sql}: {error}");
    }
    let side =
        "SELECT count(*) FROM (SELECT 1 AS m) w NATURAL JOIN (SELECT 1 AS m, 1 AS k) x NATURAL JOIN u WHERE k = 1";
    check(&[], &[(&format!("SELECT ({right}), ({side})"), &["1 | 1"])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_by_equality_beside_those_by_identity_exclude_nulls() {
    let x = "(SELECT id, a FROM t) x";
    let identity = "JOIN u ON x.a IS NOT DISTINCT FROM u.k";
    check(&[], &[
        // t.a is 1, 1, 2, NULL, 3, 3, 3, NULL; u.k is 1, 2, 2, NULL.
        (&format!("SELECT count(*) FROM {x} {identity}"), &["6"]),
        (&format!("SELECT count(*) FROM {x} {identity} JOIN t y ON x.a = y.a"), &["6"]),
        (&format!("SELECT count(*) FROM {x} JOIN t y ON x.a = y.a {identity}"), &["6"]),
        (&format!("SELECT x.a, count(*) FROM {x} {identity} JOIN t y ON x.id = y.id GROUP BY x.a"), &["1 | 2", "2 | 2", "NULL | 2"]),
        (&format!("SELECT x.a, count(*) FROM {x} JOIN t y ON x.id = y.id {identity} GROUP BY x.a"), &["1 | 2", "2 | 2", "NULL | 2"]),
        (&format!("SELECT count(*) FROM {x} {identity} CROSS JOIN u w WHERE x.a = w.k"), &["6"]),
        (&format!("SELECT count(*) FROM {x} {identity} WHERE x.a = u.k"), &["4"]),
        ("SELECT count(*) FROM (SELECT id, a, CAST(NULL AS BIGINT) AS m FROM t) x JOIN (SELECT k, CAST(NULL AS BIGINT) AS m FROM u) u ON x.a IS NOT DISTINCT FROM u.k WHERE x.m = u.m", &["0"]),
        (&format!("SELECT count(*) FROM {x} LEFT JOIN u ON x.a IS NOT DISTINCT FROM u.k JOIN t y ON x.a = y.a"), &["15"]),
        ("SELECT count(*) FROM t x WHERE EXISTS (SELECT 1 FROM u JOIN u w ON u.k IS NOT DISTINCT FROM w.k JOIN t y ON u.k = y.a WHERE y.id = x.id)", &["3"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn computed_keys_are_those_that_tasks_delivered() {
    // Pairs of remainders are all different, and some are others in reverse.
    let same = ["1 | 1", "2 | 2", "3 | 3", "4 | 4", "5 | 5", "6 | 6", "7 | 7", "8 | 8"];
    let by = |condition: &str| format!("SELECT x.id, y.id FROM t x JOIN t y ON {condition}");
    let plain = by("x.id % 4 = y.id % 4 AND x.b % 3 = y.b % 3");
    let reversed = by("x.b % 3 = y.b % 3 AND x.id % 4 = y.id % 4");
    let sums = by("x.id % 4 + 1 = y.id % 4 + 1 AND x.b % 3 + 1 = y.b % 3 + 1");
    let more = by("x.id % 4 = y.id % 4 AND x.b % 3 = y.b % 3 AND x.b % 9 = y.b % 9 AND x.id % 9 = y.id % 9");
    check(&[], &[(&plain, &same), (&reversed, &same), (&sums, &same), (&more, &same)]).await;
}
