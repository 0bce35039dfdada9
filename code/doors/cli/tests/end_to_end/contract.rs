//! Checks the contract of [`Compute`] in this process, with tasks passed as values and as JSON.

use std::sync::Arc;

use async_trait::async_trait;
use buzz_fuse::Fuse;
use buzz_host::{Compute, Host, Refused};
use buzz_local::LocalCompute;
use buzz_protocol::{HBeeTask, Result, TaskOutcome};
use buzz_testkit::check_compute;
use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::tempdir;

use crate::common::{WiredCompute, ask_fuse, host, statement};
use crate::tables::parquet_folder;

/// Records the tasks that it runs.
#[derive(Debug)]
struct Records {
    inner: Arc<LocalCompute>,
    tasks: Arc<Mutex<Vec<HBeeTask>>>,
}

#[async_trait]
impl Compute for Records {
    async fn run(&self, task: &HBeeTask, refused: Refused<'_>) -> Result<TaskOutcome> {
        self.tasks.lock().push(task.clone());
        self.inner.run(task, refused).await
    }

    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }

    fn tasks_min(&self) -> usize {
        self.inner.tasks_min()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compute_of_this_process_keeps_the_contract() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 100);
    let host = host(&["reducer=inline"]);
    let tasks = Arc::default();
    let compute = Arc::new(Records { inner: Arc::clone(&host.compute), tasks: Arc::clone(&tasks) });
    let query = statement(1, "SELECT grp, COUNT(*) FROM rides GROUP BY grp", &[("rides", "Parquet", "rides")]);
    let fuse = Fuse::new(Host { compute, ..host.host() });
    ask_fuse(&fuse, &query, dir.path(), &["reducer=inline"]).await.unwrap();

    let works = tasks.lock()[0].clone();
    let fails = HBeeTask { fragment: Bytes::from_static(b"no plan"), ..works.clone() };
    check_compute(host.compute.as_ref(), &works, &fails).await;
    check_compute(&WiredCompute(Arc::clone(&host.compute)), &works, &fails).await;
}
