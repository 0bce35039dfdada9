//! Compares single statements, which Buzz cuts into steps, with plain DataFusion on the same files.

use buzz_protocol::{ErrorKind, THREAD_STACK_BYTES};
use buzz_testkit::{plain_rows, same_rows, sorted_text};
use serde_json::json;
use tempfile::tempdir;

use crate::common::{ask, ask_fuse, host, statement, steps};
use crate::tables::{kinds_folder, parquet_folder, partitioned_delta};

/// Statements whose rows do not depend on how the work is divided. An ORDER BY at the end is a total order.
const STATEMENTS: &[&str] = &[
    // Aggregates, in two phases.
    "SELECT COUNT(*), COUNT(amount), SUM(amount), AVG(amount), MIN(id), MAX(grp) FROM rides",
    "SELECT grp, COUNT(DISTINCT id % 10), SUM(DISTINCT id % 7) FROM rides GROUP BY grp",
    "SELECT grp, STDDEV(amount), VAR_POP(amount), CORR(id, amount), MEDIAN(id) FROM rides GROUP BY grp",
    "SELECT grp, ARRAY_AGG(id ORDER BY id) FROM rides WHERE id < 40 GROUP BY grp",
    "SELECT grp, FIRST_VALUE(id ORDER BY amount DESC, id), STRING_AGG(grp, ',' ORDER BY id) FROM rides WHERE id < 60 GROUP BY grp",
    "SELECT grp, COUNT(*) FILTER (WHERE amount > 100), BOOL_AND(id > 3), BIT_XOR(id) FROM rides GROUP BY grp",
    "SELECT grp, id % 3 AS k, COUNT(*) FROM rides GROUP BY GROUPING SETS ((grp), (k), (grp, k), ())",
    "SELECT grp, id % 2 AS k, SUM(amount) FROM rides GROUP BY CUBE (grp, k) HAVING SUM(amount) > 10",
    "SELECT grp, SUM(amount) FROM rides WHERE id < -5 GROUP BY ROLLUP (grp)",
    "SELECT DISTINCT grp, id % 4 FROM rides",
    "SELECT COUNT(*) FROM rides WHERE amount IS NULL AND grp LIKE 'c%'",
    "SELECT approx_distinct(grp) FROM rides",
    // Order and limits.
    "SELECT * FROM rides ORDER BY amount DESC NULLS LAST, id LIMIT 17 OFFSET 5",
    "SELECT id, grp FROM rides ORDER BY grp, id DESC",
    "SELECT DISTINCT ON (grp) grp, id, amount FROM rides ORDER BY grp, id DESC",
    "SELECT COUNT(*) FROM (SELECT id FROM rides LIMIT 333)",
    "SELECT id FROM rides WHERE id > 100000 ORDER BY id",
    // Joins.
    "SELECT a.grp, COUNT(*), SUM(b.amount) FROM rides a JOIN rides b ON a.id = b.id + 1 GROUP BY a.grp",
    "SELECT a.id, b.id AS other FROM rides a FULL JOIN (SELECT id FROM rides WHERE id % 3 = 0) b ON a.id = b.id * 2 ORDER BY a.id, other",
    "SELECT a.id, b.n FROM rides a LEFT JOIN (SELECT grp, COUNT(*) AS n FROM rides WHERE id < 5 GROUP BY grp) b ON a.grp = b.grp WHERE a.id < 20 ORDER BY a.id",
    "SELECT COUNT(*) FROM (SELECT id FROM rides WHERE id < 30) a CROSS JOIN (SELECT id FROM rides WHERE id > 980) b",
    "SELECT COUNT(*) FROM (SELECT id FROM rides WHERE id < 50) a JOIN (SELECT id FROM rides WHERE id < 60) b ON a.id < b.id",
    "SELECT id FROM rides a WHERE EXISTS (SELECT 1 FROM rides b WHERE b.id = a.id * 3 AND b.grp = 'cash') ORDER BY id",
    "SELECT COUNT(*) FROM rides WHERE id NOT IN (SELECT CAST(amount AS BIGINT) FROM rides)",
    "SELECT COUNT(*) FROM rides WHERE id NOT IN (SELECT CAST(amount AS BIGINT) FROM rides WHERE amount IS NOT NULL)",
    "SELECT a.grp, t.top FROM (SELECT DISTINCT grp FROM rides) a, LATERAL (SELECT MAX(id) AS top FROM rides b WHERE b.grp = a.grp) t",
    // Subqueries, sets, common table expressions.
    "SELECT id FROM rides WHERE amount > (SELECT AVG(amount) FROM rides) AND id < 600 ORDER BY id",
    "SELECT id, (SELECT MAX(b.id) FROM rides b WHERE b.grp = a.grp) AS top FROM rides a WHERE id < 10 ORDER BY id",
    "SELECT grp, COUNT(*) FROM (SELECT * FROM rides WHERE id < 300 UNION ALL SELECT * FROM rides WHERE id > 700) GROUP BY grp",
    "SELECT id % 50 AS k FROM rides UNION SELECT id % 70 FROM rides ORDER BY k",
    "SELECT (SELECT COUNT(*) FROM rides WHERE id > 10) AS n UNION SELECT (SELECT COUNT(*) FROM rides WHERE id > 20)",
    "SELECT id FROM rides WHERE id = (SELECT id FROM rides WHERE id = 7) OR id < (SELECT id FROM rides WHERE id < 0) ORDER BY id",
    "SELECT COUNT(*) FROM rides WHERE (SELECT label FROM kinds WHERE grp = 'cash') = 'paid' AND (SELECT id FROM rides WHERE id < 0) IS NULL",
    "SELECT (SELECT id FROM rides ORDER BY id DESC LIMIT 1) AS top, (SELECT k.column1 FROM (VALUES (5)) k) AS v",
    "SELECT n, COUNT(*) FROM (SELECT (SELECT MAX(id) FROM rides WHERE grp > 'cash') AS n UNION ALL SELECT (SELECT COUNT(*) FROM kinds)) GROUP BY n",
    "SELECT id FROM rides WHERE id < 100 INTERSECT SELECT id * 2 FROM rides",
    "SELECT id FROM rides WHERE id < 100 EXCEPT SELECT id * 2 FROM rides",
    "WITH a AS (SELECT grp, SUM(amount) AS s FROM rides GROUP BY grp), b AS (SELECT MAX(s) AS m FROM a) SELECT a.grp FROM a JOIN b ON a.s = b.m",
    "SELECT grp, x FROM rides, UNNEST([1, 2]) AS u(x) WHERE id < 6",
    "SELECT id, UNNEST([id, id * 10]) AS u FROM rides WHERE id < 5",
    // Windows.
    "SELECT id, SUM(amount) OVER (PARTITION BY grp ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS s FROM rides ORDER BY id",
    "SELECT id, ROW_NUMBER() OVER (ORDER BY id DESC) AS r FROM rides ORDER BY id LIMIT 9",
    "SELECT id, grp FROM rides QUALIFY ROW_NUMBER() OVER (PARTITION BY grp ORDER BY id DESC) <= 2",
    "SELECT id, LAG(amount) IGNORE NULLS OVER (ORDER BY id) AS l FROM rides ORDER BY id",
    "SELECT id, ARRAY_AGG(id) FILTER (WHERE id > 3) OVER (PARTITION BY grp ORDER BY id) AS a FROM rides WHERE id < 9 ORDER BY id",
    "SELECT id, ROW_NUMBER() OVER (PARTITION BY grp ORDER BY id) AS r FROM rides WHERE grp = 'cash' ORDER BY id LIMIT 20",
    "SELECT id, SUM(amount) OVER (PARTITION BY grp, id % 5 ORDER BY id) AS s, RANK() OVER (PARTITION BY grp ORDER BY id % 5) AS r FROM rides WHERE grp = 'cash' AND id < 400 ORDER BY id",
    "SELECT id, COUNT(*) OVER (PARTITION BY grp) AS n, LAST_VALUE(id) OVER (PARTITION BY id % 3 ORDER BY amount, id) AS l FROM rides WHERE grp = 'cash' AND id % 3 = 0 ORDER BY id",
    "WITH q AS (SELECT id AS a, id AS b FROM rides) SELECT RANK() OVER (PARTITION BY a ORDER BY a) AS r FROM q QUALIFY RANK() OVER (PARTITION BY b ORDER BY b DESC) <= 3",
    // Recursions, over the rows of a table and joined with a table in every iteration.
    "WITH RECURSIVE n AS (SELECT MIN(id) AS i FROM rides UNION ALL SELECT i + 1 FROM n WHERE i < 30) SELECT i FROM n ORDER BY i",
    "WITH RECURSIVE r AS (SELECT id, 0 AS depth FROM rides WHERE id = 3 UNION ALL SELECT rides.id, depth + 1 FROM rides JOIN r ON rides.id = r.id * 2) SELECT id, depth FROM r ORDER BY id",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION SELECT i % 5 + 1 FROM n) SELECT grp, SUM(i) FROM n JOIN rides ON n.i = rides.id GROUP BY grp",
    // Joins that run in HBees.
    "SELECT r.grp, k.label, COUNT(*), SUM(r.amount) FROM rides r JOIN kinds k ON r.grp = k.grp GROUP BY r.grp, k.label",
    "SELECT r.id, k.label FROM kinds k RIGHT JOIN rides r ON r.grp = k.grp AND k.label <> 'paid' WHERE r.id < 50 ORDER BY r.id",
    "SELECT COUNT(*) FROM rides WHERE grp IN (SELECT grp FROM kinds WHERE label = 'paid')",
    "SELECT COUNT(*) FROM rides r WHERE NOT EXISTS (SELECT 1 FROM kinds k WHERE k.grp = r.grp)",
    "SELECT r.id, a.label, b.label AS other FROM rides r JOIN kinds a ON r.grp = a.grp CROSS JOIN kinds b WHERE r.id < 9 ORDER BY r.id, other",
    "SELECT r.id, k.label FROM rides r JOIN kinds k ON r.grp < k.grp WHERE r.id < 30 ORDER BY r.id, k.label",
    "SELECT k.label, r.id FROM kinds k LEFT JOIN rides r ON r.grp = k.grp AND r.id < 10 ORDER BY k.label, r.id",
    // Functions that depend on the session time zone, and table functions.
    "SELECT id, to_timestamp(CAST(id AS DECIMAL(10, 2))) AS t FROM rides WHERE id < 5 ORDER BY id",
    "SELECT t.i, COUNT(*) FROM generate_series(1, 6) AS t(i) LEFT JOIN rides ON rides.id % 6 = t.i GROUP BY t.i",
    "SELECT id, COUNT(*) FILTER (WHERE amount > 100) OVER (PARTITION BY grp) AS n, SUM(id) FILTER (WHERE id % 2 = 0) OVER (ORDER BY id ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS s FROM rides ORDER BY id",
    "SELECT id, MAX(id) FILTER (WHERE grp = 'cash') OVER () FROM rides WHERE id > (SELECT MIN(n) + 980 FROM (SELECT COUNT(*) FILTER (WHERE id > 9) OVER () AS n FROM rides WHERE id < 20)) ORDER BY id",
    "SELECT r.id FROM rides r, generate_series(1, 3) WHERE r.id < 5 ORDER BY r.id",
    "SELECT COUNT(*) FROM rides JOIN range(1, 4) ON true",
    "SELECT r.id, g.value FROM rides r, generate_series(TIMESTAMP '2024-01-01', TIMESTAMP '2024-01-03', INTERVAL '1 day') g WHERE r.id < 3 ORDER BY r.id, g.value",
    // Literals of a type that the plan encoding does not support.
    "SELECT id, h IN (arrow_cast(3.0, 'Float16'), arrow_cast(5.0, 'Float16')) AS i, h > arrow_cast(2.5, 'Float16') AS g FROM (SELECT id, arrow_cast(id, 'Float16') AS h FROM rides) WHERE h < arrow_cast(9, 'Float16') ORDER BY id",
    "SELECT SUM(CAST(arrow_cast(id % 8, 'Float16') + arrow_cast(0.5, 'Float16') AS DOUBLE)) AS s, MAX(arrow_cast(1.5, 'Float16')) FROM rides",
    // No table at all.
    "SELECT 1 AS one, 'x' AS x",
    "SELECT SUM(column1), MAX(column2) FROM (VALUES (1, 'a'), (2, 'b'), (3, NULL)) v",
    "SELECT r.id, v.column2 FROM rides r JOIN (VALUES (3, 'three'), (900, 'many')) v ON r.id = v.column1",
];

