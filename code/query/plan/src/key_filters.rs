//! Filters the rows below an aggregate by the keys of a small table that its groups are joined with later.
//!
//! `(SELECT AVG(l_quantity) FROM lineitem WHERE l_partkey = p_partkey)` is planned as the averages of all parts, joined
//! with the few parts that the statement selects. With the keys of these parts as a semi join below the aggregate, each
//! task aggregates their rows only.

use std::sync::Arc;

use arrow::datatypes::DataType;
use buzz_protocol::{KeyFilters, Options, Result};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, JoinType, NullEquality};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{
    Aggregate, Expr, Join, JoinConstraint, LogicalPlan, Projection, SubqueryAlias, TableScan,
};
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::optimize_projections::OptimizeProjections;

use crate::cut::CutRules;
use crate::join_order::{distinct_of_key, rows, stored_rows};
use crate::table::FileTable;
use crate::trees::Tree;

/// The share of an aggregate's rows that must at least be expected to go.
const GAIN: f64 = 0.8;

/// Maximum of the estimated bytes of the keys. The planner makes tasks read a build side up to it.
const KEY_BYTES_MAX: f64 = (1 << 20) as f64;

/// The planner's own estimate of the rows that pass a filter, if it knows nothing of it.
const PLANNERS_SHARE: f64 = 0.2;

/// Adds semi joins with keys below the aggregates of `plan`, which is optimized, unless the option `key_filters` forbids it.
///
/// # Errors
/// `Internal` if the plan cannot be rebuilt.
pub(crate) fn keys_filtered(
    state: &SessionState,
    plan: LogicalPlan,
    options: &Options,
    rules: &CutRules,
) -> Result<LogicalPlan> {
    if options.key_filters == KeyFilters::None {
        return Ok(plan);
    }
    let mut filters = Filters { rules, made: 0 };
    let filtered = plan.rewrite_up(&mut |node| match node {
        LogicalPlan::Join(join) => filters.join(join),
        node => Ok(Transformed::no(node)),
    })?;
    if !filtered.transformed {
        return Ok(filtered.data);
    }
    let projections = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
    Ok(projections.optimize(filtered.data, state, |_, _| {})?)
}

struct Filters<'a> {
    rules: &'a CutRules,
    /// Number of keys so far, for their names.
    made: usize,
}

/// A filtered table, and its column that has the keys.
struct Keys<'a> {
    table: &'a LogicalPlan,
    column: Column,
}

