//! Tests operators that panic on combs, or end before their last row.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use buzz_fuse::Fuse;
use buzz_kernel::{Guard, guarded};
use buzz_local::LocalHost;
use buzz_protocol::ErrorKind;
use buzz_storage::Stores;
use buzz_testkit::sorted_text;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use serde_json::Value;
use tempfile::tempdir;

use crate::common::{ask_fuse, options, statement};
use crate::tables::parquet_folder;

/// The fault of an operator on a comb.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Panics when it is executed.
    PanicsAtOnce,
    /// Panics after its first batch.
    Panics,
    /// Ends without its rows.
    Ends,
}

/// Injects a fault into the first partition that is executed.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    left: Arc<AtomicU32>,
}

impl Guard for Faulty {
    fn execute(
        &self,
        inner: &Arc<dyn ExecutionPlan>,
        partition: usize,
        ctx: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            return inner.execute(partition, ctx);
        }
        let fault = self.fault;
        assert!(fault != Fault::PanicsAtOnce, "an operator panicked at once");
        let batches = inner.execute(partition, ctx)?;
        let schema = batches.schema();
        let faulty = batches.take(usize::from(fault == Fault::Panics)).chain(futures::stream::poll_fn(move |_| {
            assert!(fault == Fault::Ends, "an operator panicked between batches");
            std::task::Poll::Ready(None)
        }));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, faulty)))
    }

    fn fresh(&self) -> Arc<dyn Guard> {
        Arc::new(Self { fault: self.fault, left: Arc::clone(&self.left) })
    }
}

/// Creates a host on whose combs the first operator `name` that runs has `fault`.
fn host(sets: &[&str], name: &'static str, fault: Fault) -> LocalHost {
    let left = Arc::new(AtomicU32::new(1));
    let change = move |plan: Arc<dyn ExecutionPlan>| {
        plan.transform_up(|node| {
            if node.name() != name {
                return Ok(Transformed::no(node));
            }
            Ok(Transformed::yes(guarded(node, Arc::new(Faulty { fault, left: Arc::clone(&left) }))))
        })
        .data()
    };
    LocalHost::changing_plans(Arc::new(Stores::default()), &options(sets), 2, Arc::new(change)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_or_early_end_on_a_comb_never_shortens_the_answer() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 100);
    let sql = "SELECT grp, count(*) AS n, sum(m) AS m FROM (SELECT grp, id % 9 AS g, max(amount) AS m FROM rides \
               GROUP BY 1, 2) GROUP BY grp";
    for fault in [Fault::PanicsAtOnce, Fault::Panics, Fault::Ends] {
        for name in ["InboxExec", "AggregateExec"] {
            // Exchanges read their inputs to the end even if an operator above them ends.
            if fault == Fault::Ends && name != "InboxExec" {
                continue;
            }
            for transport in ["transport=memory", "transport=tcp"] {
                for combs in [1, 3] {
                    let sets = [transport, "reducer=comb", "tasks=4"];
                    let place = format!("{fault:?} of {name} with {transport} on {combs} combs");
                    let host = host(&sets, name, fault);
                    let query = statement(combs, sql, &[("rides", "Parquet", "rides")]);
                    let asked = ask_fuse(&Fuse::new(host.host()), &query, dir.path(), &sets).await;
                    let Err(error) = asked else {
                        let rows = sorted_text(&asked.unwrap().rows);
                        panic!("{place}: {rows:?}");
                    };
                    assert_eq!(error.kind, ErrorKind::Internal, "{place}: {error}");
                    assert!(host.combs.combs().iter().all(|comb| comb.inboxes().open_queries() == 0));
                }
            }
        }
    }
}

/// Statements whose plans have joins, sorts, windows, unions, limits and exchanges.
const STATEMENTS: [&str; 7] = [
    "SELECT r.grp, count(*) AS n, sum(s.amount) AS m FROM rides r JOIN rides s ON r.id = s.id GROUP BY r.grp",
    "SELECT r.grp, max(a.m) AS m FROM rides r JOIN (SELECT grp, max(amount) AS m FROM rides GROUP BY grp) a \
     ON r.grp = a.grp AND r.id > 3 GROUP BY r.grp",
    "SELECT count(*) AS n FROM rides r JOIN (SELECT min(id) AS low FROM rides GROUP BY grp) a ON r.id < a.low",
    "SELECT id, rank() OVER (PARTITION BY grp ORDER BY id) AS place FROM rides ORDER BY id DESC LIMIT 7",
    "SELECT DISTINCT grp FROM rides WHERE id IN (SELECT id + 1 FROM rides WHERE grp = 'cash') ORDER BY grp",
    "SELECT grp, sum(n) AS n FROM (SELECT grp, 1 AS n FROM rides UNION ALL SELECT grp, id % 3 FROM rides) GROUP BY grp",
    "SELECT count(*) AS n FROM rides r FULL JOIN (SELECT id + 90 AS id FROM rides) s ON r.id = s.id",
];

