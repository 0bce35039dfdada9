//! Evaluates conditions on partition columns while planning.
//!
//! Such a condition passes all rows of a file or none. The scan below it is replaced by a scan of a table with the
//! files that pass, and the condition is removed. The statistics of these files then describe exactly the requested
//! rows. If they are exact, they answer `COUNT`, `MIN` and `MAX` without reading a file. Joins are planned by the
//! remaining bytes.

use std::sync::Arc;

use buzz_catalog::Table;
use buzz_protocol::{QueryError, Result};
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Filter, LogicalPlan};

use crate::prune;
use crate::standard::conjunction;
use crate::table::FileTable;
use crate::trees::PlanTree;

/// Removes conditions that refer to partition columns only from directly above the scans of `plan`, which is optimized.
/// Appends the remaining tables to `tables`; the position of a table is the number in its scans.
///
/// # Errors
/// `Internal` when the plan cannot be rebuilt.
pub(crate) fn narrowed(state: &SessionState, plan: LogicalPlan, tables: &mut Vec<Arc<Table>>) -> Result<LogicalPlan> {
    Ok(plan.rewrite_all_up(&mut |node| narrowed_scan(state, node, tables))?.data)
}

fn narrowed_scan(
    state: &SessionState,
    node: LogicalPlan,
    tables: &mut Vec<Arc<Table>>,
) -> DataFusionResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(filter) = &node else {
        return Ok(Transformed::no(node));
    };
    let scan = match filter.input.as_ref() {
        // With a limit, the scan would have to return the first rows of all files.
        LogicalPlan::TableScan(scan) if scan.fetch.is_none() => scan,
        _ => return Ok(Transformed::no(node)),
    };
    let provider = source_as_provider(&scan.source)?;
    let Some(table) = provider.downcast_ref::<FileTable>().map(FileTable::table) else {
        return Ok(Transformed::no(node));
    };
    let conditions = split_conjunction_owned(filter.predicate.clone());
    let (decided, others): (Vec<_>, Vec<_>) =
        conditions.into_iter().partition(|condition| prune::is_of_partitions(&table, condition));
    if decided.is_empty() {
        return Ok(Transformed::no(node));
    }
    // A condition that cannot be evaluated fails when the query runs.
    let Ok(files) = prune::by_conditions(state, &table, table.files.clone(), decided) else {
        return Ok(Transformed::no(node));
    };
    let left = Arc::new(table.only(files).map_err(QueryError::into_datafusion)?);
    tables.push(Arc::clone(&left));
    let mut scan = scan.clone();
    scan.source = provider_as_source(Arc::new(FileTable::for_cut(left, tables.len() - 1)));
    scan.filters.retain(|condition| !prune::is_of_partitions(&table, condition));
    let scan = LogicalPlan::TableScan(scan);
    Ok(Transformed::yes(match conjunction(others) {
        Some(predicate) => LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(scan))?),
        None => scan,
    }))
}