impl Filters<'_> {
    /// Filters the aggregates that are the inputs of `join`.
    fn join(&mut self, mut join: Join) -> DataFusionResult<Transformed<LogicalPlan>> {
        let (mut left, mut right) = (None, None);
        if join.null_equality == NullEquality::NullEqualsNothing && !join.null_aware {
            use JoinType::{Inner, Left, LeftAnti, LeftMark, LeftSemi};
            for (outer, inner) in &join.on {
                let (Expr::Column(outer), Expr::Column(inner)) = (outer, inner) else { continue };
                if right.is_none() && matches!(join.join_type, Inner | Left | LeftSemi | LeftAnti | LeftMark) {
                    right = self.side(&join.right, inner, &join.left, outer)?;
                }
                if left.is_none() && right.is_none() && join.join_type == Inner {
                    left = self.side(&join.left, outer, &join.right, inner)?;
                }
            }
        }
        let changed = left.is_some() || right.is_some();
        join.left = left.map_or(join.left, Arc::new);
        join.right = right.map_or(join.right, Arc::new);
        Ok(Transformed::new_transformed(LogicalPlan::Join(join), changed))
    }

    /// Returns `side` with a semi join below its aggregate, if `other`, to which it is joined, has few values of `key`.
    /// `column` of `side` is equal to `key`.
    fn side(
        &mut self,
        side: &LogicalPlan,
        column: &Column,
        other: &LogicalPlan,
        key: &Column,
    ) -> DataFusionResult<Option<LogicalPlan>> {
        let Some((aggregate, group)) = aggregate_of(side, column) else { return Ok(None) };
        let Some(scan) = scan_of(&aggregate.input, &group) else { return Ok(None) };
        let mut found = Vec::new();
        keys_of(other, vec![key.clone()], &mut found);
        found.retain(|keys| self.pays(keys, aggregate, &group, scan));
        let share = |keys: &Keys<'_>| self.kept(keys).unwrap_or(1.0);
        let Some(keys) = found.iter().min_by(|a, b| share(a).total_cmp(&share(b))) else { return Ok(None) };
        self.made += 1;
        let column = Expr::Column(keys.column.clone());
        let only = Projection::try_new(vec![column], Arc::new(keys.table.clone()))?;
        let name = format!("buzz_keys_{}", self.made);
        let named = SubqueryAlias::try_new(Arc::new(LogicalPlan::Projection(only)), name.as_str())?;
        let on = vec![(Expr::Column(Column::new(Some(name), keys.column.name())), Expr::Column(group))];
        let semi = Join::try_new(
            Arc::new(LogicalPlan::SubqueryAlias(named)),
            Arc::clone(&aggregate.input),
            on,
            None,
            JoinType::RightSemi,
            JoinConstraint::On,
            NullEquality::NullEqualsNothing,
            false,
        )?;
        Ok(Some(with_input(side, LogicalPlan::Join(semi))?))
    }

    /// Checks if the semi join with `keys` removes most rows of `aggregate`, and if each task over `scan` can read the table
    /// of the keys. Otherwise the rows of `scan` would be delivered instead of those of the aggregate.
    fn pays(&self, keys: &Keys<'_>, aggregate: &Aggregate, group: &Column, scan: &TableScan) -> bool {
        let tables = keys_scan(keys.table).and_then(table_number).zip(table_number(scan));
        let affordable = tables.is_some_and(|(build, probe)| self.rules.affords_table(build, probe));
        let kept = self.kept(keys).is_some_and(|kept| kept <= 1.0 - GAIN);
        let small = rows(keys.table).zip(stored_rows(keys.table)).is_some_and(|(rows, stored)| {
            let width = 8.0;
            rows.max(stored * PLANNERS_SHARE) * width < KEY_BYTES_MAX
        });
        affordable && kept && small && same_type(keys, &aggregate.input, group)
    }

    /// Returns the estimated share of all keys that `keys` has.
    fn kept(&self, keys: &Keys<'_>) -> Option<f64> {
        let key = Expr::Column(keys.column.clone());
        let distinct = distinct_of_key(keys.table, &key).or_else(|| stored_rows(keys.table))?;
        Some(rows(keys.table)? / distinct.max(1.0))
    }
}

/// Checks if both columns have one type whose equal values are one group. Of doubles, zeros and NaN differ.
fn same_type(keys: &Keys<'_>, input: &LogicalPlan, group: &Column) -> bool {
    let type_of = |plan: &LogicalPlan, column: &Column| {
        let index = plan.schema().maybe_index_of_column(column)?;
        Some(plan.schema().field(index).data_type().clone())
    };
    let of_keys = type_of(keys.table, &keys.column);
    let plain = of_keys.as_ref().is_some_and(|kind| {
        kind.is_integer() || kind.is_string() || matches!(kind, DataType::Date32 | DataType::Date64)
    });
    plain && of_keys == type_of(input, group)
}

/// Returns the aggregate that `plan` is, below projections and conditions, and its group column that is `column`.
fn aggregate_of<'a>(plan: &'a LogicalPlan, column: &Column) -> Option<(&'a Aggregate, Column)> {
    let index = plan.schema().maybe_index_of_column(column)?;
    match plan {
        LogicalPlan::Aggregate(aggregate) => match aggregate.group_expr.get(index)? {
            Expr::Column(group) => Some((aggregate, group.clone())),
            _ => None,
        },
        LogicalPlan::Filter(_) | LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {
            aggregate_of(plan.inputs().first()?, &below(plan, column)?)
        }
        _ => None,
    }
}

/// Returns `plan`, as [`aggregate_of`] takes it, with `input` below its aggregate.
fn with_input(plan: &LogicalPlan, input: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let input = match plan {
        LogicalPlan::Aggregate(_) => input,
        other => match other.inputs().as_slice() {
            [child] => with_input(child, input)?,
            _ => input,
        },
    };
    plan.with_new_exprs(plan.expressions(), vec![input])
}

