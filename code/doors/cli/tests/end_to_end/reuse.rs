//! Answers and partial aggregates that are kept and used again, with the option `reuse`. Each answer is compared with a run
//! that keeps nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use buzz_engine::{Content, Engine, Question, Reused, Want};
use buzz_fuse::Fuse;
use buzz_host::{Host, ResultCache};
use buzz_testkit::sorted_text;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::common::{Answer, ask_fuse, host, question, statement};
use crate::tables::{parquet_folder, rides, write_file};

/// A folder with tables, and one in which results are kept.
struct Lab {
    dir: TempDir,
    /// Seconds since 1970 of the last file that was written.
    clock: AtomicU64,
}

const GROUPED: &str = "SELECT grp, COUNT(*) AS n, SUM(id) AS s, MAX(amount) AS a FROM rides GROUP BY grp";

impl Lab {
    /// Makes a folder with the table `rides` of `files` files.
    fn new(files: usize) -> Self {
        let lab = Self { dir: tempdir().unwrap(), clock: AtomicU64::new(1_700_000_000) };
        let folder = parquet_folder(lab.dir.path(), "rides", files, 200);
        (0..files).for_each(|file| lab.settle(&folder.join(format!("part-{file}.parquet"))));
        lab
    }

    fn kept(&self) -> PathBuf {
        self.dir.path().join("kept")
    }

    /// Gives a file a time of its own, in the past: results of a file that was written just now are not kept.
    fn settle(&self, path: &Path) {
        let seconds = self.clock.fetch_add(1, Ordering::Relaxed);
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(UNIX_EPOCH + Duration::from_secs(seconds))
            .unwrap();
    }

    fn engine(&self, sets: &[&str]) -> Fuse {
        let cache = Some(Arc::new(ResultCache::in_folder(self.kept())));
        Fuse::new(Host { cache, ..host(sets).host() })
    }

    /// Runs a query with `reuse` and without, and checks that both have the same rows.
    async fn ask_query(&self, query: &Value, sets: &[&str]) -> Answer {
        let reusing = [sets, &["reuse=true"]].concat();
        let answer = ask_fuse(&self.engine(&reusing), query, self.dir.path(), &reusing).await.unwrap();
        let plain = ask_fuse(&self.engine(sets), query, self.dir.path(), sets).await.unwrap();
        assert!(plain.summary.reused.is_nothing());
        assert_eq!(sorted_text(&answer.rows), sorted_text(&plain.rows), "{query}");
        assert_eq!(answer.summary.rows, plain.summary.rows);
        answer
    }

    async fn ask(&self, sql: &str, sets: &[&str]) -> Answer {
        self.ask_query(&statement(1, sql, &[("rides", "Parquet", "rides")]), sets).await
    }

    /// Returns what was reused for `sql`: the answer, or a number of tasks.
    async fn reused(&self, sql: &str, sets: &[&str]) -> Reused {
        self.ask(sql, sets).await.summary.reused
    }