/// Creates a host on whose combs the operator at `position`, in the order in which plans arrive, has `fault`. Counts the
/// operators in `seen`.
fn host_with_fault_at(sets: &[&str], position: usize, fault: Fault, seen: &Arc<AtomicUsize>) -> LocalHost {
    let (seen, left) = (Arc::clone(seen), Arc::new(AtomicU32::new(1)));
    let change = move |plan: Arc<dyn ExecutionPlan>| {
        plan.transform_up(|node| {
            if seen.fetch_add(1, Ordering::SeqCst) != position {
                return Ok(Transformed::no(node));
            }
            Ok(Transformed::yes(guarded(node, Arc::new(Faulty { fault, left: Arc::clone(&left) }))))
        })
        .data()
    };
    LocalHost::changing_plans(Arc::new(Stores::default()), &options(sets), 2, Arc::new(change)).unwrap()
}

/// Runs `query` with a panic at each operator in turn, at once and between batches. Each answer is right or `Internal`.
/// Returns the number of failed queries, and of operators.
pub(crate) async fn panics_at_each_position(folder: &Path, query: &Value, sets: &[&str]) -> (usize, usize) {
    let seen = Arc::new(AtomicUsize::new(0));
    let whole = host_with_fault_at(sets, usize::MAX, Fault::Panics, &seen);
    let right = sorted_text(&ask_fuse(&Fuse::new(whole.host()), query, folder, sets).await.unwrap().rows);
    let operators = seen.load(Ordering::SeqCst);
    let mut failed = 0;
    for position in 0..operators {
        for fault in [Fault::PanicsAtOnce, Fault::Panics] {
            let host = host_with_fault_at(sets, position, fault, &Arc::default());
            match ask_fuse(&Fuse::new(host.host()), query, folder, sets).await {
                Err(error) => {
                    failed += 1;
                    assert_eq!(error.kind, ErrorKind::Internal, "{fault:?} at {position} of {query}: {error}");
                }
                // The operator was not executed, or ended before its panic.
                Ok(answer) => {
                    let place = format!("{fault:?} at {position} of {operators}, {sets:?}: {query}");
                    assert_eq!(sorted_text(&answer.rows), right, "{place}");
                }
            }
        }
    }
    (failed, operators)
}

/// Runs `sql` with a panic at each position in turn. Returns the number of failed queries.
async fn panic_at_each_position(folder: &Path, sql: &str, combs: usize, transport: &str) -> usize {
    let sets = [transport, "reducer=comb", "tasks=4", "build_bytes=0"];
    let query = statement(combs, sql, &[("rides", "Parquet", "rides")]);
    panics_at_each_position(folder, &query, &sets).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_at_any_operator_never_shortens_the_answer() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 100);
    for sql in STATEMENTS {
        for (combs, transport) in [(1, "transport=memory"), (3, "transport=memory"), (2, "transport=tcp")] {
            let failed = panic_at_each_position(dir.path(), sql, combs, transport).await;
            assert!(failed > 3, "{failed} positions fail with {combs} combs, {transport}: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_between_combs_that_ends_early_is_an_error() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 100);
    let query = |sql: &str| statement(3, sql, &[("rides", "Parquet", "rides")]);
    for (sql, name) in [
        (STATEMENTS[0], "NetworkShuffleExec"),
        (STATEMENTS[1], "NetworkBroadcastExec"),
        (STATEMENTS[2], "NetworkBroadcastExec"),
        (STATEMENTS[6], "NetworkShuffleExec"),
    ] {
        for transport in ["transport=memory", "transport=tcp"] {
            let sets = [transport, "reducer=comb", "tasks=4", "build_bytes=0"];
            let host = host(&sets, name, Fault::Ends);
            let asked = ask_fuse(&Fuse::new(host.host()), &query(sql), dir.path(), &sets).await;
            let error = asked.expect_err(&format!("{name}, {transport}: {sql}"));
            assert_eq!(error.kind, ErrorKind::Internal, "{error}");
        }
    }
}