/// Returns the scan from which `column` of `plan` comes, through operators that keep or drop rows.
fn scan_of<'a>(plan: &'a LogicalPlan, column: &Column) -> Option<&'a TableScan> {
    match plan {
        LogicalPlan::TableScan(scan) => Some(scan),
        LogicalPlan::Filter(_) | LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {
            scan_of(plan.inputs().first()?, &below(plan, column)?)
        }
        LogicalPlan::Join(join) if join.join_type == JoinType::Inner => {
            let side = [&join.left, &join.right].into_iter().find(|side| has(side, column))?;
            scan_of(side, column)
        }
        _ => None,
    }
}

/// Appends to `found` the filtered tables below `plan` that have all values of one of `columns`, which are equal in every
/// row of `plan`.
fn keys_of<'a>(plan: &'a LogicalPlan, mut columns: Vec<Column>, found: &mut Vec<Keys<'a>>) {
    columns.retain(|column| has(plan, column));
    if columns.is_empty() {
        return;
    }
    if keys_scan(plan).is_some() {
        found.extend(columns.into_iter().map(|column| Keys { table: plan, column }));
        return;
    }
    match plan {
        LogicalPlan::Join(join) => {
            use JoinType::{Inner, Left, LeftAnti, LeftMark, LeftSemi};
            if !matches!(join.join_type, Inner | Left | LeftSemi | LeftAnti | LeftMark) {
                return;
            }
            let (mut left, mut right): (Vec<_>, Vec<_>) =
                columns.into_iter().partition(|column| has(&join.left, column));
            if !matches!(join.join_type, Inner | LeftSemi) || join.null_equality != NullEquality::NullEqualsNothing {
                return keys_of(&join.left, left, found);
            }
            for (of_left, of_right) in &join.on {
                let (Expr::Column(of_left), Expr::Column(of_right)) = (of_left, of_right) else { continue };
                if left.contains(of_left) {
                    right.push(of_right.clone());
                } else if right.contains(of_right) {
                    left.push(of_left.clone());
                }
            }
            keys_of(&join.left, left, found);
            keys_of(&join.right, right, found);
        }
        LogicalPlan::Filter(_) | LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Sort(_) => {
            if let Some(input) = plan.inputs().first() {
                keys_of(input, columns.iter().filter_map(|column| below(plan, column)).collect(), found);
            }
        }
        _ => {}
    }
}

/// Returns the scan of `plan`, if it is a table of files with a filter that is the same wherever it runs.
fn keys_scan(plan: &LogicalPlan) -> Option<&TableScan> {
    fn scan<'a>(plan: &'a LogicalPlan, filtered: &mut bool) -> Option<&'a TableScan> {
        match plan {
            LogicalPlan::TableScan(scan) => scan.fetch.is_none().then_some(scan),
            LogicalPlan::Filter(filter) if !filter.predicate.is_volatile() => {
                *filtered = true;
                scan(&filter.input, filtered)
            }
            LogicalPlan::Projection(projection) if !projection.expr.iter().any(Expr::is_volatile) => {
                scan(&projection.input, filtered)
            }
            LogicalPlan::SubqueryAlias(alias) => scan(&alias.input, filtered),
            _ => None,
        }
    }
    let mut filtered = false;
    scan(plan, &mut filtered).filter(|_| filtered)
}

/// Returns the column of the input of `plan` that is its `column`. `None` if it is computed.
fn below(plan: &LogicalPlan, column: &Column) -> Option<Column> {
    let index = plan.schema().maybe_index_of_column(column)?;
    match plan {
        LogicalPlan::Projection(projection) => match projection.expr.get(index)? {
            Expr::Column(column) => Some(column.clone()),
            Expr::Alias(alias) => match alias.expr.as_ref() {
                Expr::Column(column) => Some(column.clone()),
                _ => None,
            },
            _ => None,
        },
        LogicalPlan::SubqueryAlias(alias) => Some(Column::from(alias.input.schema().qualified_field(index))),
        _ => Some(column.clone()),
    }
}

fn has(plan: &LogicalPlan, column: &Column) -> bool {
    plan.schema().maybe_index_of_column(column).is_some()
}

fn table_number(scan: &TableScan) -> Option<usize> {
    source_as_provider(&scan.source).ok()?.downcast_ref::<FileTable>()?.number()
}