    fn objects(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.kept()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

const ANSWER: Reused = Reused { answer: true, tasks: 0 };

fn tasks(tasks: u64) -> Reused {
    Reused { answer: false, tasks }
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_is_used_again_until_something_changes() {
    let lab = Lab::new(3);
    let sql = "SELECT id, grp FROM rides WHERE id > 100 ORDER BY id";
    assert_eq!(lab.reused(sql, &[]).await, tasks(0));
    let again = lab.ask(sql, &[]).await;
    assert_eq!((again.summary.reused, again.summary.tasks), (ANSWER, 0));
    let blanks = "SELECT id, grp\nFROM rides -- all of them\nWHERE id > 100 ORDER BY id;";
    assert_eq!(lab.reused(blanks, &[]).await, ANSWER);
    // Options that change no rows do not count, others do.
    assert_eq!(lab.reused(sql, &["tasks=2", "batch_size=100", "reducer=inline"]).await, ANSWER);
    for sets in [&["time_zone=+02:00"][..], &["overflow=wrap"]] {
        assert_eq!(lab.reused(sql, sets).await, tasks(0), "{sets:?}");
        assert_eq!(lab.reused(sql, sets).await, ANSWER, "{sets:?}");
    }
    assert_eq!(lab.reused(&sql.replace("100", "101"), &[]).await, tasks(0));
    // Empty answers are answers.
    let none = "SELECT id FROM rides WHERE id < 0 AND amount > 3";
    lab.ask(none, &[]).await;
    lab.ask(none, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_parameters_have_other_answers() {
    let lab = Lab::new(2);
    let query = |value: i64| {
        let mut query = statement(1, "SELECT id FROM rides WHERE id < $most", &[("rides", "Parquet", "rides")]);
        query["params"] = json!({"most": value});
        query
    };
    for (value, expected) in [(7, tasks(0)), (7, ANSWER), (9, tasks(0)), (9, ANSWER), (7, ANSWER)] {
        let answer = lab.ask_query(&query(value), &[]).await;
        assert_eq!((answer.summary.reused, answer.summary.rows), (expected, value.unsigned_abs()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_tables_are_read_again() {
    let lab = Lab::new(3);
    let folder = lab.dir.path().join("rides");
    for reducer in ["reducer=comb", "reducer=inline"] {
        let sets = [reducer];
        fs::remove_dir_all(lab.kept()).ok();
        assert_eq!(lab.reused(GROUPED, &sets).await, tasks(0));
        assert_eq!(lab.reused(GROUPED, &sets).await, ANSWER);
        // A new file: the tasks of the others are known.
        let new = folder.join("part-new.parquet");
        write_file(&new, &rides(5_000, 150));
        lab.settle(&new);
        let grown = lab.ask(GROUPED, &sets).await;
        assert_eq!((grown.summary.reused, grown.summary.tasks), (tasks(3), 4), "{reducer}");
        assert_eq!(lab.reused(GROUPED, &sets).await, ANSWER);
        // A file of the same name with other rows.
        write_file(&new, &rides(9_000, 150));
        lab.settle(&new);
        assert_eq!(lab.reused(GROUPED, &sets).await, tasks(3), "{reducer}");
        fs::remove_file(&new).unwrap();
        // The table is what it was at first, and so is the answer.
        assert_eq!(lab.reused(GROUPED, &sets).await, ANSWER);
    }
    // Another aggregate of the same files has parts of its own.
    assert_eq!(lab.reused("SELECT COUNT(amount) AS n, SUM(id) AS s FROM rides", &[]).await, tasks(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_aggregates_serve_any_number_of_combs() {
    let lab = Lab::new(4);
    let query = |zones| statement(zones, GROUPED, &[("rides", "Parquet", "rides")]);
    lab.ask_query(&query(1), &["reducer=comb"]).await;
    for (zones, sets) in [(2, &["reducer=comb"][..]), (3, &["transport=tcp"][..]), (1, &["reducer=inline"][..])] {
        // Only the parts stay: the answer has another key after a new file.
        let new = lab.dir.path().join(format!("rides/part-{zones}-new.parquet"));
        write_file(&new, &rides(10_000 * zones, 10));
        lab.settle(&new);
        let answer = lab.ask_query(&query(zones), sets).await;
        assert!(answer.summary.reused.tasks >= 4, "{zones}: {:?}", answer.summary.reused);
        assert_eq!(answer.summary.reused.tasks + 1, answer.summary.tasks, "{zones}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_tables_are_known_by_their_files_and_deleted_rows() {
    let lab = Lab::new(0);
    let table = crate::tables::partitioned_delta(lab.dir.path());
    for entry in glob(&table) {
        lab.settle(&entry);
    }
    let query = statement(
        1,
        "SELECT kind, COUNT(id) AS n, SUM(id + 1) AS s FROM t GROUP BY kind",
        &[("t", "DeltaLake", "partitioned")],
    );
    assert_eq!(lab.ask_query(&query, &[]).await.summary.reused, tasks(0));
    assert_eq!(lab.ask_query(&query, &[]).await.summary.reused, ANSWER);
    let log = table.join("_delta_log");
    let first = fs::read_to_string(log.join("00000000000000000000.json")).unwrap();
    let add = first.lines().find_map(|line| {
        let action: Value = serde_json::from_str(line).unwrap();
        action.get("add").cloned()
    });
    let path = add.unwrap()["path"].clone();
    let remove = json!({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": true}});
    fs::write(log.join("00000000000000000001.json"), remove.to_string()).unwrap();
    let removed = lab.ask_query(&query, &[]).await;
    assert_eq!((removed.summary.reused, removed.summary.tasks), (tasks(5), 5));
    assert_eq!(lab.ask_query(&query, &[]).await.summary.reused, ANSWER);
}

/// Returns all Parquet files below `folder`.
fn glob(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(glob(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_change_by_themselves_are_not_kept() {
    let lab = Lab::new(2);
    for sql in [
        "SELECT COUNT(*) AS n, SUM(id) AS s FROM rides WHERE now() > TIMESTAMP '2020-01-01'",
        "SELECT COUNT(id) AS n FROM rides WHERE random() < 2",
        "SELECT MAX(id) AS m FROM rides WHERE current_date > DATE '2020-01-01'",
    ] {
        for _ in 0..2 {
            assert_eq!(lab.reused(sql, &[]).await, tasks(0), "{sql}");
        }
    }
    assert!(lab.objects().is_empty(), "{:?}", lab.objects());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_written_just_now_are_not_kept() {
    let lab = Lab::new(2);
    let new = lab.dir.path().join("rides/part-new.parquet");
    write_file(&new, &rides(400, 10));
    // Its time is not yet past, however slow the test is.
    lab.clock.store(4_102_444_800, Ordering::Relaxed);
    lab.settle(&new);
    for _ in 0..2 {
        assert_eq!(lab.reused(GROUPED, &[]).await, tasks(0));
    }
    assert!(lab.objects().is_empty(), "{:?}", lab.objects());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_objects_are_computed_again() {
    let lab = Lab::new(3);
    lab.ask(GROUPED, &[]).await;
    let objects = lab.objects();
    assert_eq!(objects.len(), 4, "an answer and three parts");
    for damage in [&b"torn"[..], b""] {
        objects.iter().for_each(|path| fs::write(path, damage).unwrap());
        assert_eq!(lab.reused(GROUPED, &[]).await, tasks(0));
        assert_eq!(lab.reused(GROUPED, &[]).await, ANSWER, "they were written again");
    }
    // Half of each.
    for path in &objects {
        let whole = fs::read(path).unwrap();
        fs::write(path, &whole[..whole.len() / 2]).unwrap();
    }
    assert_eq!(lab.reused(GROUPED, &[]).await, tasks(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn oldest_objects_are_removed() {
    let lab = Lab::new(2);
    let sets = ["reuse_bytes=20000"];
    for least in 0..30 {
        lab.ask(&format!("SELECT id, grp, amount FROM rides WHERE id > {least}"), &sets).await;
        let bytes: u64 = lab.objects().iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(bytes <= 20_000, "{bytes} bytes are kept");
    }
    assert!(!lab.objects().is_empty());
    // An answer of more bytes is not kept at all.
    fs::remove_dir_all(lab.kept()).unwrap();
    for _ in 0..2 {
        assert_eq!(lab.reused("SELECT id, grp, amount FROM rides WHERE id >= 0", &["reuse_bytes=100"]).await, tasks(0));
    }
    assert!(lab.objects().is_empty(), "{:?}", lab.objects());
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_at_the_same_time_share_what_they_keep() {
    let lab = Arc::new(Lab::new(4));
    let ask = |number: usize| {
        let lab = Arc::clone(&lab);
        let sql = if number.is_multiple_of(2) { GROUPED.to_string() } else { format!("{GROUPED} HAVING COUNT(*) > 0") };
        tokio::spawn(async move {
            for _ in 0..3 {
                lab.ask(&sql, &[]).await;
            }
        })
    };
    for asking in (0..4).map(ask).collect::<Vec<_>>() {
        asking.await.unwrap();
    }
    assert_eq!(lab.reused(GROUPED, &[]).await, ANSWER);
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_says_what_would_be_reused() {
    let lab = Lab::new(3);
    let explained = async |sql: &str, sets: &[&str]| {
        let (question, _) = question(&statement(1, sql, &[("rides", "Parquet", "rides")]), lab.dir.path(), sets);
        let asked: Question = question.with_want(Want::Plan);
        let answer = lab.engine(sets).start(asked).answer().await.unwrap();
        let Content::Plan(text) = answer.content else { panic!("rows instead of a plan") };
        text.lines().find(|line| line.starts_with("reuse: ")).map(str::to_string)
    };
    let on = ["reuse=true"];
    assert_eq!(explained(GROUPED, &[]).await, None);
    assert_eq!(explained(GROUPED, &on).await.as_deref(), Some("reuse: 0 of 3 tasks of map_0"));
    lab.ask(GROUPED, &[]).await;
    assert_eq!(explained(GROUPED, &on).await.as_deref(), Some("reuse: the answer"));
    assert_eq!(explained(&format!("EXPLAIN {GROUPED}"), &on).await.as_deref(), Some("reuse: the answer"));
    let new = lab.dir.path().join("rides/part-new.parquet");
    write_file(&new, &rides(700, 10));
    lab.settle(&new);
    assert_eq!(explained(GROUPED, &on).await.as_deref(), Some("reuse: 3 of 4 tasks of map_0"));
    let now = explained("SELECT now(), id FROM rides", &on).await.unwrap();
    assert_eq!(now, "reuse: nothing, since the query has `now`, which may change its rows at any time");
    assert_eq!(explained("SELECT id FROM rides", &on).await.as_deref(), Some("reuse: nothing yet"));
}

/// The rows of `EXPLAIN ANALYZE` are dropped, so it keeps none and runs its tasks.
#[tokio::test(flavor = "multi_thread")]
async fn kept_answer_does_not_answer_explain() {
    let lab = Lab::new(2);
    lab.ask(GROUPED, &[]).await;
    for sql in [format!("EXPLAIN {GROUPED}"), format!("EXPLAIN ANALYZE {GROUPED}")] {
        let sets = ["reuse=true"];
        let (asked, _) = question(&statement(1, &sql, &[("rides", "Parquet", "rides")]), lab.dir.path(), &sets);
        let answer = lab.engine(&sets).start(asked).answer().await.unwrap();
        assert!(matches!(answer.content, Content::Plan(_)), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_rows_are_checked_for_the_format_and_the_limit() {
    let lab = Lab::new(2);
    let sql = "SELECT a.id, b.id FROM rides a JOIN rides b ON a.id = b.id WHERE a.id < 50";
    lab.ask(sql, &[]).await;
    let failed = async |sets: &[&str], format| {
        let (asked, _) = question(&statement(1, sql, &[("rides", "Parquet", "rides")]), lab.dir.path(), sets);
        lab.engine(sets).start(asked.with_want(Want::Rows(format))).answer().await.unwrap_err().message
    };
    let twice = failed(&["reuse=true"], buzz_protocol::Format::Json).await;
    assert!(twice.contains("two columns are called `id`"), "{twice}");
    let large = failed(&["reuse=true", "max_result_bytes=100"], buzz_protocol::Format::Csv).await;
    assert!(large.contains("`max_result_bytes`"), "{large}");
}
