//! Compares joins with little memory with plain DataFusion that has enough: the rows are equal, or the query fails with
//! `Limit`. Tests that a query runs again in smaller tasks if an HBee ran out of memory.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use buzz_fuse::Fuse;
use buzz_host::{Compute, Host, Refused};
use buzz_local::LocalCompute;
use buzz_protocol::{ErrorKind, HBeeTask, QueryError, Result, TaskOutcome};
use buzz_testkit::{Rows, disagreement, plain_rows, sorted_text};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::tempdir;

use crate::common::{ask, ask_fuse, host, statement};
use crate::tables::{parquet_folder, write_file};

/// Joins of all kinds and operators. Tables `c` and `d` have `(id: Int64, v: Int64, s: Utf8)`.
const STATEMENTS: [&str; 30] = [
    "SELECT count(*), sum(y.id), sum(x.id) FROM d y JOIN c x ON x.v > y.v + 990000",
    "SELECT count(*), count(y.id) FROM d y LEFT JOIN c x ON x.v > y.v + 990000 AND length(x.s) + length(y.s) > x.v \
     - y.v - 2000000",
    "SELECT count(*), count(y.id), sum(x.id) FROM d y RIGHT JOIN c x ON x.v > y.v + 990000 AND length(x.s) + \
     length(y.s) > x.v - y.v - 2000000",
    "SELECT count(*), count(y.id), count(x.id) FROM d y FULL JOIN c x ON x.v > y.v + 990000 AND length(x.s) + \
     length(y.s) > x.v - y.v - 2000000",
    "SELECT count(*), sum(id) FROM c x WHERE EXISTS (SELECT 1 FROM d y WHERE x.v > y.v + 990000 AND y.s <> x.s)",
    "SELECT count(*), sum(id) FROM c x WHERE NOT EXISTS (SELECT 1 FROM d y WHERE x.v > y.v + 990000 AND y.s <> x.s)",
    "SELECT count(*) FROM d y RIGHT SEMI JOIN c x ON x.v > y.v + 990000 AND y.s <> x.s",
    "SELECT count(*) FROM d y RIGHT ANTI JOIN c x ON x.v > y.v + 990000 AND y.s <> x.s",
    "SELECT count(*) FROM d y LEFT SEMI JOIN c x ON x.v > y.v + 990000 AND y.s <> x.s",
    "SELECT count(*) FROM d y LEFT ANTI JOIN c x ON x.v > y.v + 990000 AND y.s <> x.s",
    "SELECT count(*) FROM c x WHERE x.id < 5 OR EXISTS (SELECT 1 FROM d y WHERE x.v > y.v + 990000 AND y.s <> x.s)",
    "SELECT x.id % 7 AS g, count(*) FROM c x LEFT JOIN d y ON x.v BETWEEN y.v AND y.v + 300 AND y.s <> x.s GROUP \
     BY 1",
    "SELECT count(*), sum(x.id + y.id) FROM c x JOIN d y ON x.id = y.id",
    "SELECT count(*), count(y.id) FROM c x LEFT JOIN d y ON x.v % 1000 = y.v % 1000 AND x.s <> y.s",
    "SELECT count(*), count(x.id) FROM c x RIGHT JOIN d y ON x.v = y.v AND x.s <> y.s",
    "SELECT count(*), count(x.id), count(y.id) FROM c x FULL JOIN d y ON x.v % 1000 = y.v % 1000 AND x.s <> y.s",
    "SELECT count(*), sum(id) FROM c WHERE s IN (SELECT s FROM d)",
    "SELECT count(*), sum(id) FROM c WHERE s NOT IN (SELECT s FROM d)",
    "SELECT count(*), sum(id) FROM c x WHERE NOT EXISTS (SELECT 1 FROM d y WHERE y.v % 100 = x.v % 100 AND y.s > \
     x.s)",
    "SELECT count(*), sum(length(x.s)) FROM c x, d y WHERE x.id % 500 = 0",
    "SELECT count(*), max(y.s) FROM c x CROSS JOIN (SELECT * FROM d WHERE id < 40) y",
    "SELECT count(*), sum(v) FROM (SELECT s, max(v) AS v FROM c GROUP BY s) x WHERE EXISTS (SELECT 1 FROM d y \
     WHERE y.v > x.v + 900000)",
    "SELECT count(*), sum(r) FROM (SELECT v, row_number() OVER (PARTITION BY v % 9 ORDER BY s) AS r, s FROM c) x \
     JOIN d y ON x.v > y.v + 990000 AND length(x.s) + r > y.id - 100000000",
    "SELECT count(*), count(x.id) FROM (SELECT DISTINCT s, v, id FROM c) x RIGHT JOIN d y ON x.v > y.v + 990000",
    "SELECT count(*) FROM (SELECT s FROM c UNION ALL SELECT s FROM d) x WHERE NOT EXISTS (SELECT 1 FROM d y WHERE \
     y.s < x.s AND y.v > 990000)",
    "SELECT s, count(*) AS n FROM (SELECT s FROM c UNION ALL SELECT s FROM d) GROUP BY s ORDER BY n DESC, s LIMIT 5",
    "SELECT id, s FROM c ORDER BY s, id LIMIT 9 OFFSET 1000",
    "SELECT count(*) FROM (SELECT s FROM c EXCEPT SELECT s FROM d)",
    "SELECT count(*), max(length(t)) FROM (SELECT string_agg(s, ',' ORDER BY id) AS t FROM c GROUP BY v % 3)",
    "SELECT a.id FROM generate_series(1, 4000) AS a(id) LEFT ANTI JOIN c x ON x.v > a.id * 500 AND x.s > 'x5'",
];

