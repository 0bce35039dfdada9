//! Intervals: comparison, order, groups and parts.

use super::{TABLES, check, tables};
use crate::common::{ask, statement};

#[tokio::test(flavor = "multi_thread")]
async fn intervals_are_compared_by_their_length() {
    // Half days; in the second, the first row has the same length in another unit.
    let half_days = "id * INTERVAL '12 hours'";
    let mixed = format!("CASE WHEN id = 1 THEN INTERVAL '1 day' ELSE {half_days} END");
    let days = "k * INTERVAL '1 day'";
    let nested = (0..30).fold(half_days.to_string(), |inner, _| format!("nullif({inner}, INTERVAL '24 hours')"));
    check(&[], &[
        ("SELECT INTERVAL '1 month' = INTERVAL '720 hours', INTERVAL '1 day' <> '24 hours', INTERVAL '36 hours' > INTERVAL '1 day'", &["true | false | true"]),
        ("SELECT TIMESTAMP '2024-01-03' - TIMESTAMP '2024-01-01' > INTERVAL '1 day', TIMESTAMP '2024-01-03' - TIMESTAMP '2024-01-01' = '2 days'", &["true | true"]),
        ("SELECT id FROM d WHERE ns - TIMESTAMP '1970-01-01' > INTERVAL '1 day'", &["2"]),
        (&format!("SELECT id FROM t WHERE {half_days} > INTERVAL '3 days'"), &["7", "8"]),
        (&format!("SELECT id FROM t WHERE '1 day' = {half_days} OR {half_days} IS NOT DISTINCT FROM INTERVAL '2 days'"), &["2", "4"]),
        (&format!("SELECT id FROM t WHERE {half_days} BETWEEN '1 day' AND INTERVAL '2 days'"), &["2", "3", "4"]),
        (&format!("SELECT id FROM t WHERE {half_days} IN (INTERVAL '1 day', '3 days', NULL)"), &["2", "6"]),
        ("SELECT id FROM t WHERE a * INTERVAL '12 hours' < INTERVAL '1 day'", &["1", "2"]),
        (&format!("SELECT id FROM t WHERE CASE {half_days} WHEN INTERVAL '1 day' THEN true ELSE false END"), &["2"]),
        ("SELECT nullif(INTERVAL '1 day', INTERVAL '24 hours')", &["NULL"]),
        ("SELECT greatest(INTERVAL '1 day', '36 hours') = INTERVAL '36 hours', least('1 day', INTERVAL '36 hours', '3 days') = INTERVAL '1 day'", &["true | true"]),
        (&format!("SELECT id FROM t WHERE greatest({half_days}, '1 day') = INTERVAL '1 day'"), &["1", "2"]),
        (&format!("SELECT id FROM t WHERE nullif({half_days}, INTERVAL '1 day') IS NULL OR nullif({half_days}, '2 days') IS NULL"), &["2", "4"]),
        (&format!("SELECT id FROM t WHERE {} IS NULL", nested), &["2"]),
        (&format!("SELECT id FROM t WHERE {half_days} IN (SELECT {days} FROM u WHERE k IS NOT NULL)"), &["2", "4"]),
        (&format!("SELECT id FROM t WHERE {half_days} NOT IN (SELECT {days} FROM u WHERE k IS NOT NULL)"), &["1", "3", "5", "6", "7", "8"]),
        (&format!("SELECT id, v FROM t JOIN u ON {half_days} = {days}"), &["2 | one", "4 | two", "4 | zwei"]),
        ("SELECT n, m FROM (SELECT INTERVAL '1 day' AS i, 1 AS n) x JOIN (SELECT INTERVAL '24 hours' AS i, 2 AS m) y USING (i)", &["1 | 2"]),
        (&format!("SELECT id FROM t ORDER BY {mixed} DESC LIMIT 1"), &["8"]),
        (&format!("SELECT id, rank() OVER (ORDER BY {mixed}), count(*) OVER (PARTITION BY {mixed}) FROM t WHERE id < 4"), &["1 | 1 | 2", "2 | 1 | 2", "3 | 3 | 1"]),
        (&format!("SELECT i, count(*), sum(id) FROM (SELECT id, {mixed} AS i FROM t WHERE id < 4) x GROUP BY i"), &["24 hours | 2 | 3", "36 hours | 1 | 3"]),
        (&format!("SELECT i, count(*) FROM (SELECT id, {mixed} AS i FROM t WHERE id < 4) x GROUP BY ROLLUP (i)"), &["24 hours | 2", "36 hours | 1", "NULL | 3"]),
        (&format!("SELECT i, a, count(*) FROM (SELECT id, a, {mixed} AS i FROM t WHERE id < 4) x GROUP BY GROUPING SETS ((i), (i, a), ())"), &["24 hours | NULL | 2", "24 hours | 1 | 2", "36 hours | NULL | 1", "36 hours | 2 | 1", "NULL | NULL | 3"]),
        (&format!("SELECT count(DISTINCT {mixed}), count(*) FROM t WHERE id < 4"), &["2 | 3"]),
        (&format!("SELECT count(*) FROM (SELECT DISTINCT {mixed} AS i FROM t WHERE id < 4) x"), &["2"]),
        (&format!("SELECT DISTINCT ON (i) i = INTERVAL '1 day', id FROM (SELECT id, {mixed} AS i FROM t WHERE id < 4) x ORDER BY i, id DESC"), &["true | 2", "false | 3"]),
        ("SELECT INTERVAL '1 day' AS i UNION SELECT INTERVAL '24 hours'", &["24 hours"]),
        ("SELECT INTERVAL '1 day' AS i EXCEPT SELECT INTERVAL '24 hours'", &[]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_intervals_have_days_and_fractions() {
    let difference = "(SELECT TIMESTAMP '2024-01-03 05:06:01.5' - TIMESTAMP '2024-01-01' AS x) y";
    check(&[], &[
        (&format!("SELECT extract(epoch FROM x), extract(day FROM x), extract(hour FROM x), extract(minute FROM x) FROM {difference}"), &["1.911615000e5 | 2 | 5 | 6"]),
        (&format!("SELECT extract(second FROM x), extract(millisecond FROM x), extract(microsecond FROM x), extract(nanosecond FROM x) FROM {difference}"), &["1.500000000e0 | 1500 | 1500000 | 1500000000"]),
        ("SELECT extract(millisecond FROM INTERVAL '7.5 seconds'), extract(hour FROM INTERVAL '53 hours'), date_part('quarter', INTERVAL '7 months')", &["7500 | 53 | 3"]),
        ("SELECT date_part('epoch', INTERVAL '1 year 1 month')", &["3.414960000e7"]),
        ("SELECT id, extract(hour FROM ns - TIMESTAMP '1970-01-01'), extract(microseconds FROM ns - TIMESTAMP '1970-01-01') FROM d WHERE id = 2", &["2 | 12 | 0"]),
        ("SELECT extract(hour FROM x) FROM (SELECT CAST(NULL AS INTERVAL) AS x) y", &["NULL"]),
    ])
    .await;
    let dir = tables();
    let sql = "SELECT extract(dow FROM ns - TIMESTAMP '1970-01-01') FROM d";
    let error = ask(&statement(1, sql, &TABLES), dir.path(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("`dow` is not a part of an interval; use year"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_and_the_shortest_interval_are_by_length() {
    // Lengths in hours: 24, 24, 36, 48 …; in the order of months, days and nanoseconds the first is the longest.
    let mixed = "CASE WHEN id = 1 THEN INTERVAL '1 day' ELSE id * INTERVAL '12 hours' END";
    check(&[], &[
        (&format!("SELECT max({mixed}), min({mixed}), count(*) FROM t WHERE id < 4"), &["36 hours | 24 hours | 3"]),
        (&format!("SELECT a, max({mixed}) AS m FROM t WHERE id <> 7 GROUP BY a"), &["1 | 1 days", "2 | 36 hours", "3 | 72 hours", "NULL | 96 hours"]),
        (&format!("SELECT min({mixed}) FILTER (WHERE id > 2), max(DISTINCT {mixed}), max({mixed}) + INTERVAL '1 hour' FROM t WHERE id < 4"), &["36 hours | 36 hours | 37 hours"]),
        (&format!("SELECT grouping(a), max({mixed}) FROM t WHERE id < 4 GROUP BY ROLLUP (a)"), &["0 | 1 days", "0 | 36 hours", "1 | 36 hours"]),
        ("SELECT min(i), max(i) FROM (SELECT CAST(NULL AS INTERVAL) AS i FROM t) x", &["NULL | NULL"]),
        (&format!("SELECT id, max({mixed}) OVER (ORDER BY id) FROM t WHERE id < 4"), &["1 | 1 days", "2 | 1 days", "3 | 36 hours"]),
        (&format!("SELECT id, min({mixed}) OVER (ORDER BY id ROWS 1 PRECEDING) AS m, max({mixed}) OVER () AS n FROM t WHERE id IN (3, 4)"), &["3 | 36 hours | 48 hours", "4 | 36 hours | 48 hours"]),
        ("SELECT greatest(INTERVAL '1 day', INTERVAL '36 hours', NULL), least(INTERVAL '1 month', INTERVAL '31 days')", &["36 hours | 1 mons"]),
        (&format!("SELECT id FROM t WHERE greatest({mixed}, INTERVAL '25 hours') = INTERVAL '36 hours'"), &["3"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grouping_sets_that_are_told_apart_group_by_values() {
    let mixed = "CASE WHEN id = 1 THEN INTERVAL '1 day' ELSE id * INTERVAL '12 hours' END";
    let lengths = format!("(SELECT id, a, {mixed} AS i FROM t WHERE id < 4) x");
    let zeros = "(SELECT id, a, CASE WHEN id = 1 THEN -0.0::DOUBLE WHEN id = 2 THEN 0.0::DOUBLE ELSE 0e0 / 0e0 * (id - 5) END AS z FROM t WHERE id < 5) x";
    check(&[], &[
        (&format!("SELECT i, count(*), grouping(i) FROM {lengths} GROUP BY ROLLUP (i)"), &["24 hours | 2 | 0", "36 hours | 1 | 0", "NULL | 3 | 1"]),
        (&format!("SELECT count(*), grouping(i) AS g, grouping(a), grouping(i, a) FROM {lengths} GROUP BY GROUPING SETS ((i), (i, a), ())"), &["2 | 0 | 1 | 1", "1 | 0 | 1 | 1", "2 | 0 | 0 | 0", "1 | 0 | 0 | 0", "3 | 1 | 1 | 3"]),
        (&format!("SELECT count(*), grouping(a, i) FROM {lengths} GROUP BY CUBE (i, a) HAVING grouping(i) = 1"), &["2 | 1", "1 | 1", "3 | 3"]),
        (&format!("SELECT count(*), grouping(z) FROM {zeros} GROUP BY ROLLUP (z)"), &["2 | 0", "2 | 0", "4 | 1"]),
        (&format!("SELECT i, grouping(i) FROM {lengths} GROUP BY i"), &["24 hours | 0", "36 hours | 0"]),
        (&format!("SELECT i > INTERVAL '1 day', count(*), grouping(i > INTERVAL '1 day') FROM {lengths} GROUP BY ROLLUP (i > INTERVAL '1 day')"), &["false | 2 | 0", "true | 1 | 0", "NULL | 3 | 1"]),
        ("SELECT count(*), grouping(s SIMILAR TO 'hel%') FROM t WHERE s <> '' GROUP BY ROLLUP (s SIMILAR TO 'hel%')", &["2 | 0", "4 | 0", "6 | 1"]),
        (&format!("SELECT max(i), grouping(i) + 1 FROM {lengths} GROUP BY ROLLUP (i) ORDER BY grouping(i), max(i)"), &["1 days | 1", "36 hours | 1", "36 hours | 2"]),
    ])
    .await;
}
