//! The session in which statements are planned: Buzz's functions and rules, and the window functions of streams.

use buzz_plan::dialect;
use buzz_protocol::{Overflow, Result};
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::window::functions;

pub(super) fn session(parallelism: usize, overflow: Overflow) -> Result<SessionContext> {
    let mut config = SessionConfig::new().with_target_partitions(parallelism.max(2)).with_batch_size(8192);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    // The schemas of partial aggregates differ from the logical ones in nullability.
    options.execution.skip_physical_aggregate_schema_check = true;
    // Filters that depend on rows of another operator would be kept between epochs.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    let context = SessionContext::new_with_state(dialect::session(config, overflow)?);
    // It plans DISTINCT aggregates as two aggregates, whose partial state is not one row per group.
    context.remove_optimizer_rule("single_distinct_aggregation_to_group_by");
    // They move the reading of struct fields into scans, which gains nothing here, and fail on columns that an alias
    // renames.
    context.remove_optimizer_rule("extract_leaf_expressions");
    context.remove_optimizer_rule("push_down_leaf_projections");
    for function in functions() {
        context.register_udf(function);
    }
    Ok(context)
}
