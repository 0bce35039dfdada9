//! Estimates rows and distinct values of logical plans from the statistics of their tables.

use datafusion::common::{Column, ColumnStatistics, JoinType};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, FetchType, Join, Limit, LogicalPlan, TableScan};

use super::selectivity::{distinct_values, share};
use crate::table::FileTable;

/// Estimated share of the left rows that a semi or anti join returns.
const SEMI: f64 = 0.5;

/// Statistics of a column, as its table has them.
pub(super) struct ColumnFacts {
    pub(super) statistics: ColumnStatistics,
    /// Rows of the table.
    pub(super) rows: f64,
}

/// Returns the estimated rows of `plan`. `None` if the rows of a table are not known.
pub(crate) fn rows(plan: &LogicalPlan) -> Option<f64> {
    Some(match plan {
        LogicalPlan::TableScan(scan) => fetched(table_rows(scan)?, scan.fetch),
        LogicalPlan::Filter(filter) => (rows(&filter.input)? * share(&filter.predicate, &filter.input)).max(1.0),
        LogicalPlan::Limit(limit) => limited(limit)?,
        LogicalPlan::Sort(sort) => fetched(rows(&sort.input)?, sort.fetch),
        LogicalPlan::Aggregate(aggregate) => groups(aggregate)?,
        LogicalPlan::Distinct(Distinct::All(input)) => rows(input)?,
        LogicalPlan::Join(join) => joined(join)?,
        LogicalPlan::Union(union) => union.inputs.iter().map(|input| rows(input)).sum::<Option<f64>>()?,
        LogicalPlan::Values(values) => values.values.len() as f64,
        LogicalPlan::EmptyRelation(_) => 1.0,
        LogicalPlan::Projection(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Repartition(_) => rows(plan.inputs().first()?)?,
        _ => return None,
    })
}

/// Returns the estimated rows of `plan` without the filters that are directly above a table.
pub(crate) fn stored_rows(plan: &LogicalPlan) -> Option<f64> {
    match plan {
        LogicalPlan::Filter(filter) => stored_rows(&filter.input),
        LogicalPlan::Projection(projection) => stored_rows(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => stored_rows(&alias.input),
        LogicalPlan::TableScan(scan) => table_rows(scan),
        other => rows(other),
    }
}

/// Returns the number of distinct values that `key` has in the table of its column, before any filter. `None` if it is
/// not of one column of a table, or not known.
pub(crate) fn distinct_of_key(plan: &LogicalPlan, key: &Expr) -> Option<f64> {
    let facts = column_of(plan, key)?;
    distinct_values(&facts)
}

/// Returns the facts about the column that `expression` is, also below casts.
pub(super) fn column_of(plan: &LogicalPlan, mut expression: &Expr) -> Option<ColumnFacts> {
    loop {
        match expression {
            Expr::Cast(cast) => expression = &cast.expr,
            Expr::Alias(alias) => expression = &alias.expr,
            Expr::Column(column) => return facts(plan, column),
            _ => return None,
        }
    }
}

fn facts(plan: &LogicalPlan, column: &Column) -> Option<ColumnFacts> {
    facts_at(plan, plan.schema().maybe_index_of_column(column)?)
}

/// Returns the facts about the column of `plan` at `index`.
fn facts_at(plan: &LogicalPlan, index: usize) -> Option<ColumnFacts> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source).ok()?;
            let table = provider.downcast_ref::<FileTable>()?;
            let statistics = table.column_statistics(scan.projected_schema.field(index).name())?;
            Some(ColumnFacts { statistics, rows: table_rows(scan)? })
        }
        LogicalPlan::Projection(projection) => column_of(&projection.input, projection.expr.get(index)?),
        LogicalPlan::Aggregate(aggregate) => column_of(&aggregate.input, aggregate.group_expr.get(index)?),
        LogicalPlan::Join(join) => {
            let left = join.left.schema().fields().len();
            match join.join_type {
                JoinType::RightSemi | JoinType::RightAnti => facts_at(&join.right, index),
                _ if index < left => facts_at(&join.left, index),
                JoinType::LeftMark => None,
                _ => facts_at(&join.right, index - left),
            }
        }
        LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Distinct(Distinct::All(_)) => facts_at(plan.inputs().first()?, index),
        _ => None,
    }
}

fn table_rows(scan: &TableScan) -> Option<f64> {
    let provider = source_as_provider(&scan.source).ok()?;
    let rows = provider.downcast_ref::<FileTable>()?.row_count()?;
    Some((rows as f64).max(1.0))
}

fn fetched(rows: f64, fetch: Option<usize>) -> f64 {
    fetch.map_or(rows, |fetch| rows.min(fetch as f64))
}

fn limited(limit: &Limit) -> Option<f64> {
    let fetch = match limit.get_fetch_type() {
        Ok(FetchType::Literal(fetch)) => fetch,
        _ => None,
    };
    Some(fetched(rows(&limit.input)?, fetch))
}

/// Returns the estimated number of groups: the combinations of the keys' values, but at most the input's rows.
fn groups(aggregate: &Aggregate) -> Option<f64> {
    let input = rows(&aggregate.input)?;
    let distinct = |key: &Expr| distinct_of_key(&aggregate.input, key).unwrap_or(input);
    Some(aggregate.group_expr.iter().map(distinct).product::<f64>().min(input).max(1.0))
}

fn joined(join: &Join) -> Option<f64> {
    let (left, right) = (rows(&join.left)?, rows(&join.right)?);
    let distinct = |(l, r): &(Expr, Expr)| {
        let left = distinct_of_key(&join.left, l).unwrap_or(left);
        left.max(distinct_of_key(&join.right, r).unwrap_or(right))
    };
    let stored = stored_rows(&join.left)?.max(stored_rows(&join.right)?).max(1.0);
    let keys = join.on.iter().map(distinct).product::<f64>().min(stored).max(1.0);
    let inner = (left * right / keys).max(1.0);
    Some(match join.join_type {
        JoinType::Inner => inner,
        JoinType::Left => inner.max(left),
        JoinType::Right => inner.max(right),
        JoinType::Full => inner.max(left + right),
        JoinType::LeftSemi if !join.on.is_empty() => inner.min(left),
        JoinType::RightSemi if !join.on.is_empty() => inner.min(right),
        JoinType::LeftSemi | JoinType::LeftAnti => left * SEMI,
        JoinType::RightSemi | JoinType::RightAnti => right * SEMI,
        JoinType::LeftMark => left,
        JoinType::RightMark => right,
    })
}
