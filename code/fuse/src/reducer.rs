//! Chooses the reducer of a run, combs or Fuse itself, by the expected number of rows and the combs that are running.

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

/// Bytes of files up to which a stage's rows are expected to fit in Fuse, even without an aggregate.
const LITTLE_BYTES: u64 = 8 << 20;

/// The reducer of one run of a query.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// Fuse; combs may take over if the rows do not fit.
    Fuse {
        /// True if combs may take over.
        or_combs: bool,
    },
    /// These combs.
    Combs(Vec<CombAddress>),
}

impl Choice {
    /// Returns the combs that reduce; empty for Fuse.
    pub(crate) fn combs(&self) -> &[CombAddress] {
        match self {
            Self::Fuse { .. } => &[],
            Self::Combs(combs) => combs,
        }
    }
}

/// Chooses the reducer of the first run of `plan`.
///
/// # Errors
/// `Unavailable` when combs are needed and none can be started.
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
                Err(error) => tracing::warn!(%error, "failed to list the running combs"),
            }
            // Decoding a scan requires the store that it reads.
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

/// Returns combs that are ready, starting them if necessary.
///
/// # Errors
/// `Unavailable` when fewer combs are ready than the plan requires.
pub(crate) async fn combs(fuse: &Fuse, plan: &QueryPlan) -> Result<Choice> {
    fuse.combs.ready(plan.comb_count).await.map(Choice::Combs)
}

/// Returns true if each task is expected to return few rows: it aggregates, has a limit, or the stage reads at most
/// [`LITTLE_BYTES`].
fn expects_little(stage: &MapStage, ctx: &TaskContext) -> bool {
    if stage.bytes() <= LITTLE_BYTES {
        return true;
    }
    // A wrong guess costs time, never rows: a task reports when its rows do not fit in its outcome.
    decode_fragment(&stage.fragment, ctx).is_ok_and(|plan| reduces_rows(plan.as_ref()))
}

fn reduces_rows(plan: &dyn ExecutionPlan) -> bool {
    let own = plan.fetch().is_some() || plan.downcast_ref::<AggregateExec>().is_some();
    own || match plan.children().as_slice() {
        [] => false,
        children => children.iter().all(|child| reduces_rows(child.as_ref())),
    }
}

/// Rows that Fuse keeps in case the query is rerun on combs. Then only the tasks whose rows are not kept run again.
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
    /// Creates an empty store of at most `bytes_max` bytes.
    pub(crate) fn up_to(bytes_max: u64) -> Self {
        Self { bytes_max, tasks: Mutex::default() }
    }

    /// Keeps the rows of a task that ended with `outcome` if they fit in the bound.
    pub(crate) fn keep(&self, stage: StageId, task: TaskIndex, outcome: &TaskOutcome, rows: &InlineRows) {
        let mut kept = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.bytes + outcome.bytes_delivered <= self.bytes_max {
            kept.bytes += outcome.bytes_delivered;
            kept.by_task.insert((stage, task), (outcome.clone(), rows.clone()));
        }
    }

    /// Removes and returns the kept rows of a task.
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

    /// Returns true if the plan of `sql`, encoded and decoded as a fragment, is expected to return few rows.
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
    async fn aggregates_and_limits_are_expected_to_return_few_rows() {
        assert!(few("SELECT a, COUNT(*), approx_distinct(b) FROM t GROUP BY a").await);
        assert!(few("SELECT a FROM t ORDER BY b LIMIT 10").await);
        assert!(!few("SELECT a FROM t WHERE b > 3").await);
        assert!(!few("SELECT a FROM t UNION ALL SELECT COUNT(*) FROM t").await);
    }
}
