//! Tests the exchange through objects in storage: rows that Fuse reduces, rows that tasks reduce, and lost deliveries.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use buzz_engine::{Content, Engine};
use buzz_fuse::Fuse;
use buzz_host::{Combs, Compute, Host, ObjectRoot, Refused};
use buzz_local::{LocalCompute, LocalHost};
use buzz_protocol::{
    CombAddress, Delivered, DeliveryId, ErrorKind, HBeeTask, QueryError, Result, StageId, TaskIndex, TaskOutcome,
    delivery_object,
};
use buzz_storage::Location;
use buzz_testkit::sorted_text;
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::common::{Answer, ask_fuse, ask_on, host, question, statement};
use crate::tables::parquet_folder;

/// Fuse reduces the objects; tasks reduce them, since they exceed the inbox.
const WAYS: [&[&str]; 2] = [&["reducer=objects", "tasks=6"], &["reducer=objects", "tasks=6", "inbox_memory_bytes=1"]];

/// Statements of each kind: groups, a sort, a top-k, a join, a window, a set operation, a recursion, rows without columns.
const STATEMENTS: [&str; 10] = [
    "SELECT id, COUNT(*) AS n, SUM(amount) AS a FROM rides GROUP BY id",
    "SELECT grp, COUNT(DISTINCT id) AS n, MIN(amount) AS lo FROM rides GROUP BY grp ORDER BY grp",
    "SELECT id, grp FROM rides ORDER BY amount DESC NULLS LAST, id LIMIT 7",
    "SELECT a.id, b.amount FROM rides a JOIN rides b ON a.id = b.id WHERE a.grp = 'cash'",
    "SELECT a.grp, COUNT(*) AS n FROM rides a LEFT JOIN rides b ON a.id = b.id + 400 GROUP BY a.grp HAVING COUNT(*) > 1",
    "SELECT id, ROW_NUMBER() OVER (PARTITION BY grp ORDER BY id) AS n FROM rides",
    "SELECT grp FROM rides WHERE id < 30 UNION SELECT grp FROM rides WHERE id > 700",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT n, COUNT(*) AS c FROM t, rides \
     GROUP BY n",
    "SELECT COUNT(*) AS n FROM rides WHERE id > 100000",
    "SELECT 1 AS one FROM rides",
];

fn asked(sql: &str) -> Value {
    statement(1, sql, &[("rides", "Parquet", "rides")])
}

fn table() -> TempDir {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 8, 100);
    dir
}