/// Options of queries that run as the command runs them, with flowing deliveries.
const FLOWING: [&str; 3] = ["transport=memory", "tasks=5", "split_bytes=1"];

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_matches_plain_datafusion() {
    let dir = tempdir().unwrap();
    let folder = parquet_folder(dir.path(), "rides", 4, 250);
    let kinds = kinds_folder(dir.path());
    let mut wrong = Vec::new();
    for sql in STATEMENTS {
        let tables = [("rides", folder.to_str().unwrap()), ("kinds", kinds.to_str().unwrap())];
        let expected = plain_rows(sql, &tables, 2).await.expect(sql);
        let ordered = sql.rsplit(')').next().unwrap().contains("ORDER BY");
        for (zones, sets) in [
            (1, ["transport=memory", "tasks=0", "split_bytes=100MB"]),
            (1, FLOWING),
            (3, ["transport=memory", "tasks=64", "split_bytes=1"]),
            (2, ["transport=tcp", "tasks=3", "split_bytes=1"]),
        ] {
            let catalogs = [("rides", "Parquet", "rides"), ("kinds", "Parquet", "kinds")];
            let query = statement(zones, sql, &catalogs);
            let answered = match sets {
                FLOWING => ask_fuse(&buzz_fuse::Fuse::new(host(&sets).host()), &query, dir.path(), &sets).await,
                _ => ask(&query, dir.path(), &sets).await,
            };
            match answered {
                Ok(answer) if same_rows(&answer.rows, &expected, ordered) => {}
                Ok(answer) => wrong.push(format!(
                    "{zones} zones: {sql}\n  {:?}\n  instead of\n  {:?}",
                    sorted_text(&answer.rows).iter().take(5).collect::<Vec<_>>(),
                    sorted_text(&expected).iter().take(5).collect::<Vec<_>>()
                )),
                Err(error) => wrong.push(format!("{zones} zones: {sql}\n  {:?}: {error}", error.kind)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_column_filters_prune_files() {
    let dir = tempdir().unwrap();
    partitioned_delta(dir.path());
    let asked = async |sql: &str| {
        let query = statement(2, sql, &[("t", "DeltaLake", "partitioned")]);
        let answer = ask(&query, dir.path(), &[]).await.unwrap();
        (sorted_text(&answer.rows), answer.summary.files_read)
    };
    let (rows, files) = asked("SELECT COUNT(*) FROM t WHERE day < DATE '2024-02-01' AND id >= 0 AND kind = 'a'").await;
    assert_eq!((rows, files), (vec!["100".to_string()], 2));
    let (rows, files) = asked("SELECT level, COUNT(*) FROM t WHERE level IS NULL GROUP BY level").await;
    assert_eq!((rows, files), (vec!["NULL | 150".to_string()], 3));
    let (rows, files) = asked("SELECT COUNT(*) FROM t WHERE day > DATE '2030-01-01'").await;
    assert_eq!((rows, files), (vec!["0".to_string()], 0));
    let (rows, files) = asked("SELECT MAX(day) FROM t WHERE kind LIKE 'b%' OR level = 7").await;
    assert_eq!((rows, files), (vec!["2024-02-01".to_string()], 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn table_without_files_returns_totals() {
    let dir = tempdir().unwrap();
    let full = partitioned_delta(dir.path()).join("_delta_log/00000000000000000000.json");
    let log = std::fs::read_to_string(full).unwrap();
    let without_files: String = log.lines().take(2).map(|action| format!("{action}\n")).collect();
    std::fs::create_dir_all(dir.path().join("empty/_delta_log")).unwrap();
    std::fs::write(dir.path().join("empty/_delta_log/00000000000000000000.json"), without_files).unwrap();
    let cases = [
        ("SELECT COUNT(*), SUM(id) FROM t", vec!["0 | NULL"]),
        ("SELECT grp, SUM(id) FROM t GROUP BY grp", vec![]),
        ("SELECT grp, SUM(id) FROM t GROUP BY CUBE (grp)", vec!["NULL | NULL"]),
        ("SELECT id FROM t ORDER BY id LIMIT 3", vec![]),
    ];
    for (sql, expected) in cases {
        for zones in [1, 2] {
            let query = statement(zones, sql, &[("t", "DeltaLake", "empty")]);
            assert_eq!(
                sorted_text(&ask(&query, dir.path(), &[]).await.unwrap().rows),
                expected,
                "{zones} zones: {sql}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_limits_and_partial_aggregates_are_pushed_down_to_hbees() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 250);
    let delivered = async |sql: &str| {
        let query = statement(1, sql, &[("rides", "Parquet", "rides")]);
        ask(&query, dir.path(), &["tasks=4"]).await.unwrap().summary.rows_delivered
    };
    assert_eq!(delivered("SELECT COUNT(*), AVG(amount) FROM rides").await, 4);
    assert_eq!(delivered("SELECT grp, SUM(amount) FROM rides GROUP BY grp").await, 12);
    assert_eq!(delivered("SELECT * FROM rides ORDER BY amount DESC LIMIT 5").await, 20);
    assert_eq!(delivered("SELECT id FROM rides WHERE id < 10").await, 10);
    let union = "SELECT * FROM rides WHERE id % 2 = 0 UNION ALL SELECT * FROM rides WHERE id % 2 = 1";
    assert_eq!(delivered(&format!("SELECT COUNT(*), SUM(amount) FROM ({union})")).await, 8);
    assert!(delivered("SELECT grp FROM rides UNION SELECT grp FROM rides WHERE id > 7").await <= 24);
    assert_eq!(delivered("SELECT grp, ARRAY_AGG(id ORDER BY id) FROM rides GROUP BY grp").await, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_join_side_is_broadcast_to_every_task() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 250);
    kinds_folder(dir.path());
    let catalogs = [("rides", "Parquet", "rides"), ("kinds", "Parquet", "kinds")];
    let sql = "SELECT label, COUNT(*) FROM rides JOIN kinds ON rides.grp = kinds.grp GROUP BY label";
    let asked = async |sets: &[&str]| {
        let answer = ask(&statement(1, sql, &catalogs), dir.path(), sets).await.unwrap();
        assert_eq!(sorted_text(&answer.rows), ["open | 333", "paid | 334"]);
        (answer.summary.stages.len(), answer.summary.rows_delivered, answer.summary.files_read)
    };
    assert_eq!(asked(&["tasks=4"]).await, (1, 8, 5));
    // Above `build_bytes` both sides are delivered to the combs.
    assert_eq!(asked(&["tasks=4", "build_bytes=0"]).await, (2, 1002, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn constants_and_recursions_are_reduced_by_fuse() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    let catalogs = [("rides", "Parquet", "rides")];
    let asked = async |zones: usize, sql: &str| ask(&statement(zones, sql, &catalogs), dir.path(), &[]).await.unwrap();

    let constant = asked(3, "SELECT 1 + 1 AS two").await;
    assert_eq!((constant.summary.combs, constant.summary.tasks), (0, 0));
    let recursion = "WITH RECURSIVE n AS (SELECT MAX(id + 0) AS i FROM rides UNION ALL SELECT i - 1 FROM n WHERE i > 0)
        SELECT COUNT(*) FROM n";
    let counted = asked(3, recursion).await;
    assert_eq!((sorted_text(&counted.rows), counted.summary.combs), (vec!["20".to_string()], 0));
    assert!(counted.warnings.iter().any(|warning| warning.contains("combs: a recursive query")));

    let endless = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n";
    let limited = ask(&statement(1, endless, &catalogs), dir.path(), &["timeout_seconds=1"]).await.unwrap_err();
    assert_eq!(limited.kind, ErrorKind::Limit, "{limited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_aggregation_of_mostly_distinct_groups_is_skipped() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 300_000);
    // The first 200,000 rows are 200,000 groups, so partial aggregation is skipped. The other rows are one group.
    let sql = "SELECT COUNT(*), SUM(n), MAX(n) FROM
        (SELECT CASE WHEN id < 200000 THEN id ELSE -1 END AS k, COUNT(*) AS n FROM rides GROUP BY 1)";
    let query = statement(1, sql, &[("rides", "Parquet", "rides")]);
    let answer = ask(&query, dir.path(), &["tasks=1"]).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), ["200001 | 300000 | 100000"]);
    let delivered = answer.summary.rows_delivered;
    assert!(delivered > 250_000, "{delivered} rows delivered: all rows were aggregated");
}

#[tokio::test(flavor = "multi_thread")]
async fn join_past_timeout_seconds_is_stopped() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 250);
    // About 10^13 rows, from a thousand.
    let sql = "SELECT COUNT(*) FROM rides a JOIN rides b ON a.grp = b.grp JOIN rides c ON b.grp = c.grp
        JOIN rides d ON c.grp = d.grp JOIN rides e ON d.grp = e.grp";
    // Once with the join in HBees, and once with the join in combs.
    for (zones, build) in [(1, "build_bytes=1GB"), (1, "build_bytes=0"), (2, "build_bytes=0")] {
        let query = statement(zones, sql, &[("rides", "Parquet", "rides")]);
        let error = ask(&query, dir.path(), &[build, "timeout_seconds=1"]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Limit, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_bound_as_values_not_text() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    let mut query =
        statement(1, "SELECT COUNT(*) FROM rides WHERE grp = $g OR id > $n", &[("rides", "Parquet", "rides")]);
    query["params"] = json!({"g": "cash' OR 'a' = 'a", "n": 17});
    assert_eq!(sorted_text(&ask(&query, dir.path(), &[]).await.unwrap().rows), ["2"]);
    query["params"] = json!({"g": "cash"});
    let error = ask(&query, dir.path(), &[]).await.unwrap_err();
    assert!(error.kind == ErrorKind::Invalid && error.message.contains("$n"), "{error}");

    let catalogs = [("rides", "Parquet", "rides")];
    let maps = [("m", "SELECT id FROM rides WHERE id >= $n")];
    let mut query = steps(1, &maps, &[("r", "SELECT COUNT(*) FROM m WHERE id < $n + 2")], &catalogs);
    query["params"] = json!({"n": 5});
    assert_eq!(sorted_text(&ask(&query, dir.path(), &[]).await.unwrap().rows), ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_have_any_type() {
    let dir = tempdir().unwrap();
    let mut query = statement(
        1,
        "SELECT $at, $price, DATE '2009-01-05' = $at, DATE '2009-01-05' < $at, $price = 0.10, arrow_typeof($at)",
        &[],
    );
    let typed = |value: &str, data_type: &str| json!({"value": value, "type": data_type});
    query["params"] = json!({
        "at": typed("2009-01-05T10:00:00.000001", "timestamp(6)"), "price": typed("0.1", "DECIMAL(10, 2)")
    });
    let rows = sorted_text(&ask(&query, dir.path(), &[]).await.unwrap().rows);
    assert_eq!(rows, ["2009-01-05T10:00:00.000001 | 0.10 | false | true | true | Timestamp(µs)"]);
    for (value, words) in [
        (typed("tomorrow", "DATE"), "parameter `$p` is `tomorrow`, which is not DATE"),
        (typed("1000", "DECIMAL(3, 2)"), "parameter `$p` is `1000`, which is not DECIMAL(3, 2)"),
        (typed("1", "NUMBRE"), "parameter `$p`: type `NUMBRE` is not known"),
        (typed("1", &format!("INT{}", "[]".repeat(9000))), "it has more than 1000 bytes"),
        (typed("1", "INT; DROP"), "parameter `$p`: type `INT; DROP` is not known"),
    ] {
        let mut query = statement(1, "SELECT $p AS p", &[]);
        query["params"] = json!({"p": value});
        let error = ask(&query, dir.path(), &[]).await.unwrap_err();
        assert!(error.kind == ErrorKind::Invalid && error.to_string().contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn single_hcomb_step_over_a_catalog_entry_runs_like_sql() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    let query = json!({
        "steps": [{"name": "all", "step_type": "HComb", "sql": "SELECT COUNT(*) AS n FROM rides"}],
        "catalogs": [{"name": "rides", "type": "Parquet", "uri": "rides"}]
    });
    assert_eq!(sorted_text(&ask(&query, dir.path(), &[]).await.unwrap().rows), ["20"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_statement_error_names_the_cause() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 10);
    let cases = [
        ("SELECT gruop FROM rides", "column `gruop` does not exist in table `rides`; did you mean `grp`?"),
        ("SELECT 1 FROM ridse", "table `ridse` does not exist; did you mean `rides`?"),
        ("SELECT 1 / 0 AS n, id FROM rides", "division by zero"),
        ("CREATE TABLE x AS SELECT 1", "CREATE is not a query"),
        ("SET datafusion.execution.batch_size = 1", "SET is not a query"),
        ("SELECT id INTO x FROM rides", "SELECT INTO is not a query"),
        ("SELECT id FROM", "SQL syntax"),
    ];
    for (sql, words) in cases {
        let error = ask(&statement(1, sql, &[("rides", "Parquet", "rides")]), dir.path(), &[]).await.expect_err(sql);
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(words), "{sql}: {error}");
    }
}

/// The planner reads one of two opposite windows backwards and reverses its function, which has no encoding.
#[tokio::test(flavor = "multi_thread")]
async fn window_in_reverse_order_keeps_its_direction() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 5);
    let select = "SELECT id, LAG(id, 1) OVER (ORDER BY id) AS before, LAG(id, 1) OVER (ORDER BY id DESC ROWS BETWEEN 2 \
                  PRECEDING AND 1 FOLLOWING) AS after FROM rides ORDER BY id LIMIT 3";
    for zones in [1, 3] {
        for reducer in ["reducer=comb", "reducer=inline"] {
            let query = statement(zones, select, &[("rides", "Parquet", "rides")]);
            let answer = ask(&query, dir.path(), &[reducer]).await.unwrap();
            assert_eq!(sorted_text(&answer.rows), ["0 | NULL | 1", "1 | 0 | 2", "2 | 1 | 3"], "{zones} {reducer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scalar_subquery_with_several_rows_is_an_error() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 20);
    kinds_folder(dir.path());
    let tables = [("rides", "Parquet", "rides"), ("kinds", "Parquet", "kinds")];
    let mut wrong = Vec::new();
    for sql in [
        "SELECT COUNT(*) FROM rides WHERE grp > (SELECT grp FROM kinds)",
        "SELECT (SELECT id FROM rides LIMIT 2) AS n",
        "SELECT COUNT(*) FROM rides WHERE (SELECT MAX(id) FROM rides GROUP BY grp) > 5",
        "SELECT id, (SELECT label FROM kinds) FROM rides",
        "SELECT id FROM rides WHERE id IN (SELECT id + (SELECT id FROM rides WHERE id > 30) FROM rides)",
        "SELECT CASE WHEN id > 3 THEN (SELECT column1 FROM (VALUES (1), (2)) v) END FROM rides",
        "WITH q AS (SELECT DISTINCT grp FROM kinds) SELECT COUNT(*) FROM rides WHERE grp = (SELECT grp FROM q)",
        "SELECT SUM(id + (SELECT id FROM rides)) FROM rides",
        "SELECT grp, COUNT(*) FROM rides GROUP BY grp HAVING COUNT(*) > (SELECT id FROM rides WHERE id < 2)",
        "SELECT id FROM rides ORDER BY id + (SELECT id FROM rides)",
        "SELECT COUNT(*) FROM rides r JOIN kinds k ON r.id > (SELECT id FROM rides WHERE id < 3)",
    ] {
        for (zones, sets) in [
            (1, ["transport=memory", "tasks=1"]),
            (3, ["transport=memory", "tasks=4"]),
            (2, ["transport=tcp", "tasks=2"]),
        ] {
            match ask(&statement(zones, sql, &tables), dir.path(), &sets).await {
                Ok(answer) => wrong.push(format!("{zones} zones: {sql}: {:?}", sorted_text(&answer.rows))),
                Err(error) if error.kind == ErrorKind::Invalid => {}
                Err(error) => wrong.push(format!("{zones} zones: {sql}: {:?} {error}", error.kind)),
            }
        }
    }
    let maps = [("m", "SELECT id FROM rides")];
    let reduces = [("r", "SELECT COUNT(*) FROM m WHERE id > (SELECT id FROM m WHERE id < 3)")];
    let error = ask(&steps(1, &maps, &reduces, &tables[..1]), dir.path(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("returned more than one row"), "{error}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn undetermined_expression_that_is_read_twice_is_computed_once() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 250);
    let tables = [("rides", "Parquet", "rides")];
    let itself = "SELECT COUNT(*) FROM c x JOIN c y ON x.id = y.id";
    for (sql, expected) in [
        (format!("WITH c AS (SELECT id FROM rides LIMIT 100) {itself}"), "100"),
        (format!("WITH c(id) AS (SELECT id FROM rides LIMIT 100) {itself}"), "100"),
        (format!("WITH c AS (SELECT id, row_number() OVER () AS r FROM rides) {itself} AND x.r = y.r"), "1000"),
        (format!("WITH c AS (SELECT DISTINCT ON (grp) id FROM rides) {itself}"), "3"),
        (format!("WITH c AS (SELECT id, random() AS r FROM rides) {itself} AND x.r = y.r"), "1000"),
        (format!("WITH c AS (SELECT random() AS id) {itself}"), "1"),
        (format!("WITH a AS (SELECT id FROM rides LIMIT 9), c AS (SELECT id FROM a) {itself}"), "9"),
        (format!("WITH a AS (SELECT id FROM rides LIMIT 9), c AS (SELECT a.id FROM a JOIN a b USING (id)) {itself}"), "9"),
        ("WITH c AS (SELECT id FROM rides LIMIT 10) SELECT COUNT(*) FROM rides WHERE id IN (SELECT id FROM c) AND id IN \
          (SELECT id FROM c)".to_string(), "10"),
    ] {
        for (zones, sets) in
            [(1, ["transport=memory", "tasks=2"]), (3, ["transport=memory", "tasks=4"]), (2, ["transport=tcp", "tasks=3"])]
        {
            let answer = ask(&statement(zones, &sql, &tables), dir.path(), &sets).await.expect(&sql);
            assert_eq!(sorted_text(&answer.rows), [expected], "{zones} zones, {sets:?}: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn undetermined_build_side_is_the_same_for_all_tasks() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 250);
    parquet_folder(dir.path(), "stops", 2, 100);
    let tables = [("rides", "Parquet", "rides"), ("stops", "Parquet", "stops")];
    for build in [
        "SELECT a.id FROM stops a JOIN stops b ON a.id = b.id AND a.id + b.id + random() * 1000000 < 500000",
        "SELECT a.id FROM stops a JOIN stops b ON a.id > b.id + 195 AND a.id + b.id + random() * 1000000 < 500000",
        "SELECT id FROM stops WHERE random() < 0.5",
        "SELECT id FROM stops LIMIT 100",
        "SELECT id FROM stops WHERE id > 20 LIMIT 100",
    ] {
        // Each row of the build side has five partners among the rides, in different files.
        let split = "SELECT v.id FROM rides r JOIN v ON r.id % 200 = v.id GROUP BY v.id HAVING COUNT(*) % 5 <> 0";
        let sql = format!("WITH v AS ({build}) SELECT COUNT(*) FROM ({split})");
        for (zones, sets) in [(1, ["transport=memory", "tasks=4"]), (2, ["transport=tcp", "tasks=4"])] {
            let answer = ask(&statement(zones, &sql, &tables), dir.path(), &sets).await.expect(&sql);
            assert_eq!(sorted_text(&answer.rows), ["0"], "{zones} zones: {build}");
        }
    }
}

/// Runs queries on threads with the stack that all programs use.
fn on_deep_stack(work: impl Future<Output = ()> + Send + 'static) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().thread_stack_size(THREAD_STACK_BYTES).build().unwrap();
    runtime.block_on(runtime.spawn(work)).unwrap();
}

#[test]
fn long_statements_answer_or_end_with_limit() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 100);
    on_deep_stack(async move {
        let chain = |term: fn(usize) -> String, between: &str, terms: usize| {
            (0..terms).map(term).collect::<Vec<_>>().join(between)
        };
        let ids = |id| format!("id = {id}");
        for (condition, expected) in [
            (chain(ids, " OR ", 3200), Some("100")),
            (chain(ids, " OR ", 20_000), Some("100")),
            (chain(|id| format!("id <> {}", id + 1), " AND ", 3200), Some("1")),
            (chain(|id| format!("grp LIKE '%{id}'"), " OR ", 1000), Some("0")),
            (format!("id IN ({})", chain(|id| id.to_string(), ", ", 100_000)), Some("100")),
            (format!("length({}) > 0", chain(|_| "grp".to_string(), " || ", 1600)), Some("100")),
            (format!("{} > 0", chain(|id| id.to_string(), " + id + ", 2000)), None),
            (chain(|id| format!("id <> {}", id + 1), " AND ", 20_000), None),
            (format!("id IN ({})", chain(|id| id.to_string(), ", ", 300_000)), None),
        ] {
            let short: String = condition.chars().take(40).collect();
            let sql = format!("SELECT COUNT(*) FROM rides WHERE {condition}");
            let query = statement(1, &sql, &[("rides", "Parquet", "rides")]);
            let answer = ask(&query, dir.path(), &["transport=tcp", "reducer=comb"]).await;
            match (answer, expected) {
                (Ok(answer), Some(expected)) => assert_eq!(sorted_text(&answer.rows), [expected], "{short}"),
                (Err(error), None) => assert_eq!(error.kind, ErrorKind::Limit, "{short}: {error}"),
                (answer, _) => panic!("{short}: {:?}", answer.map(|answer| sorted_text(&answer.rows))),
            }
        }
    });
}
