//! Compares estimates with what runs read, on a bucket in memory, and tests the limits of bytes and cost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use buzz_engine::{Cost, Engine, Estimate, Summary, Used, Want};
use buzz_fuse::Fuse;
use buzz_host::{Compute, Host, ObjectRoot, Refused};
use buzz_local::{LocalCompute, LocalHost};
use buzz_protocol::{ErrorKind, HBeeTask, QueryError, Result, TaskOutcome};
use buzz_storage::{Location, Stores};
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use serde_json::Value;
use tempfile::tempdir;

use crate::common::{ask_fuse, host, options, question, statement};
use crate::tables::parquet_folder;

const CATALOGS: [(&str, &str, &str); 2] =
    [("notes", "Parquet", "s3://lake/notes"), ("kinds", "Parquet", "s3://lake/kinds")];

/// Returns a Parquet file of `rows`, with row groups of 5,000 rows and pages of 1,000.
fn parquet(rows: &RecordBatch) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(5_000))
        .set_data_page_row_count_limit(1_000)
        .set_write_batch_size(500)
        // The dictionaries of columns without equal values would be read with every page.
        .set_column_dictionary_enabled(ColumnPath::from("id"), false)
        .set_column_dictionary_enabled(ColumnPath::from("amount"), false)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties)).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    bytes
}