/// Returns the files below the place of all exchanged objects of `host`.
fn left(host: &LocalHost) -> Vec<PathBuf> {
    let place = host.objects.of_query(buzz_protocol::QueryId::fresh()).unwrap();
    let mut folders = vec![PathBuf::from(place.parent().to_string())];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

fn stages_of_tasks(answer: &Answer) -> usize {
    answer.summary.stages.iter().filter(|stage| stage.step.starts_with("reduce_")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_return_the_same_rows_through_objects() {
    let dir = table();
    for sql in STATEMENTS {
        // Without a join in the tasks that read files, rows of both sides are exchanged.
        let expected = ask_on(&host(&[]), &asked(sql), dir.path(), &["build_bytes=0"]).await.unwrap();
        for way in WAYS {
            let host = host(way);
            let sets = [way, &["build_bytes=0"]].concat();
            let answer =
                ask_on(&host, &asked(sql), dir.path(), &sets).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!(sorted_text(&answer.rows), sorted_text(&expected.rows), "{sql}, {way:?}");
            assert_eq!(answer.summary.combs, 0, "{sql}");
            assert!(answer.summary.objects > 0 || sql.contains("100000"), "{sql}");
            assert_eq!(left(&host), Vec::<PathBuf>::new(), "{sql}: objects are removed at the end");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_reduce_rows_that_exceed_the_inbox_of_fuse() {
    let dir = table();
    let [by_fuse, by_tasks] = WAYS;
    for sql in [STATEMENTS[0], STATEMENTS[1], STATEMENTS[5]] {
        let answer = ask_on(&host(by_fuse), &asked(sql), dir.path(), by_fuse).await.unwrap();
        assert_eq!((stages_of_tasks(&answer), answer.summary.tasks), (0, 6), "{sql}");
        let answer = ask_on(&host(by_tasks), &asked(sql), dir.path(), by_tasks).await.unwrap();
        assert!(stages_of_tasks(&answer) > 0, "{sql}");
        assert!(answer.summary.tasks > 6, "{sql}: {}", answer.summary.tasks);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_exchange_rows_through_objects() {
    let dir = table();
    let query = crate::common::steps(
        1,
        &[("m", "SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp")],
        &[
            ("s", "SELECT grp, SUM(n) AS n FROM m GROUP BY grp"),
            ("r", "SELECT a.grp, a.n + b.n AS n FROM s a JOIN s b ON a.grp = b.grp"),
        ],
        &[("rides", "Parquet", "rides")],
    );
    for way in WAYS {
        let answer = ask_on(&host(way), &query, dir.path(), way).await.unwrap();
        assert_eq!(sorted_text(&answer.rows), ["cash | 534", "credit | 534", "dispute | 532"]);
        assert_eq!(answer.summary.combs, 0);
    }
}

/// The fault of a worker that delivers an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The first attempt of every task delivers, and then its outcome is lost.
    OutcomeLost,
    /// Every attempt runs twice at the same time; the outcome of the second run is returned.
    Twice,
    /// The object of every task's first attempt is removed before it is read.
    ObjectLost,
    /// The object of every task's first attempt has another byte.
    ObjectCorrupted,
    /// The object of every task's first attempt ends early.
    ObjectShort,
    /// The outcome of every attempt names a part of the object only.
    Partial,
}

#[derive(Debug)]
struct FaultyCompute {
    inner: Arc<LocalCompute>,
    fault: Fault,
    ran: Mutex<HashMap<(StageId, TaskIndex), u32>>,
}

impl FaultyCompute {
    fn is_first(&self, task: &HBeeTask) -> bool {
        let mut ran = self.ran.lock();
        let runs = ran.entry((task.stage, task.task)).or_default();
        *runs += 1;
        *runs == 1
    }
}

/// Changes the file of a delivery's object.
fn spoil(task: &HBeeTask, delivery: DeliveryId, fault: Fault) {
    let folder = PathBuf::from(task.objects.as_ref().expect("a task that delivers an object"));
    let file = folder.join(delivery_object(task.stage, task.task, delivery));
    let Ok(mut bytes) = std::fs::read(&file) else { return };
    match fault {
        Fault::ObjectLost => std::fs::remove_file(&file).unwrap(),
        Fault::ObjectShort => std::fs::write(&file, &bytes[..bytes.len() / 3]).unwrap(),
        Fault::ObjectCorrupted => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            std::fs::write(&file, &bytes).unwrap();
        }
        _ => {}
    }
}

#[async_trait]
impl Compute for FaultyCompute {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        let first = self.is_first(task);
        let mut outcome = match self.fault {
            Fault::OutcomeLost if first => {
                self.inner.run(task, refused).await?;
                return Err(QueryError::unavailable("the worker died"));
            }
            Fault::Twice => tokio::join!(self.inner.run(task, refused), self.inner.run(task, refused)).1?,
            _ => self.inner.run(task, refused).await?,
        };
        if let Delivered::Object(segments) = &mut outcome.delivered {
            if self.fault == Fault::Partial {
                segments.pop();
            } else if first {
                spoil(task, outcome.delivery, self.fault);
            }
        }
        Ok(outcome)
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn tasks_min(&self) -> usize {
        4
    }
}

async fn with_fault(fault: Fault, way: &[&str], base: &Path) -> (Result<Answer>, LocalHost) {
    let host = host(way);
    let compute = FaultyCompute { inner: Arc::clone(&host.compute), fault, ran: Mutex::default() };
    let fuse = Fuse::new(Host { compute: Arc::new(compute), ..host.host() });
    let answer = ask_fuse(&fuse, &asked(STATEMENTS[0]), base, way).await;
    (answer, host)
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_lost_and_corrupted_deliveries_do_not_change_rows() {
    let dir = table();
    let expected = ask_on(&host(&[]), &asked(STATEMENTS[0]), dir.path(), &[]).await.unwrap();
    let expected = sorted_text(&expected.rows);
    for fault in [Fault::OutcomeLost, Fault::Twice, Fault::ObjectLost, Fault::ObjectCorrupted, Fault::ObjectShort] {
        for way in WAYS {
            let (answer, host) = with_fault(fault, way, dir.path()).await;
            let answer = answer.unwrap_or_else(|error| panic!("{fault:?}, {way:?}: {error}"));
            assert_eq!(sorted_text(&answer.rows), expected, "{fault:?}, {way:?}");
            let unread = matches!(fault, Fault::ObjectLost | Fault::ObjectCorrupted | Fault::ObjectShort);
            assert_eq!(answer.reruns > 0, unread, "{fault:?}, {way:?}: a lost delivery is made again by another run");
            if !unread {
                assert_eq!(left(&host), Vec::<PathBuf>::new(), "{fault:?}: also what was not accepted is removed");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_delivery_fails_the_query() {
    let dir = table();
    for way in WAYS {
        let (answer, _host) = with_fault(Fault::Partial, way, dir.path()).await;
        let error = answer.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("is incomplete"), "{error}");
    }
}

/// Combs of a stack that cannot have any, and whose list is empty.
#[derive(Debug)]
struct NoCombs;

#[async_trait]
impl Combs for NoCombs {
    async fn ready(&self, _count: usize) -> Result<Vec<CombAddress>> {
        Err(QueryError::unavailable("there is no capacity for combs"))
    }

    async fn warm(&self, _count: usize) -> Result<Vec<CombAddress>> {
        Ok(Vec::new())
    }

    fn partitions_per_comb(&self, _count: usize) -> usize {
        2
    }
}

/// Runs tasks whose outcomes have at most 10 bytes of rows.
#[derive(Debug)]
struct SmallOutcomes(Arc<LocalCompute>);

#[async_trait]
impl Compute for SmallOutcomes {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        self.0.run(task, refused).await
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn tasks_min(&self) -> usize {
        4
    }

    fn inline_bytes(&self) -> u64 {
        10
    }
}

/// Makes a Fuse on a stack without combs, whose objects are in `folder`.
fn without_combs(host: &LocalHost, folder: &Path) -> Fuse {
    let root = Location::parse(folder.to_str().unwrap(), folder).unwrap();
    let compute = Arc::new(SmallOutcomes(Arc::clone(&host.compute)));
    let objects = Arc::new(ObjectRoot::at(root));
    Fuse::new(Host { compute, combs: Arc::new(NoCombs), objects, ..host.host() })
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_an_outcome_move_to_objects_where_there_are_no_combs() {
    let (dir, folder, host) = (table(), tempdir().unwrap(), host(&[]));
    let fuse = without_combs(&host, folder.path());
    for sql in STATEMENTS {
        let expected = ask_on(&host, &asked(sql), dir.path(), &[]).await.unwrap();
        let answer = ask_fuse(&fuse, &asked(sql), dir.path(), &["tasks=6"])
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(sorted_text(&answer.rows), sorted_text(&expected.rows), "{sql}");
        assert_eq!((answer.summary.combs, answer.reruns), (0, 0), "{sql}");
    }
    let answer = ask_fuse(&fuse, &asked(STATEMENTS[0]), dir.path(), &["tasks=6"]).await.unwrap();
    assert!(answer.summary.objects > 0);
    let forced = ask_fuse(&fuse, &asked(STATEMENTS[0]), dir.path(), &["reducer=comb"]).await.unwrap_err();
    assert!(forced.to_string().contains("no capacity for combs"), "{forced}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_who_reduces_and_why() {
    let (dir, folder, host) = (table(), tempdir().unwrap(), host(&[]));
    let fuse = without_combs(&host, folder.path());
    let explained = async |sets: &[&str]| {
        let sql = format!("EXPLAIN {}", STATEMENTS[0]);
        let (question, _) = question(&asked(&sql), dir.path(), sets);
        match fuse.start(question).answer().await.unwrap().content {
            Content::Plan(text) => text.lines().find(|line| line.starts_with("reduced by: ")).unwrap().to_string(),
            Content::Rows(_) => panic!("rows instead of a plan"),
        }
    };
    let found = [explained(&[]).await, explained(&["reducer=objects"]).await, explained(&["reducer=inline"]).await];
    assert_eq!(
        found,
        [
            "reduced by: 1 comb if running already; otherwise Fuse, to which tasks return their rows, since few are \
             expected",
            "reduced by: objects in storage, which Fuse reads if they are small, and tasks if they are large (by the \
             option `reducer`)",
            "reduced by: Fuse, to which tasks return their rows (by the option `reducer`)",
        ]
    );
}
