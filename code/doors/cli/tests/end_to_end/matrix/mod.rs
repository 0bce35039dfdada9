//! Runs each fault with each shape of query in one process. A cell is right rows or the named error, and nothing of the
//! query is left. The cells are a table of `docs/faults.md`.

mod fault;

pub(crate) mod host;

mod parts;

pub(crate) mod shapes;

use std::path::Path;
use std::time::{Duration, Instant};

use buzz_engine::Engine;
use buzz_protocol::{QueryError, Result};
use buzz_testkit::{Cell, FaultMatrix, sorted_text};
use futures::StreamExt;
use tempfile::tempdir;

use self::fault::{Expect, Fault, faults};
use self::host::{Trouble, Troubled};
use self::shapes::{NAMES, Shape, shapes, write_tables};
use crate::common::question;
use crate::panics::panics_at_each_position;

/// Options of every query: combs reduce, joins are theirs, and each file is a task.
const SETS: [&str; 3] = ["transport=tcp", "tasks=8", "build_bytes=0"];

/// Time after which a query hangs.
const HANGS_AFTER: Duration = Duration::from_secs(170);

/// Time within which nothing of a query may be left. Combs that Fuse does not reach end it when its lease is over.
const GONE_WITHIN: Duration = Duration::from_secs(90);

/// Rows of each of the 8 files.
const ROWS: usize = 300;

/// Runs `shape` with `fault` on a host of its own.
async fn cell(fault: Fault, words: &str, expect: Expect, shape: &Shape) -> Cell {
    let place = format!("{words}, {}", shape.name);
    // A fault may replace a file, so each cell has its own tables.
    let dir = tempdir().unwrap();
    write_tables(dir.path(), ROWS);
    let sets = [&SETS[..], fault.sets()].concat();
    let troubled = Troubled::new(fault, dir.path(), &sets).await;
    let started = Instant::now();
    let answered = tokio::time::timeout(HANGS_AFTER, answer(&troubled, shape, dir.path(), &sets)).await;
    let time = started.elapsed();
    let answered = answered.unwrap_or_else(|_| panic!("{place}: the query hangs"));
    let outcome = outcome(answered, expect, shape, &place);
    let trouble = &troubled.trouble;
    assert!(fault.is_of_options() || trouble.met() > 0, "{place}: the fault was not made");
    nothing_left(trouble, &place).await;
    Cell { outcome, time }
}

/// Runs `shape`, and cancels the query if that is the fault.
async fn answer(troubled: &Troubled, shape: &Shape, dir: &Path, sets: &[&str]) -> Result<Vec<String>> {
    let mut running = troubled.fuse.start(question(&shape.query, dir, sets).0);
    let answer = tokio::select! {
        answer = running.answer() => answer?,
        () = troubled.trouble.cancel.notified() => {
            running.cancel();
            running.answer().await?
        }
    };
    let rows = answer.into_rows().batches()?.collect::<Result<Vec<_>>>()?;
    Ok(sorted_text(&rows))
}

/// Checks what the query gave, and returns its words in the table.
fn outcome(answered: Result<Vec<String>>, expect: Expect, shape: &Shape, place: &str) -> String {
    let kind = |error: &QueryError| format!("`{}`", error.kind);
    match (answered, expect) {
        (Ok(rows), Expect::Rows | Expect::Either(_)) => assert_eq!(rows, shape.right, "{place}"),
        (Ok(rows), Expect::Fails(kind)) => panic!("{place}: rows instead of `{kind}`: {rows:?}"),
        (Err(error), Expect::Rows) => panic!("{place}: {}: {error}", kind(&error)),
        (Err(error), Expect::Fails(expected) | Expect::Either(expected)) => {
            assert_eq!(error.kind, expected, "{place}: {error}");
        }
    }
    match expect {
        Expect::Rows => "rows".to_string(),
        Expect::Fails(kind) => format!("`{kind}`"),
        Expect::Either(kind) => format!("rows or `{kind}`"),
    }
}

/// Waits until no task runs and no comb has the query.
async fn nothing_left(trouble: &Trouble, place: &str) {
    let started = Instant::now();
    while trouble.left() != (0, 0) {
        let (tasks, queries) = trouble.left();
        assert!(started.elapsed() < GONE_WITHIN, "{place}: {tasks} tasks and {queries} open queries are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs each shape with a panic at each operator in turn.
async fn panics(dir: &Path, shapes: &[Shape]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for shape in shapes {
        let started = Instant::now();
        let (failed, positions) = panics_at_each_position(dir, &shape.query, &SETS).await;
        assert!(failed > 0, "{}: a panic at none of {positions} operators fails the query", shape.name);
        // The time is that of one query.
        let queries = u32::try_from(2 * positions + 1).unwrap_or(u32::MAX);
        cells.push(Cell { outcome: "`Internal`".to_string(), time: started.elapsed() / queries });
    }
    cells
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_with_each_shape_gives_right_rows_or_its_error() {
    let dir = tempdir().unwrap();
    write_tables(dir.path(), ROWS);
    let shapes = shapes(dir.path()).await;
    let mut matrix = FaultMatrix::new("one process", &NAMES);
    let row = async |(fault, words, expect): (Fault, &'static str, Expect)| {
        let cells =
            shapes.iter().cloned().map(|shape| tokio::spawn(async move { cell(fault, words, expect, &shape).await }));
        let cells = futures::future::join_all(cells).await;
        (words, cells.into_iter().map(|cell| cell.expect("the cell is right")).collect::<Vec<_>>())
    };
    // Most faults are waited for.
    let mut rows = futures::stream::iter(faults()).map(row).buffered(3);
    while let Some((words, cells)) = rows.next().await {
        matrix.add(words, &cells);
    }
    drop(rows);
    matrix.add("operator on a comb panics, each in turn", &panics(dir.path(), &shapes).await);
    matrix.check();
}
