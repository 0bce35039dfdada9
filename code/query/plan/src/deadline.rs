//! Ends planning when the time of the query is over.
//!
//! Planning does not wait for anything, so nothing else can stop it. The time that some rules take grows with the square of a
//! statement's length: 3,000 operators in one chain took 23 s in a debug build.

use std::sync::Arc;
use std::time::Duration;

use buzz_protocol::{Options, QueryError};
use chrono::{DateTime, Utc};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

/// Rules of the planner after which the time is checked again. It checks the whole plan after each rule.
const RULES: usize = 4;

/// Returns `state` with rules that fail with `Limit` when the query, which began at `start`, has taken its time: one before each few
/// rules of `state`.
pub(crate) fn within_time(state: SessionState, options: &Options, start: DateTime<Utc>) -> SessionState {
    let deadline = Arc::new(Deadline { start, timeout: options.timeout() });
    let check: Arc<dyn AnalyzerRule + Send + Sync> = Arc::clone(&deadline) as _;
    let analyzer = between(&state.analyzer().rules, &check);
    let check: Arc<dyn OptimizerRule + Send + Sync> = Arc::clone(&deadline) as _;
    let optimizer = between(state.optimizers(), &check);
    let check: Arc<dyn PhysicalOptimizerRule + Send + Sync> = deadline;
    let physical = between(state.physical_optimizers(), &check);
    SessionStateBuilder::new_from_existing(state)
        .with_analyzer_rules(analyzer)
        .with_optimizer_rules(optimizer)
        .with_physical_optimizer_rules(physical)
        .build()
}

/// Returns `rules` with `check` before the first, and after each few of them.
fn between<Rule: ?Sized>(rules: &[Arc<Rule>], check: &Arc<Rule>) -> Vec<Arc<Rule>> {
    let parts = rules.chunks(RULES);
    parts.flat_map(|part| std::iter::once(Arc::clone(check)).chain(part.iter().cloned())).collect()
}

#[derive(Debug)]
struct Deadline {
    start: DateTime<Utc>,
    timeout: Duration,
}

impl Deadline {
    fn check(&self) -> Result<()> {
        match (DateTime::<Utc>::from(buzz_protocol::now()) - self.start).to_std() {
            Ok(taken) if taken > self.timeout => {
                let seconds = self.timeout.as_secs();
                Err(QueryError::limit(format!(
                    "the query took more than {seconds} seconds while it was planned; shorten its SQL or raise the option \
                     `timeout_seconds`"
                ))
                .into_datafusion())
            }
            _ => Ok(()),
        }
    }
}

impl AnalyzerRule for Deadline {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        self.check().map(|()| plan)
    }

    fn name(&self) -> &'static str {
        "deadline"
    }
}

impl OptimizerRule for Deadline {
    fn name(&self) -> &'static str {
        "deadline"
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        self.check().map(|()| Transformed::no(plan))
    }
}

impl PhysicalOptimizerRule for Deadline {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        self.check().map(|()| plan)
    }

    fn name(&self) -> &'static str {
        "deadline"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use buzz_protocol::ErrorKind;
    use datafusion::logical_expr::LogicalPlanBuilder;
    use datafusion::prelude::SessionConfig;

    use super::*;

    #[tokio::test]
    async fn planning_ends_when_the_time_of_its_query_is_over() {
        let options = Options { timeout_seconds: 60, ..Options::default() };
        let plan = LogicalPlanBuilder::empty(true).build().unwrap();
        let session = |start| {
            let state = crate::standard::session(SessionConfig::new(), &options, start, []).unwrap();
            within_time(state, &options, start)
        };
        let over = session(DateTime::from(buzz_protocol::now()) - chrono::Duration::hours(1));
        let error = QueryError::from(over.optimize(&plan).unwrap_err());
        assert!(error.kind == ErrorKind::Limit && error.message.contains("more than 60 seconds"), "{error}");
        let error = QueryError::from(over.query_planner().create_physical_plan(&plan, &over).await.unwrap_err());
        assert_eq!(error.kind, ErrorKind::Limit);
        let in_time = session(DateTime::from(buzz_protocol::now()));
        assert!(in_time.create_physical_plan(&plan).await.is_ok());
    }
}
