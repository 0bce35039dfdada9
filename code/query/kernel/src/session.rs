//! The DataFusion sessions that plan and run one query.

use std::collections::BTreeMap;
use std::sync::Arc;

use buzz_protocol::{Options, Result};
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::execution::context::ExecutionProps;
use datafusion::execution::registry::FunctionRegistry;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;

use crate::{bounded_functions, single_row};

/// Returns the DataFusion configuration, by key, that all roles of a query share.
pub fn session_options(options: &Options) -> BTreeMap<String, String> {
    let zone = options.time_zone.clone().map(|zone| ("datafusion.execution.time_zone".to_string(), zone));
    let batch_size = ("datafusion.execution.batch_size".to_string(), options.batch_size.to_string());
    zone.into_iter().chain([batch_size]).collect()
}

/// Returns the configuration for plans of `partitions` partitions. Dynamic filters are disabled while planning: a
/// filter that is updated during the run must be created in the process that runs it.
pub fn planning_config(options: &Options, partitions: usize) -> Result<SessionConfig> {
    let mut config = SessionConfig::new().with_target_partitions(partitions).with_information_schema(false);
    for (key, value) in session_options(options) {
        config.options_mut().set(&key, &value)?;
    }
    config.options_mut().set("datafusion.optimizer.enable_dynamic_filter_pushdown", "false")?;
    // Otherwise scalar subqueries become nodes that datafusion-distributed cannot cut.
    config.options_mut().optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    // A top-k below the exchange of a window's keys drops rows that the window reads: wrong rows with several combs.
    config.options_mut().optimizer.enable_topk_repartition = false;
    // Plans also lose the nullability of columns below a UNION. Allowing nulls that never occur is harmless.
    config.options_mut().execution.skip_physical_aggregate_schema_check = true;
    // Fuse divides the files; the planner has none.
    config.options_mut().optimizer.repartition_file_scans = false;
    Ok(config)
}

/// Creates a session with `tables` only, in which `now()` is `start`.
pub fn session<'a>(
    config: SessionConfig,
    start: DateTime<Utc>,
    tables: impl IntoIterator<Item = (&'a str, Arc<dyn TableProvider>)>,
) -> Result<SessionState> {
    let props = ExecutionProps::new().with_query_execution_start_time(start);
    let mut state =
        SessionStateBuilder::new().with_default_features().with_config(config).with_execution_props(props).build();
    state.register_udf(single_row())?;
    for function in bounded_functions() {
        state.register_udf(function)?;
    }
    for (name, table) in tables {
        let reference = TableReference::bare(name);
        state.schema_for_ref(reference)?.register_table(name.to_string(), table)?;
    }
    Ok(state)
}
