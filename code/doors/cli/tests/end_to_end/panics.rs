//! Tests operators that panic on combs, or end before their last row.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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
