//! Tests the rows of queries with steps.

use arrow::array::RecordBatch;
use buzz_protocol::ErrorKind;
use buzz_testkit::{plain_rows, same_rows, sorted_text};
use serde_json::json;
use tempfile::tempdir;

use crate::common::{ask, steps};
use crate::tables::{parquet_folder, partitioned_delta};

/// Runs the steps on a folder of 8 files with different zones, transports and task counts. Compares the rows with those
/// of `sql` on plain DataFusion.
async fn check(maps: &[(&str, &str)], reduces: &[(&str, &str)], sql: &str, ordered: bool) {
    let dir = tempdir().unwrap();
    let folder = parquet_folder(dir.path(), "rides", 8, 250);
    let expected = plain_rows(sql, &[("rides", folder.to_str().unwrap())], 2).await.unwrap();
    for zones in [1, 2, 5] {
        for transport in ["transport=memory", "transport=tcp"] {
            for tasks in ["tasks=1", "tasks=64"] {
                let query = steps(zones, maps, reduces, &[("rides", "Parquet", "rides")]);
                let answer = ask(&query, dir.path(), &[transport, tasks]).await.unwrap();
                assert!(
                    same_rows(&answer.rows, &expected, ordered),
                    "{zones} zones, {transport}, {tasks}: {:#?} instead of {:#?}",
                    sorted_text(&answer.rows),
                    sorted_text(&expected)
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_match_plain_datafusion_for_any_task_count() {
    check(
        &[("m", "SELECT grp, COUNT(*) AS n, SUM(amount) AS s, MAX(id) AS hi FROM rides WHERE id % 2 = 0 GROUP BY grp")],
        &[("r", "SELECT grp, SUM(n) AS n, SUM(s) AS s, MAX(hi) AS hi FROM m GROUP BY grp ORDER BY grp")],
        "SELECT grp, COUNT(*) AS n, SUM(amount) AS s, MAX(id) AS hi FROM rides WHERE id % 2 = 0 GROUP BY grp ORDER BY grp",
        true,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_complete_and_in_order() {
    check(
        &[("m", "SELECT * FROM rides WHERE amount > 10")],
        &[("r", "SELECT id, grp, amount FROM m ORDER BY amount DESC, id LIMIT 700 OFFSET 20")],
        "SELECT id, grp, amount FROM rides WHERE amount > 10 ORDER BY amount DESC, id LIMIT 700 OFFSET 20",
        true,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hbee_step_accepts_unions_joins_windows_and_ctes() {
    check(
        &[
            ("u", "SELECT id FROM rides WHERE id % 5 = 0 UNION ALL SELECT id + 1000000 FROM rides WHERE id % 7 = 0"),
            ("j", "SELECT a.id FROM rides a JOIN rides b ON a.id = b.id WHERE a.id IN (SELECT id FROM rides WHERE amount > 50)"),
            ("w", "SELECT id FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY grp ORDER BY id) AS r FROM rides) t WHERE r >= 1"),
            ("c", "WITH x AS (SELECT id, amount FROM rides) SELECT id FROM x WHERE amount IS NULL GROUP BY id HAVING COUNT(*) = 1"),
        ],
        &[(
            "r",
            "SELECT 'u' AS s, COUNT(*) AS n, SUM(id) AS i FROM u UNION ALL SELECT 'j', COUNT(*), SUM(id) FROM j \
             UNION ALL SELECT 'w', COUNT(*), SUM(id) FROM w UNION ALL SELECT 'c', COUNT(*), SUM(id) FROM c",
        )],
        "SELECT 'u' AS s, COUNT(*) AS n, SUM(id) AS i FROM \
             (SELECT id FROM rides WHERE id % 5 = 0 UNION ALL SELECT id + 1000000 FROM rides WHERE id % 7 = 0) \
         UNION ALL SELECT 'j', COUNT(*), SUM(id) FROM rides WHERE amount > 50 \
         UNION ALL SELECT 'w', COUNT(*), SUM(id) FROM rides \
         UNION ALL SELECT 'c', COUNT(*), SUM(id) FROM rides WHERE amount IS NULL",
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_can_be_read_twice_and_joined() {
    check(
        &[
            ("counts", "SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp"),
            ("sums", "SELECT grp AS g, SUM(amount) AS s FROM rides GROUP BY grp"),
        ],
        &[
            ("totals", "SELECT grp, SUM(n) AS n FROM counts GROUP BY grp"),
            ("joined", "SELECT t.grp, t.n, s.s FROM totals t JOIN (SELECT g, SUM(s) AS s FROM sums GROUP BY g) s ON t.grp = s.g"),
            ("answer", "SELECT a.grp, a.n, a.s, b.n AS n2, c.n AS all_n FROM joined a JOIN totals b ON a.grp = b.grp \
                        CROSS JOIN (SELECT SUM(n) AS n FROM counts) c ORDER BY a.grp"),
        ],
        "WITH t AS (SELECT grp, COUNT(*) AS n, SUM(amount) AS s FROM rides GROUP BY grp) \
         SELECT grp, n, s, n AS n2, (SELECT COUNT(*) FROM rides) AS all_n FROM t ORDER BY grp",
        true,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unions_subqueries_and_null_aware_joins_match_plain_datafusion_on_several_combs() {
    check(
        &[("m", "SELECT id, grp, amount FROM rides")],
        &[(
            "r",
            "SELECT grp, COUNT(*) AS n FROM (SELECT id, grp FROM m WHERE id < 900 UNION ALL SELECT id, grp FROM m WHERE id > 1500) u \
             WHERE id NOT IN (SELECT id FROM m WHERE amount IS NULL) AND id > (SELECT AVG(id) / 10 FROM m) GROUP BY grp",
        )],
        "SELECT grp, COUNT(*) AS n FROM (SELECT id, grp FROM rides WHERE id < 900 UNION ALL SELECT id, grp FROM rides WHERE id > 1500) u \
         WHERE id NOT IN (SELECT id FROM rides WHERE amount IS NULL) AND id > (SELECT AVG(id) / 10 FROM rides) GROUP BY grp",
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_and_rollups_match_plain_datafusion_on_several_combs() {
    check(
        &[("m", "SELECT id, grp, amount FROM rides")],
        &[("r", "SELECT grp, rnk, COUNT(*) AS n FROM (SELECT grp, id % 5 AS rnk, ROW_NUMBER() OVER (PARTITION BY grp ORDER BY id DESC) AS p FROM m) w \
                 WHERE p <= 200 GROUP BY ROLLUP (grp, rnk)")],
        "SELECT grp, rnk, COUNT(*) AS n FROM (SELECT grp, id % 5 AS rnk, ROW_NUMBER() OVER (PARTITION BY grp ORDER BY id DESC) AS p FROM rides) w \
         WHERE p <= 200 GROUP BY ROLLUP (grp, rnk)",
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hbee_step_is_evaluated_once_per_file_or_row_group() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 5, 400);
    let maps = [("m", "SELECT COUNT(*) AS n FROM rides WHERE id >= 400")];
    let mut query = steps(
        2,
        &maps,
        &[("r", "SELECT n, COUNT(*) AS files FROM m GROUP BY n ORDER BY n")],
        &[("rides", "Parquet", "rides")],
    );
    for tasks in ["tasks=1", "tasks=3", "tasks=64"] {
        let answer = ask(&query, dir.path(), &[tasks]).await.unwrap();
        assert_eq!(sorted_text(&answer.rows), ["0 | 1", "400 | 4"]);
    }
    // Split by row groups of 100 rows: four times as many evaluations.
    query["steps"][0]["split"] = json!("row_groups");
    let answer = ask(&query, dir.path(), &["split_bytes=1"]).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), ["0 | 4", "100 | 16"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_columns_keep_their_position_and_prune_files() {
    let dir = tempdir().unwrap();
    partitioned_delta(dir.path());
    let catalogs = [("t", "DeltaLake", "partitioned")];
    let all = [("r", "SELECT * FROM m ORDER BY id LIMIT 2")];
    let answer = ask(&steps(2, &[("m", "SELECT * FROM t")], &all, &catalogs), dir.path(), &[]).await.unwrap();
    let names: Vec<String> = answer.rows[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["day", "id", "kind", "grp", "amount", "level"]);
    assert_eq!(
        sorted_text(&answer.rows),
        ["2024-01-01 | 0 | a | cash | NULL | 1", "2024-01-01 | 1 | a | credit | 2.500000000e-1 | 1",]
    );

    let grouped = [(
        "m",
        "SELECT kind, level, day, COUNT(*) AS n FROM t WHERE day < DATE '2024-02-01' GROUP BY kind, level, day",
    )];
    let reduce = [("r", "SELECT kind, level, SUM(n) AS n, COUNT(DISTINCT day) AS days FROM m GROUP BY kind, level")];
    let answer = ask(&steps(1, &grouped, &reduce, &catalogs), dir.path(), &[]).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), ["a | 1 | 100 | 2", "b/c d | NULL | 100 | 2"]);
    assert_eq!((answer.summary.files_read, answer.summary.files_found), (4, 6));

    // A file without matching rows still counts if the step returns a row for empty input.
    let counted = [("m", "SELECT COUNT(*) AS n FROM t WHERE day < DATE '2024-02-01'")];
    let answer = ask(&steps(1, &counted, &[("r", "SELECT n FROM m")], &catalogs), dir.path(), &[]).await.unwrap();
    assert_eq!(answer.summary.files_read, 6);
    assert_eq!(sorted_text(&answer.rows), ["0", "0", "50", "50", "50", "50"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_filter_compares_by_column_type() {
    let dir = tempdir().unwrap();
    partitioned_delta(dir.path());
    let maps = [("m", "SELECT COUNT(*) AS n FROM t")];
    let mut query = steps(1, &maps, &[("r", "SELECT SUM(n) AS n FROM m")], &[("t", "DeltaLake", "partitioned")]);
    let cases = [
        ("day<='2024-01-02'", 4),
        ("day BETWEEN '2024-01-02' AND '2024-02-01'", 4),
        ("day LIKE '2024-01-%'", 4),
        ("day IN ('2024-02-01', '2030-01-01')", 2),
        ("level='1'", 3),
        ("level < '02'", 3),
        ("level IS NULL AND kind = 'b/c d'", 3),
        ("key LIKE '%kind=a%' AND length > 10", 3),
        ("length < 0", 0),
        ("true", 6),
        // As in a WHERE.
        ("kind SIMILAR TO '_'", 3),
        ("(kind, level) IN (('a', 1), ('x', 2))", 3),
        ("day = $day OR level IS NOT DISTINCT FROM $level", 4),
        ("day < now() AND day <= current_date - INTERVAL '1 day'", 6),
        ("now() < TIMESTAMP '2024-01-01 00:00:00'", 0),
    ];
    query["params"] = json!({"day": "2024-02-01", "level": 1});
    for (filter, files) in cases {
        query["steps"][0]["partition_filter"] = json!(filter);
        let answer = ask(&query, dir.path(), &[]).await.unwrap();
        assert_eq!(answer.summary.files_read, files, "{filter}");
        let expected = if files == 0 { "NULL".to_string() } else { (files * 50).to_string() };
        assert_eq!(sorted_text(&answer.rows), [expected], "{filter}");
    }
    query["steps"][0]["partition_filter"] = json!("level > random()");
    let error = ask(&query, dir.path(), &[]).await.unwrap_err();
    assert!(error.kind == ErrorKind::Invalid && error.to_string().contains("it cannot contain `random()`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reduce_step_runs_when_all_files_are_pruned() {
    let dir = tempdir().unwrap();
    partitioned_delta(dir.path());
    let maps = [("m", "SELECT grp, COUNT(*) AS n FROM t WHERE day > DATE '2030-01-01' GROUP BY grp")];
    for (zones, reduce, expected) in
        [(1, "SELECT COUNT(*) AS n FROM m", vec!["0"]), (3, "SELECT grp, n FROM m", vec![])]
    {
        let query = steps(zones, &maps, &[("r", reduce)], &[("t", "DeltaLake", "partitioned")]);
        let answer = ask(&query, dir.path(), &[]).await.unwrap();
        assert_eq!(answer.summary.tasks, 0);
        assert_eq!(sorted_text(&answer.rows), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn step_read_twice_returns_the_same_rows() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 3, 100);
    let query = steps(
        2,
        &[("m", "SELECT id FROM rides")],
        &[
            ("drawn", "SELECT id, random() AS r FROM m"),
            ("answer", "SELECT COUNT(*) AS n FROM drawn a JOIN drawn b ON a.id = b.id AND a.r = b.r"),
        ],
        &[("rides", "Parquet", "rides/*.parquet")],
    );
    for transport in ["transport=memory", "transport=tcp"] {
        assert_eq!(sorted_text(&ask(&query, dir.path(), &[transport]).await.unwrap().rows), ["300"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spilling_inbox_keeps_all_rows() {
    let dir = tempdir().unwrap();
    let folder = parquet_folder(dir.path(), "rides", 8, 5000);
    let sql = "SELECT grp, COUNT(*) AS n, SUM(amount) AS s FROM rides GROUP BY grp";
    let expected = plain_rows(sql, &[("rides", folder.to_str().unwrap())], 2).await.unwrap();
    for (zones, transport) in [(1, "transport=memory"), (3, "transport=tcp")] {
        let reduce = [("r", "SELECT grp, COUNT(*) AS n, SUM(amount) AS s FROM m GROUP BY grp")];
        let query = steps(zones, &[("m", "SELECT * FROM rides")], &reduce, &[("rides", "Parquet", "rides")]);
        let sets = ["inbox_memory_bytes=10KB", transport];
        let answer = ask(&query, dir.path(), &sets).await.unwrap();
        assert!(same_rows(&answer.rows, &expected, false));

        let sets = ["inbox_memory_bytes=10KB", "inbox_disk_bytes=20KB", transport];
        let error = ask(&query, dir.path(), &sets).await.unwrap_err();
        assert_eq!(error.kind, buzz_protocol::ErrorKind::Limit, "{error}");
        assert!(error.message.contains("raise the option `inbox_disk_bytes`"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn static_manifest_is_read_as_a_table() {
    let dir = tempdir().unwrap();
    let folder = parquet_folder(dir.path(), "rides", 2, 100);
    let size = |file: &str| std::fs::metadata(folder.join(file)).unwrap().len();
    let manifest = json!({
        "schema": [
            {"name": "month", "type": "Utf8"}, {"name": "id", "type": "Int64"}, {"name": "grp", "type": "Utf8"},
            {"name": "amount", "type": "Float64"}
        ],
        "partition_columns": ["month"],
        "files": [
            {"uri": "rides/part-0.parquet", "size": size("part-0.parquet"), "partitions": {"month": "2009/01"}},
            {"uri": "rides/part-1.parquet", "size": size("part-1.parquet"), "partitions": {"month": "2009/07"}}
        ]
    });
    std::fs::write(dir.path().join("list.json"), manifest.to_string()).unwrap();
    let maps = [("m", "SELECT month, MAX(id) AS hi FROM t GROUP BY month")];
    let mut query = steps(1, &maps, &[("r", "SELECT month, hi FROM m")], &[("t", "Static", "list.json")]);
    assert_eq!(sorted_text(&ask(&query, dir.path(), &[]).await.unwrap().rows), ["2009/01 | 99", "2009/07 | 199"]);
    query["steps"][0]["partition_filter"] = json!("month<='2009/06'");
    assert_eq!(sorted_text(&ask(&query, dir.path(), &[]).await.unwrap().rows), ["2009/01 | 99"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_zone_and_now_are_the_same_in_every_role() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 3, 10);
    let maps = [("m", "SELECT id, now() AS t, CAST('2024-07-01T12:00:00Z' AS TIMESTAMPTZ) AS z FROM rides")];
    let reduce = [(
        "r",
        "SELECT COUNT(DISTINCT t) AS times, MAX(t) = now() AS same, CAST(MAX(date_part('hour', z)) AS INT) AS hour FROM m",
    )];
    for zones in [1, 2] {
        let query = steps(zones, &maps, &reduce, &[("rides", "Parquet", "rides")]);
        let rows: Vec<RecordBatch> = ask(&query, dir.path(), &["time_zone=Asia/Tokyo"]).await.unwrap().rows;
        assert_eq!(sorted_text(&rows), ["1 | true | 21"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ineffective_parts_of_a_query_are_warnings() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    let maps = [("m", "SELECT id FROM rides ORDER BY id"), ("unread", "SELECT id FROM rides")];
    let mut query = steps(1, &maps, &[("r", "SELECT COUNT(*) FROM m")], &[("rides", "Parquet", "rides")]);
    query["steps"][2]["partition_filter"] = json!("true");
    query["colour"] = json!("blue");
    let answer = ask(&query, dir.path(), &[]).await.unwrap();
    assert_eq!(
        answer.warnings,
        [
            "query: unknown field `colour` is ignored",
            "step `r`: `partition_filter` has no effect on an HComb step",
            "step `unread` is not read by any later step and is not run",
            "step `m`: ORDER BY without LIMIT has no effect in an HBee step; order in the last HComb step",
        ]
    );
    assert_eq!(answer.summary.stages.len(), 1);
}
