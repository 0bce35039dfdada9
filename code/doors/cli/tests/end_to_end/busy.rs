//! Tests operators that occupy their thread for longer than a connection waits for a ping.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use buzz_fuse::Fuse;
use buzz_kernel::{Guard, guarded};
use buzz_local::LocalHost;
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

/// A connection is lost if a ping, which is sent after 2 seconds, is not answered within 3 seconds.
const LONGER_THAN_A_PING: Duration = Duration::from_millis(6500);

/// Occupies the thread of each partition before its first row.
#[derive(Debug)]
struct Computes;

impl Guard for Computes {
    fn execute(
        &self,
        inner: &Arc<dyn ExecutionPlan>,
        partition: usize,
        ctx: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let batches = inner.execute(partition, ctx)?;
        let schema = batches.schema();
        let computing = futures::stream::poll_fn(|_| {
            std::thread::sleep(LONGER_THAN_A_PING);
            Poll::Ready(None)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, computing.chain(batches))))
    }

    fn fresh(&self) -> Arc<dyn Guard> {
        Arc::new(Self)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comb_that_computes_for_long_is_not_lost() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 100);
    let change = |plan: Arc<dyn ExecutionPlan>| {
        plan.transform_up(|node| match node.name() {
            "InboxExec" => Ok(Transformed::yes(guarded(node, Arc::new(Computes)))),
            _ => Ok(Transformed::no(node)),
        })
        .data()
    };
    for combs in [1, 2] {
        let sets = ["transport=tcp", "reducer=comb", "tasks=4"];
        let host =
            LocalHost::changing_plans(Arc::new(Stores::default()), &options(&sets), 2, Arc::new(change)).unwrap();
        let fuse = Fuse::new(host.host());
        let sql =
            "SELECT grp, count(*) AS n FROM (SELECT grp, id % 9, max(amount) FROM rides GROUP BY 1, 2) GROUP BY grp";
        let query = statement(combs, sql, &[("rides", "Parquet", "rides")]);
        // The second query shares the threads of the first.
        let (one, other) =
            tokio::join!(ask_fuse(&fuse, &query, dir.path(), &sets), ask_fuse(&fuse, &query, dir.path(), &sets));
        for answer in [one.unwrap(), other.unwrap()] {
            assert_eq!(sorted_text(&answer.rows), ["cash | 3", "credit | 3", "dispute | 3"]);
            assert_eq!((answer.reruns, answer.summary.retries), (0, 0), "{combs} combs");
        }
    }
}
