//! Who reduces a query: combs, or Fuse itself. Decided when it runs, by what it expects and by what is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use buzz_protocol::plan::decode_fragment;
use buzz_protocol::{CombAddress, InlineRows, ReducerChoice, Result, StageId, TaskIndex, TaskOutcome};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

use crate::plan::{MapStage, Reducer};
use crate::{Fuse, QueryPlan};

/// Bytes of files from which even all rows together are little.
const LITTLE_BYTES: u64 = 8 << 20;

/// Who reduces one run of a query.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// Fuse; if the rows turn out to be too many for it, combs may take over.
    Fuse {
        /// Whether they may.
        or_combs: bool,
    },
    /// These combs.
    Combs(Vec<CombAddress>),
}

impl Choice {
    /// The combs that reduce.
    pub(crate) fn combs(&self) -> &[CombAddress] {
        match self {
            Self::Fuse { .. } => &[],
            Self::Combs(combs) => combs,
        }
    }
}

/// Chooses for the first run of `plan`.
///
/// # Errors
/// `Unavailable` when combs are needed and there are none.
pub(crate) async fn choose(fuse: &Fuse, plan: &QueryPlan) -> Result<Choice> {
    if let Reducer::Fuse { .. } = plan.reducer {
        return Ok(Choice::Fuse { or_combs: false });
    }
    match plan.options.reducer {
        ReducerChoice::Inline => Ok(Choice::Fuse { or_combs: false }),
        ReducerChoice::Comb => combs(fuse, plan).await,
        ReducerChoice::Auto => {
            match fuse.combs.warm(plan.comb_count).await {
                Ok(mut warm) if warm.len() >= plan.comb_count => {
                    warm.truncate(plan.comb_count);
                    return Ok(Choice::Combs(warm));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "whether there are combs cannot be found out"),
            }
            // A scan cannot be decoded without the store that it reads.
            let registry = Arc::clone(&fuse.storage) as Arc<dyn ObjectStoreRegistry>;
            let runtime = RuntimeEnvBuilder::new().with_object_store_registry(registry).build_arc()?;
            let state = SessionStateBuilder::new().with_default_features().with_runtime_env(runtime).build();
            let ctx = state.task_ctx();
            if plan.stages.iter().all(|stage| expects_little(stage, &ctx)) {
                return Ok(Choice::Fuse { or_combs: true });
            }
            combs(fuse, plan).await
        }
    }
}

/// Combs, started if they are not there.
///
/// # Errors
/// `Unavailable` when there are none.
pub(crate) async fn combs(fuse: &Fuse, plan: &QueryPlan) -> Result<Choice> {
    fuse.combs.ready(plan.comb_count).await.map(Choice::Combs)
}

/// Whether few rows are expected of each task: it aggregates or takes the first few, or there is little to read.
fn expects_little(stage: &MapStage, ctx: &TaskContext) -> bool {
    if stage.bytes() <= LITTLE_BYTES {
        return true;
    }
    // A wrong guess costs time, never rows: what does not fit an outcome says so.
    decode_fragment(&stage.fragment, ctx).is_ok_and(|plan| reduces_rows(plan.as_ref()))
}

fn reduces_rows(plan: &dyn ExecutionPlan) -> bool {
    let own = plan.fetch().is_some() || plan.downcast_ref::<AggregateExec>().is_some();
    own || match plan.children().as_slice() {
        [] => false,
        children => children.iter().all(|child| reduces_rows(child.as_ref())),
    }
}

/// Rows that tasks answered to Fuse, in case the query goes on with combs: then only the tasks whose rows did not fit
/// run again.
#[derive(Debug)]
pub(crate) struct Kept {
    bytes_max: u64,
    tasks: Mutex<KeptTasks>,
}

#[derive(Debug, Default)]
struct KeptTasks {
    by_task: HashMap<(StageId, TaskIndex), (TaskOutcome, InlineRows)>,
    bytes: u64,
}

impl Kept {
    /// None yet, and later at most `bytes_max`.
    pub(crate) fn up_to(bytes_max: u64) -> Self {
        Self { bytes_max, tasks: Mutex::default() }
    }

    /// Keeps the rows of a task that ended with `outcome`, as long as there is room; a task that is not kept runs again.
    pub(crate) fn keep(&self, stage: StageId, task: TaskIndex, outcome: &TaskOutcome, rows: &InlineRows) {
        let mut kept = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.bytes + outcome.bytes_delivered <= self.bytes_max {
            kept.bytes += outcome.bytes_delivered;
            kept.by_task.insert((stage, task), (outcome.clone(), rows.clone()));
        }
    }

    /// What was kept of a task, once.
    pub(crate) fn take(&self, stage: StageId, task: TaskIndex) -> Option<(TaskOutcome, InlineRows)> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).by_task.remove(&(stage, task))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::empty::EmptyTable;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// Whether the plan of `sql`, as a fragment is encoded and decoded, is expected to give few rows.
    async fn few(sql: &str) -> bool {
        let ctx = SessionContext::new();
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let table = EmptyTable::new(Arc::new(Schema::new(vec![field("a"), field("b")])));
        ctx.register_table("t", Arc::new(table)).unwrap();
        let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let bytes = buzz_protocol::plan::encode_fragment(plan).unwrap();
        let decoding = SessionStateBuilder::new().with_default_features().build().task_ctx();
        reduces_rows(decode_fragment(&bytes, &decoding).unwrap().as_ref())
    }

    #[tokio::test]
    async fn aggregates_and_first_rows_are_few() {
        assert!(few("SELECT a, COUNT(*), approx_distinct(b) FROM t GROUP BY a").await);
        assert!(few("SELECT a FROM t ORDER BY b LIMIT 10").await);
        assert!(!few("SELECT a FROM t WHERE b > 3").await);
        assert!(!few("SELECT a FROM t UNION ALL SELECT COUNT(*) FROM t").await);
    }
}