/// Returns the rows of a file of `notes`: `id` is sorted.
fn notes(file: i64) -> RecordBatch {
    let ids = file * 20_000..(file + 1) * 20_000;
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
        ("grp", Arc::new(StringArray::from_iter_values(ids.clone().map(|id| format!("g{}", id % 3))))),
        ("amount", Arc::new(Float64Array::from_iter_values(ids.clone().map(|id| (id * 7919 % 100_003) as f64 / 7.0)))),
        ("note", Arc::new(StringArray::from_iter_values(ids.map(|id| format!("note {}", id * 7919 % 100_003))))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Makes a bucket with six files of `notes` and one of `kinds`.
async fn bucket() -> Arc<dyn ObjectStore> {
    let memory = InMemory::new();
    for file in 0..6 {
        let path = StorePath::from(format!("notes/part-{file}.parquet"));
        memory.put(&path, PutPayload::from(parquet(&notes(file)))).await.unwrap();
    }
    let columns: [(&str, ArrayRef); 2] = [
        ("grp", Arc::new(StringArray::from(vec!["g0", "g1"]))),
        ("label", Arc::new(StringArray::from(vec!["paid", "open"]))),
    ];
    let kinds = parquet(&RecordBatch::try_from_iter(columns).unwrap());
    memory.put(&StorePath::from("kinds/part-0.parquet"), PutPayload::from(kinds)).await.unwrap();
    Arc::new(memory)
}

/// Makes a host that reads `bucket` as `s3://lake`, and has read nothing yet.
fn reading(bucket: &Arc<dyn ObjectStore>) -> LocalHost {
    let stores = Stores::default();
    stores.set_region("lake", "us-east-2");
    let lake = Location::parse("s3://lake/notes", Path::new("/")).unwrap();
    stores.replace(&lake.store, Arc::clone(bucket));
    LocalHost::new(Arc::new(stores), &options(&[]), 2).unwrap()
}

/// Returns the estimate of `query` and the summary of a run.
async fn both(fuse: &Fuse, query: &Value, base: &Path) -> (Estimate, Summary) {
    let (question, _) = question(query, base, &[]);
    let planned = fuse.start(question.with_want(Want::Plan)).answer().await.unwrap();
    let ran = ask_fuse(fuse, query, base, &[]).await.unwrap();
    (planned.summary.estimate.expect("a plan has an estimate"), ran.summary)
}

#[track_caller]
fn assert_near(what: &str, expected: u64, found: u64) {
    assert!(expected.abs_diff(found) * 5 <= found, "{what}: {expected} were expected and {found} found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_requests_and_tasks_are_within_20_percent_of_a_run() {
    let bucket = bucket().await;
    let mut estimates = Vec::new();
    for (sql, counts_requests) in [
        ("SELECT SUM(amount) AS s FROM notes", true),
        ("SELECT COUNT(DISTINCT grp) AS n FROM notes", true),
        // Row groups and pages are left out.
        ("SELECT SUM(amount) AS s FROM notes WHERE id >= 47000 AND id < 48500", true),
        ("SELECT COUNT(*) AS n FROM notes WHERE note LIKE '%77%'", true),
        ("SELECT * FROM notes WHERE id >= 65000 AND amount > 10", true),
        // Tasks of one process share the footer of the build side.
        ("SELECT label, SUM(amount) AS s FROM notes JOIN kinds USING (grp) GROUP BY label", false),
    ] {
        let fuse = Fuse::new(reading(&bucket).host());
        let (estimate, ran) = both(&fuse, &statement(1, sql, &CATALOGS), Path::new("/")).await;
        assert!(ran.bytes_read > 0 && ran.requests.gets > 0 && ran.requests.puts > 0, "{sql}: {ran:?}");
        assert_near(&format!("bytes of {sql}"), estimate.bytes, ran.bytes_read);
        if counts_requests {
            assert_near(&format!("requests of {sql}"), estimate.requests, ran.requests.total());
        }
        assert_eq!(estimate.tasks, ran.tasks, "{sql}");
        assert!(estimate.seconds.low > 0.0 && estimate.seconds.low < estimate.seconds.high, "{estimate:?}");
        assert_eq!(estimate.dollars.high.to_bits(), 0, "nothing is billed on one machine");
        estimates.push(estimate.bytes);
    }
    assert!(estimates[2] * 10 < estimates[0], "pages are left out: {estimates:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_go_through_objects_are_estimated_too() {
    let bucket = bucket().await;
    let query = statement(1, "SELECT id % 100 AS g, COUNT(*) AS n FROM notes GROUP BY 1", &CATALOGS);
    let mut estimates = Vec::new();
    // Fuse reads them; tasks reduce them.
    for memory in ["inbox_memory_bytes=64MiB", "inbox_memory_bytes=1"] {
        let place = Location::parse("s3://lake/exchange", Path::new("/")).unwrap();
        let fuse = Fuse::new(Host { objects: Arc::new(ObjectRoot::at(place)), ..reading(&bucket).host() });
        let sets = ["reducer=objects", "tasks=6", memory];
        let (question, _) = question(&query, Path::new("/"), &sets);
        let planned = fuse.start(question.with_want(Want::Plan)).answer().await.unwrap();
        let estimate = planned.summary.estimate.expect("a plan has an estimate");
        let ran = ask_fuse(&fuse, &query, Path::new("/"), &sets).await.unwrap().summary;
        assert_eq!((estimate.tasks, ran.objects > 0), (ran.tasks, true), "{memory}: {ran:?}");
        assert_near(&format!("requests with {memory}"), estimate.requests, ran.requests.total());
        estimates.push((estimate.tasks, estimate.requests));
    }
    let [by_fuse, by_tasks] = estimates.as_slice() else { panic!("{estimates:?}") };
    assert!(by_tasks.0 > by_fuse.0 && by_tasks.1 > by_fuse.1, "{estimates:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_and_steps_are_estimated_too() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 3, 300);
    let lines: String = (0..500).map(|id| format!("{id},cash\n")).collect();
    std::fs::write(dir.path().join("lines.csv"), format!("id,grp\n{lines}")).unwrap();
    let maps = [("m", "SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp")];
    let rides = [("rides", "Parquet", "rides")];
    let steps = crate::common::steps(1, &maps, &[("r", "SELECT SUM(n) AS n FROM m")], &rides);
    let text = statement(1, "SELECT COUNT(grp) AS n FROM t", &[("t", "Csv", "lines.csv")]);
    for query in [steps, text] {
        let (estimate, ran) = both(&Fuse::new(host(&[]).host()), &query, dir.path()).await;
        assert_near("bytes", estimate.bytes, ran.bytes_read);
        assert_eq!((estimate.tasks, estimate.requests), (ran.tasks, 0), "reads of local files are not requests");
        assert_eq!(ran.requests.total(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_beyond_those_whose_footers_are_read_are_like_them() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "many", 150, 60);
    let query = statement(1, "SELECT SUM(amount) AS s FROM many", &[("many", "Parquet", "many")]);
    let (estimate, ran) = both(&Fuse::new(host(&[]).host()), &query, dir.path()).await;
    assert_near("bytes", estimate.bytes, ran.bytes_read);
    assert_eq!(estimate.tasks, ran.tasks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_of_a_wide_table_count_for_the_limit_and_not_its_files() {
    let fuse = Fuse::new(reading(&bucket().await).host());
    let all = statement(1, "SELECT * FROM notes", &CATALOGS);
    let one = statement(1, "SELECT COUNT(DISTINCT grp) AS n FROM notes", &CATALOGS);
    let sets = ["max_scan_bytes=300KB"];
    let refused = ask_fuse(&fuse, &all, Path::new("/"), &sets).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Limit);
    let message = refused.to_string();
    assert!(message.starts_with("the query reads about ") && message.contains(", more than 300.0 kB;"), "{message}");
    assert_eq!(ask_fuse(&fuse, &one, Path::new("/"), &sets).await.unwrap().summary.rows, 1);
}

/// Reports ten times the bytes that a task read, and costs one dollar before the first task and ten after it.
#[derive(Debug)]
struct Dear {
    compute: Arc<LocalCompute>,
    ran: AtomicBool,
}

#[async_trait]
impl Compute for Dear {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let outcome = self.compute.run(task, refused).await?;
        self.ran.store(true, Ordering::Relaxed);
        Ok(TaskOutcome { bytes_scanned: outcome.bytes_scanned * 10, ..outcome })
    }

    fn cost(&self, used: &Used) -> Option<Cost> {
        let own_usd = if self.ran.load(Ordering::Relaxed) { 10.0 } else { 1.0 };
        assert!(used.fuse_milliseconds < 3_600_000, "{used:?}");
        Some(Cost { own_usd, started_usd: 0.0 })
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn tasks_min(&self) -> usize {
        self.compute.tasks_min()
    }
}

/// Runs a query of all rows of four files, whose tasks run one after the other and cost more than expected.
async fn dear(sets: &[&str]) -> Result<Summary, QueryError> {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 1000);
    let local = host(sets);
    let compute = Arc::new(Dear { compute: Arc::clone(&local.compute), ran: AtomicBool::new(false) });
    let fuse = Fuse::new(Host { compute, ..local.host() });
    let query = statement(1, "SELECT * FROM rides", &[("rides", "Parquet", "rides")]);
    Ok(ask_fuse(&fuse, &query, dir.path(), &[sets, &["tasks=4"]].concat()).await?.summary)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_beyond_its_cost_is_refused_or_stopped() {
    let within = dear(&["max_cost_usd=20"]).await.unwrap();
    assert_eq!((within.rows, within.cost_usd, within.started_usd), (4000, Some(10.0), Some(0.0)));

    let refused = dear(&["max_cost_usd=0.5"]).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Limit);
    assert!(refused.message.starts_with("the query costs about $1.000000 to $1.000000, more than $0.5;"), "{refused}");

    let stopped = dear(&["max_cost_usd=5"]).await.unwrap_err();
    assert_eq!(stopped.kind, ErrorKind::Limit);
    assert!(
        stopped.message.starts_with("the query has cost $10.000000, more than $5, after 1 of 4 tasks;"),
        "{stopped}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_that_reads_more_than_was_estimated_is_stopped() {
    let read = dear(&[]).await.unwrap().bytes_read;
    // Twice what is really read, and a fifth of what the tasks report.
    let limit = format!("max_scan_bytes={}", read / 5);
    let stopped = dear(&[&limit]).await.unwrap_err();
    assert_eq!(stopped.kind, ErrorKind::Limit);
    assert!(
        stopped.message.starts_with("the query has read ") && stopped.message.contains(" of 4 tasks;"),
        "{stopped}"
    );
    assert!(stopped.message.contains("raise `max_scan_bytes`"), "{stopped}");
    assert!(dear(&[&format!("max_scan_bytes={read}")]).await.is_ok());
}
