//! Fragments whose rows can be kept for later queries: partial aggregates.

use std::sync::Arc;

use buzz_protocol::Result;
use datafusion::common::Statistics;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::projection::ProjectionExec;

use crate::trees::Tree;

/// Checks if `plan` returns partial aggregates, which are few rows.
pub(crate) fn ends_with_partial(plan: &dyn ExecutionPlan) -> bool {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return *aggregate.mode() == AggregateMode::Partial;
    }
    match plan.children().as_slice() {
        [child] if plan.downcast_ref::<ProjectionExec>().is_some() => ends_with_partial(child.as_ref()),
        _ => false,
    }
}

/// Removes the statistics of the scans in `plan`: a task does not use them, and they change when the table grows.
///
/// # Errors
/// `Internal` if an operator cannot take its changed scan.
pub(crate) fn without_statistics(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let plain = Arc::clone(plan).rewrite_up(&mut |node| {
        let source = node.downcast_ref::<DataSourceExec>();
        let Some(scan) = source.and_then(|source| source.data_source().downcast_ref::<FileScanConfig>()) else {
            return Ok(Transformed::no(node));
        };
        let unknown = Statistics::new_unknown(scan.file_source().table_schema().table_schema());
        let config = FileScanConfigBuilder::from(scan.clone()).with_statistics(unknown).build();
        Ok(Transformed::yes(DataSourceExec::from_data_source(config) as Arc<dyn ExecutionPlan>))
    });
    Ok(plain.data()?)
}
