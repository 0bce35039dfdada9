//! Keys of a small table that filter the rows below an aggregate: the same rows with and without them, and fewer on the way.

use std::path::Path;

use buzz_engine::{Content, Engine, Want};
use buzz_fuse::Fuse;
use buzz_testkit::{plain_rows, same_rows, sorted_text};
use tempfile::tempdir;

use crate::common::{ask, host, question, statement};
use crate::join_order::{TABLES, write_tables};

/// Statements that join the groups of an aggregate with a filtered table.
const FILTERED: [&str; 6] = [
    "SELECT COUNT(*), SUM(s.item) FROM sold s JOIN days d ON s.day = d.day
        WHERE d.year = 3 AND s.item < (SELECT AVG(t.item) FROM stock t WHERE t.day = d.day)",
    "SELECT d.day, (SELECT COUNT(*) FROM stock t WHERE t.day = d.day) AS n FROM days d WHERE d.year = 3",
    "SELECT d.day, g.n FROM days d JOIN (SELECT day, COUNT(*) AS n FROM stock GROUP BY day) g ON g.day = d.day WHERE d.year = 3",
    "SELECT d.day, g.n FROM days d LEFT JOIN (SELECT day, COUNT(*) AS n FROM stock GROUP BY day HAVING COUNT(*) > 20) g
        ON g.day = d.day WHERE d.year = 3",
    // The key goes through another join.
    "SELECT s.item, g.n FROM sold s JOIN (SELECT day, COUNT(*) AS n FROM stock GROUP BY day) g ON g.day = s.day
        JOIN days d ON s.day = d.day WHERE d.year = 3 AND s.item + g.n > 3",
    "SELECT d.day FROM days d WHERE d.year = 3 AND NOT EXISTS
        (SELECT t.day FROM stock t WHERE t.day = d.day GROUP BY t.day HAVING COUNT(*) > 20)",
];

/// Statements whose aggregates must see all rows.
const UNFILTERED: [&str; 5] = [
    "SELECT d.year, g.n FROM days d JOIN (SELECT day, COUNT(*) AS n FROM stock GROUP BY day) g
        ON g.day IS NOT DISTINCT FROM NULLIF(d.day, 130) WHERE d.year = 3",
    "SELECT d.day, g.item, g.n FROM days d JOIN (SELECT day, item, COUNT(*) AS n FROM stock GROUP BY ROLLUP (day, item)) g
        ON g.day = d.day WHERE d.year = 3",
    "SELECT g.day, g.n FROM (SELECT day, COUNT(*) AS n FROM stock GROUP BY day) g LEFT JOIN days d
        ON g.day = d.day AND d.year = 3 WHERE g.day < 9 OR d.year = 3",
    "SELECT COUNT(*) FROM days d WHERE d.year = 3 AND d.day NOT IN (SELECT day FROM stock GROUP BY day HAVING COUNT(*) > 1000)",
    "SELECT COUNT(*) FROM (SELECT day, ROW_NUMBER() OVER (ORDER BY COUNT(*), day) AS r FROM stock GROUP BY day) g
        JOIN days d ON g.day = d.day WHERE d.year = 3 AND g.r > 100",
];

async fn plan(sql: &str, dir: &Path, filters: &str) -> String {
    let query = statement(1, sql, &TABLES.map(|name| (name, "Parquet", name)));
    let sets = [filters];
    let (question, _) = question(&query, dir, &sets);
    let mut running = Fuse::new(host(&sets).host()).start(question.with_want(Want::Plan));
    match running.answer().await.expect(sql).content {
        Content::Plan(plan) => plan,
        Content::Rows(_) => panic!("rows instead of a plan"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_those_of_plain_datafusion_with_and_without_keys() {
    let dir = tempdir().unwrap();
    write_tables(dir.path());
    let folders = TABLES.map(|name| dir.path().join(name).to_string_lossy().into_owned());
    let tables: Vec<_> = TABLES.into_iter().zip(folders.iter().map(String::as_str)).collect();
    for sql in FILTERED.into_iter().chain(UNFILTERED) {
        let expected = plain_rows(sql, &tables, 2).await.expect(sql);
        for (zones, sets) in [
            (1, ["key_filters=estimated", "transport=memory"]),
            (1, ["key_filters=none", "transport=memory"]),
            (3, ["key_filters=estimated", "transport=tcp"]),
        ] {
            let query = statement(zones, sql, &TABLES.map(|name| (name, "Parquet", name)));
            let sets = sets.into_iter().chain(["tasks=3", "split_bytes=1"]).collect::<Vec<_>>();
            let rows = ask(&query, dir.path(), &sets).await.expect(sql).rows;
            assert!(same_rows(&rows, &expected, false), "{zones} zones, {sets:?}: {sql}\n{:?}", sorted_text(&rows));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_are_filtered_where_no_group_is_missed() {
    let dir = tempdir().unwrap();
    write_tables(dir.path());
    for sql in FILTERED {
        let filtered = plan(sql, dir.path(), "key_filters=estimated").await;
        let all = plan(sql, dir.path(), "key_filters=none").await;
        let reading = |plan: &str| plan.matches("every task also reads table days").count();
        assert_eq!(reading(&filtered), reading(&all) + 1, "{sql}\n{filtered}\n{all}");
    }
    for sql in UNFILTERED {
        let all = plan(sql, dir.path(), "key_filters=none").await;
        let filtered = plan(sql, dir.path(), "key_filters=estimated").await;
        // The estimate at the end is a measurement.
        let steps = |plan: &str| plan.rsplit_once("estimate: ").map(|(steps, _)| steps.to_string());
        assert_eq!(steps(&filtered), steps(&all), "{sql}");
    }
}