/// Writes a table of `files` files with `rows` rows each. Returns its folder.
fn table(dir: &Path, name: &str, files: usize, rows: usize, seed: u64) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let folder = dir.join(name);
    fs::create_dir_all(&folder).unwrap();
    for file in 0..files {
        let values: Vec<i64> = (0..rows).map(|_| random.random_range(0..1_000_000)).collect();
        let ids = (file * rows..(file + 1) * rows).map(|id| id as i64);
        let texts = (0..rows).map(|_| format!("x{}-", random.random_range(0..100_000)).repeat(60));
        let columns: [(&str, ArrayRef); 3] = [
            ("id", Arc::new(Int64Array::from_iter_values(ids))),
            ("v", Arc::new(Int64Array::from(values))),
            ("s", Arc::new(StringArray::from_iter_values(texts))),
        ];
        let path = folder.join(format!("part-{file}.parquet"));
        write_file(&path, &RecordBatch::try_from_iter(columns).unwrap());
    }
    folder.to_str().unwrap().to_string()
}

/// Runs `statements` in every way of `memories`, transports and combs. Returns the contradictions, and the number of
/// answers with rows and with `Limit`.
async fn compare(statements: &[&str], rows: usize, memories: &[&str]) -> (Vec<String>, usize, usize) {
    let dir = tempdir().unwrap();
    let (c, d) = (table(dir.path(), "c", 4, rows, 1), table(dir.path(), "d", 4, rows, 2));
    let (mut wrong, mut answered, mut limited) = (Vec::new(), 0, 0);
    for sql in statements {
        let plain = plain_rows(sql, &[("c", &c), ("d", &d)], 2).await.expect(sql);
        let plain = Rows::of(&plain).unwrap();
        for memory in memories {
            for transport in ["memory", "tcp"] {
                for combs in [1, 3] {
                    let query = statement(combs, sql, &[("c", "Parquet", "c"), ("d", "Parquet", "d")]);
                    let memory = format!("memory_bytes={memory}");
                    let sets = [memory.as_str(), &format!("transport={transport}"), "tasks=2"];
                    let way = format!("{sql} with {sets:?} on {combs} combs");
                    match ask(&query, dir.path(), &sets).await {
                        Ok(answer) => {
                            answered += 1;
                            let found = Rows::of(&answer.rows).unwrap();
                            let ordered = sql.contains("ORDER BY") && sql.contains("LIMIT");
                            wrong.extend(
                                disagreement(&found, std::slice::from_ref(&plain), ordered)
                                    .map(|why| format!("{way}: {why}")),
                            );
                        }
                        Err(error) if error.kind == ErrorKind::Limit => limited += 1,
                        Err(error) => wrong.push(format!("{way}: {error:?}")),
                    }
                }
            }
        }
    }
    (wrong, answered, limited)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_beyond_memory_give_right_rows_or_limit() {
    let statements = [2, 3, 5, 7, 9, 22, 23].map(|index: usize| STATEMENTS[index]);
    let (wrong, answered, limited) = compare(&statements, 1000, &["1MiB"]).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(limited > 0, "{answered} of the statements were answered, so none exceeded memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn all_joins_with_little_memory_give_right_rows_or_limit() {
    let (wrong, answered, limited) = compare(&STATEMENTS, 3000, &["700KiB", "2MiB", "6MiB"]).await;
    println!("{answered} answers were right, {limited} ended with `Limit`");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs out of memory with more than two files.
#[derive(Debug)]
struct SmallMemory(Arc<LocalCompute>);

#[async_trait]
impl Compute for SmallMemory {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        if task.scans.iter().any(|scan| scan.files.len() > 2) {
            return Err(QueryError::out_of_memory("signal: killed").at_task(&task.step, task.task));
        }
        self.0.run(task, refused).await
    }

    fn concurrency(&self) -> usize {
        2
    }

    fn tasks_min(&self) -> usize {
        1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn query_runs_again_in_smaller_tasks_if_an_hbee_runs_out_of_memory() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    let sql = "SELECT grp, count(*) AS n FROM rides GROUP BY grp";
    let query = statement(2, sql, &[("rides", "Parquet", "rides")]);
    for transport in ["transport=memory", "transport=tcp"] {
        for reducer in ["reducer=comb", "reducer=inline"] {
            let sets = [transport, reducer, "tasks=2"];
            let host = host(&sets);
            let fuse = Fuse::new(Host { compute: Arc::new(SmallMemory(Arc::clone(&host.compute))), ..host.host() });
            let answer = ask_fuse(&fuse, &query, dir.path(), &sets).await.unwrap();
            assert_eq!(sorted_text(&answer.rows), ["cash | 267", "credit | 267", "dispute | 266"], "{sets:?}");
            assert_eq!((answer.reruns, answer.summary.tasks), (1, 4), "{sets:?}");
            assert!(
                answer.warnings.iter().any(|warning| warning.contains("ran out of memory")),
                "{:?}",
                answer.warnings
            );

            // Once more, not until it fits.
            let sets = [transport, reducer, "tasks=1"];
            let error = ask_fuse(&fuse, &query, dir.path(), &sets).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Limit, "{error}");
            assert!(host.combs.combs().iter().all(|comb| comb.inboxes().open_queries() == 0));
        }
    }
}
