//! Correlated scalar subqueries that DataFusion refuses: those that compare with the outer query by anything but `=`
//! (`WHERE u.day <= t.day`), that refer to it outside of `WHERE`, that end with `ORDER BY … LIMIT 1`, and those that do not
//! aggregate, which are an error only if they have several rows.
//!
//! Each is computed once for every different combination of the outer values that it uses, and joined to the outer query by
//! these values:
//!
//! ```text
//! outer LEFT JOIN (SELECT used, aggregate FROM (SELECT DISTINCT used FROM outer) LEFT JOIN inner ON condition GROUP BY used)
//!       ON outer.used IS NOT DISTINCT FROM used
//! ```
//!
//! The rewrite follows Neumann and Kemper, *Unnesting Arbitrary Queries* (BTW 2015), for subqueries of one aggregate.

use std::cell::Cell;

use buzz_kernel::single_row;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, NullEquality, internal_err};
use datafusion::error::Result;
use datafusion::functions_aggregate::count::count;
use datafusion::functions_aggregate::first_last::first_value;
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, ExprSchemable, FetchType, JoinType, LogicalPlan, LogicalPlanBuilder, Operator,
    Projection, SkipType, Subquery, lit, when,
};

use super::subqueries::named;
use crate::trees::{PlanTree, Tree};

/// Joins the results of the correlated scalar subqueries in the projections and filters of `plan` that DataFusion refuses.
///
/// # Errors
/// `Plan` if the rewritten plan is inconsistent.
pub(super) fn joined(plan: LogicalPlan) -> Result<LogicalPlan> {
    let next = Cell::new(0);
    let plan = plan.rewrite_all_up(&mut |node| match node {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) => with_joins(node, &next),
        node => Ok(Transformed::no(node)),
    })?;
    Ok(plan.data)
}

/// Replaces the subqueries of `node` by columns of joins below it.
fn with_joins(node: LogicalPlan, next: &Cell<usize>) -> Result<Transformed<LogicalPlan>> {
    let inputs = node.inputs();
    let [outer] = inputs.as_slice() else { return Ok(Transformed::no(node)) };
    let outer = (*outer).clone();
    let mut found: Vec<(Subquery, Column)> = Vec::new();
    let mut input = outer.clone();
    let names = NamePreserver::new(&node);
    let columns = node.schema().columns();
    let node = node.rewrite_expressions(&mut |expression| {
        named(expression, &names, &mut |whole| {
            whole.rewrite_down(&mut |inner| {
                let Expr::ScalarSubquery(subquery) = inner else { return Ok(Transformed::no(inner)) };
                let known = found.iter().find(|(other, _)| *other == subquery).map(|(_, column)| column.clone());
                let column = match known {
                    Some(column) => column,
                    None => match Correlated::of(&subquery, &outer, next)? {
                        Some(correlated) => {
                            input = correlated.joined_to(input.clone())?;
                            found.push((subquery, correlated.value.clone()));
                            correlated.value
                        }
                        None => return Ok(Transformed::no(Expr::ScalarSubquery(subquery))),
                    },
                };
                Ok(Transformed::new(Expr::Column(column), true, TreeNodeRecursion::Jump))
            })
        })
    })?;
    if found.is_empty() {
        return Ok(node);
    }
    let node = node.data.with_new_exprs(node.data.expressions(), vec![input])?;
    let node = match node {
        LogicalPlan::Filter(_) => {
            LogicalPlanBuilder::from(node).project(columns.into_iter().map(Expr::Column))?.build()?
        }
        node => node,
    };
    Ok(Transformed::yes(node))
}

/// The results of a subquery for each combination of outer values.
struct Correlated {
    /// The columns of the outer query that it uses, and the columns with their values in `plan`.
    used: Vec<(Column, Column)>,
    /// The column of `plan` with the result.
    value: Column,
    plan: LogicalPlan,
}

impl Correlated {
    /// Computes `subquery` for the values of `outer`. `None` if DataFusion plans it, or if it has another shape.
    fn of(subquery: &Subquery, outer: &LogicalPlan, next: &Cell<usize>) -> Result<Option<Self>> {
        let mut used: Vec<Column> = Vec::new();
        for reference in &subquery.outer_ref_columns {
            let Expr::OuterReferenceColumn(_, column) = reference else { return Ok(None) };
            if !outer.schema().has_column(column) {
                return Ok(None);
            }
            if !used.contains(column) {
                used.push(column.clone());
            }
        }
        let Some(shape) = Shape::of(&subquery.subquery) else { return Ok(None) };
        if used.is_empty() || shape.is_planned() || !is_repeatable(outer)? {
            return Ok(None);
        }
        let number = next.replace(next.get() + 1);
        let used: Vec<(Column, Column)> = used
            .into_iter()
            .enumerate()
            .map(|(index, column)| (column, Column::new_unqualified(format!("buzz_outer_{number}_{index}"))))
            .collect();
        let names = Names { number, used: &used };
        let Some(results) = shape.results(names.with_rows(outer, &shape)?, &names)? else { return Ok(None) };
        let value = Column::new_unqualified(format!("buzz_correlated_{number}"));
        let result = Expr::from(results.schema().qualified_field(results.schema().fields().len() - 1));
        let columns = names.columns().chain([result.alias(&value.name)]);
        let plan = LogicalPlanBuilder::from(results).project(columns)?.build()?;
        Ok(Some(Self { used, value, plan }))
    }

    /// Adds the column with the result to `input`, whose columns include those that the subquery uses.
    fn joined_to(&self, input: LogicalPlan) -> Result<LogicalPlan> {
        let (left, right): (Vec<Column>, Vec<Column>) = self.used.iter().cloned().unzip();
        let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
        LogicalPlanBuilder::from(input)
            .join_detailed(self.plan.clone(), JoinType::Left, (left, right), None, NullEquality::NullEqualsNull)?
            .project(columns.into_iter().chain([Expr::Column(self.value.clone())]))?
            .build()
    }
}

/// The names of the columns that the rewrite adds.
struct Names<'a> {
    number: usize,
    /// The columns of the outer query and those with their values.
    used: &'a [(Column, Column)],
}

impl Names<'_> {
    /// Returns the columns with the outer values.
    fn columns(&self) -> impl Iterator<Item = Expr> + '_ {
        self.used.iter().map(|(_, column)| Expr::Column(column.clone()))
    }

    /// Returns the column that is true for rows of the subquery, and null where it has none.
    fn present(&self) -> Column {
        Column::new_unqualified(format!("buzz_present_{}", self.number))
    }

    /// Replaces the references to the outer query by the columns with its values.
    fn local(&self, expression: Expr) -> Result<Expr> {
        let replaced = expression.rewrite_up(&mut |inner| match &inner {
            Expr::OuterReferenceColumn(_, column) => {
                let local = self.used.iter().find(|(outer, _)| outer == column);
                Ok(local.map_or_else(
                    || Transformed::no(inner.clone()),
                    |(_, local)| Transformed::yes(Expr::Column(local.clone())),
                ))
            }
            _ => Ok(Transformed::no(inner)),
        })?;
        Ok(replaced.data)
    }

    /// Does the same, and computes the expression only for rows of the subquery if it refers to the outer query: it may fail
    /// for values without a row.
    fn guarded(&self, expression: Expr) -> Result<Expr> {
        let refers = expression.contains_outer() && !matches!(expression, Expr::OuterReferenceColumn(..));
        let local = self.local(expression)?;
        if refers { when(Expr::Column(self.present()), local).end() } else { Ok(local) }
    }

    /// Pairs the different outer values with the rows of the subquery for which its conditions hold.
    fn with_rows(&self, outer: &LogicalPlan, shape: &Shape<'_>) -> Result<LogicalPlan> {
        let values = self.used.iter().map(|(column, local)| Expr::Column(column.clone()).alias(&local.name));
        let values = LogicalPlanBuilder::from(outer.clone()).project(values)?.distinct()?.build()?;
        let rows = shape.rows.schema().columns().into_iter().map(Expr::Column);
        let rows = std::iter::once(lit(true).alias(self.present().name)).chain(rows);
        let rows = LogicalPlanBuilder::from(shape.rows.clone()).project(rows)?.build()?;
        let conditions = shape.conditions.iter().map(|condition| self.local((*condition).clone()));
        let mut conditions = conditions.collect::<Result<Vec<_>>>()?;
        if conditions.is_empty() {
            conditions.push(lit(true));
        }
        // An aggregate of no rows has a value. Other subqueries are null without a row, as the outer join makes them.
        let join = if matches!(shape.chosen, Chosen::Aggregate(_)) { JoinType::Left } else { JoinType::Inner };
        LogicalPlanBuilder::from(values).join_on(rows, join, conditions)?.build()
    }

    /// Returns the columns with the first `count` keys of a sort.
    fn order(&self, count: usize) -> impl Iterator<Item = Column> {
        let number = self.number;
        (0..count).map(move |index| Column::new_unqualified(format!("buzz_order_{number}_{index}")))
    }

    /// Returns the expressions of `projection` over `input`, after the columns that were added to `input`.
    fn projected(&self, projection: &Projection, input: &LogicalPlan) -> Result<Vec<Expr>> {
        let keys = self.order(input.schema().fields().len());
        let added = self.used.iter().map(|(_, column)| column.clone()).chain([self.present()]).chain(keys);
        let added = added.filter(|column| input.schema().has_column_with_unqualified_name(&column.name));
        let own = projection.expr.iter().zip(projection.schema.iter()).map(|(expression, (qualifier, field))| {
            let has_rows = input.schema().has_column_with_unqualified_name(&self.present().name);
            let local = if has_rows { self.guarded(expression.clone())? } else { self.local(expression.clone())? };
            let is_same = local == *expression;
            Ok(if is_same { local } else { local.alias_qualified(qualifier.cloned(), field.name()) })
        });
        added.map(|column| Ok(Expr::Column(column))).chain(own).collect()
    }
}

/// A subquery that can be computed for many outer rows at once.
struct Shape<'a> {
    /// The nodes from the result down to the aggregate, or to the rows that it chooses from.
    above: Vec<&'a LogicalPlan>,
    /// The projections from the aggregate down to its conditions.
    below: Vec<&'a LogicalPlan>,
    chosen: Chosen<'a>,
    /// The conditions on the rows, those that refer to the outer query among them.
    conditions: Vec<&'a Expr>,
    /// The rows, which do not refer to the outer query.
    rows: &'a LogicalPlan,
    /// It has a LIMIT or ORDER BY, of which DataFusion plans none.
    is_limited: bool,
}

/// The way in which a subquery has one row.
enum Chosen<'a> {
    /// It aggregates without GROUP BY.
    Aggregate(&'a [Expr]),
    /// It ends with LIMIT 1, with this ORDER BY.
    First(&'a [Sort]),
    /// It must not have several.
    Only,
}

impl<'a> Shape<'a> {
    fn of(plan: &'a LogicalPlan) -> Option<Self> {
        let (mut above, mut node) = (Vec::new(), plan);
        let mut is_limited = false;
        loop {
            match node {
                LogicalPlan::Projection(projection) => {
                    above.push(node);
                    node = &projection.input;
                }
                LogicalPlan::Filter(filter) if aggregates(&filter.input) => {
                    above.push(node);
                    node = &filter.input;
                }
                LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() => {
                    let (mut below, mut node) = (Vec::new(), aggregate.input.as_ref());
                    while let LogicalPlan::Projection(projection) = node {
                        below.push(node);
                        node = &projection.input;
                    }
                    let (conditions, rows) = conditions(node)?;
                    return Some(Self {
                        above,
                        below,
                        chosen: Chosen::Aggregate(&aggregate.aggr_expr),
                        conditions,
                        rows,
                        is_limited,
                    });
                }
                LogicalPlan::Limit(limit) => {
                    let fetch = match (limit.get_fetch_type(), limit.get_skip_type()) {
                        (Ok(FetchType::Literal(Some(fetch))), Ok(SkipType::Literal(0))) => fetch,
                        _ => return None,
                    };
                    if fetch == 1 && !aggregates(&limit.input) {
                        return Self::first(above, &limit.input);
                    }
                    // The one row of an aggregate is within the limit.
                    if fetch == 0 || !aggregates(&limit.input) {
                        return None;
                    }
                    is_limited = true;
                    node = &limit.input;
                }
                LogicalPlan::Sort(sort) if aggregates(&sort.input) => {
                    is_limited = true;
                    node = &sort.input;
                }
                _ => {
                    let (conditions, rows) = conditions(node)?;
                    let below = Vec::new();
                    return Some(Self { above, below, chosen: Chosen::Only, conditions, rows, is_limited });
                }
            }
        }
    }

    /// Describes a subquery whose LIMIT 1 is above `plan`.
    fn first(mut above: Vec<&'a LogicalPlan>, plan: &'a LogicalPlan) -> Option<Self> {
        let (mut node, mut order): (_, &[Sort]) = (plan, &[]);
        loop {
            match node {
                LogicalPlan::Projection(projection) => {
                    above.push(node);
                    node = &projection.input;
                }
                LogicalPlan::Sort(sort) if order.is_empty() && sort.fetch.is_none() => {
                    above.push(node);
                    order = &sort.expr;
                    node = &sort.input;
                }
                _ => {
                    let (conditions, rows) = conditions(node)?;
                    let (below, chosen) = (Vec::new(), Chosen::First(order));
                    return Some(Self { above, below, chosen, conditions, rows, is_limited: true });
                }
            }
        }
    }

    /// Checks if DataFusion turns the subquery to a join: it aggregates, and refers to the outer query only by `=` in WHERE.
    fn is_planned(&self) -> bool {
        let refers = |expression: &Expr| expression.contains_outer();
        let is_equality = |condition: &&Expr| match condition {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
                let is_side = |side: &Expr, other: &Expr| refers(side) && !side.any_column_refs() && is_column(other);
                is_side(left, right) || is_side(right, left)
            }
            _ => false,
        };
        let Chosen::Aggregate(aggregates) = self.chosen else { return false };
        let mut nodes = self.above.iter().chain(&self.below);
        let elsewhere = aggregates.iter().any(refers) || nodes.any(|node| node.contains_outer_reference());
        !self.is_limited && !elsewhere && self.conditions.iter().filter(|condition| refers(condition)).all(is_equality)
    }

    /// Computes the subquery for each combination of outer values in `rows`. Its result is the last column.
    fn results(&self, rows: LogicalPlan, names: &Names<'_>) -> Result<Option<LogicalPlan>> {
        let present = Expr::Column(names.present());
        let groups: Vec<Expr> = names.columns().collect();
        if let Chosen::Aggregate(aggregates) = self.chosen {
            let aggregates = aggregates.iter().map(|aggregate| {
                let name = aggregate.schema_name().to_string();
                let guarded = with_arguments(aggregate.clone(), |argument| names.guarded(argument))?;
                Ok(filtered(names.local(guarded)?, &present).map(|aggregate| aggregate.alias(name)))
            });
            let Some(aggregates) = aggregates.collect::<Result<Option<Vec<_>>>>()? else { return Ok(None) };
            let rows = with_nodes(&self.below, rows, names)?;
            let plan = LogicalPlanBuilder::from(rows).aggregate(groups, aggregates)?.build()?;
            return Ok(Some(with_nodes(&self.above, plan, names)?));
        }
        let rows = with_nodes(&self.above, rows, names)?;
        let value = Expr::from(rows.schema().qualified_field(rows.schema().fields().len() - 1));
        let Some(first) = filtered(first_value(value, self.order(names)), &present) else { return Ok(None) };
        let (first, count) = (first.alias("buzz_first"), count(present).alias("buzz_rows"));
        if matches!(self.chosen, Chosen::First(_)) {
            return Ok(Some(LogicalPlanBuilder::from(rows).aggregate(groups, vec![first])?.build()?));
        }
        let plan = LogicalPlanBuilder::from(rows).aggregate(groups, vec![first, count])?;
        let arguments = ["buzz_first", "buzz_rows"].map(|name| Expr::Column(Column::new_unqualified(name)));
        let only = single_row().call(arguments.to_vec()).alias("buzz_only");
        Ok(Some(plan.project(names.columns().chain([only]))?.build()?))
    }

    /// Returns the ORDER BY of a subquery with LIMIT 1, by the columns that [`with_nodes`] adds.
    fn order(&self, names: &Names<'_>) -> Vec<Sort> {
        let Chosen::First(order) = self.chosen else { return Vec::new() };
        let keys = names.order(order.len()).map(Expr::Column);
        order.iter().zip(keys).map(|(sort, key)| sort.with_expr(key)).collect()
    }
}

/// Puts `nodes`, of which the last is the lowest, on `plan`. Instead of a sort, its keys become columns.
fn with_nodes(nodes: &[&LogicalPlan], mut plan: LogicalPlan, names: &Names<'_>) -> Result<LogicalPlan> {
    for node in nodes.iter().rev() {
        let builder = LogicalPlanBuilder::from(plan.clone());
        plan = match node {
            LogicalPlan::Projection(projection) => builder.project(names.projected(projection, &plan)?)?.build()?,
            LogicalPlan::Filter(filter) => builder.filter(names.local(filter.predicate.clone())?)?.build()?,
            LogicalPlan::Sort(sort) => {
                let keys = sort.expr.iter().zip(names.order(sort.expr.len()));
                let keys = keys.map(|(sort, key)| Ok(names.local(sort.expr.clone())?.alias(key.name)));
                let keys = keys.collect::<Result<Vec<_>>>()?;
                let columns = plan.schema().columns().into_iter().map(Expr::Column);
                builder.project(keys.into_iter().chain(columns))?.build()?
            }
            other => return internal_err!("{} above a correlated subquery", other.display()),
        };
    }
    Ok(plan)
}

/// Checks if `expression` is a column, or a column with another type: what DataFusion joins by.
fn is_column(expression: &Expr) -> bool {
    match expression {
        Expr::Column(_) => true,
        Expr::Cast(cast) => matches!(cast.expr.as_ref(), Expr::Column(_)),
        _ => false,
    }
}

/// Rewrites the arguments of an aggregate.
fn with_arguments(expression: Expr, rewrite: impl Fn(Expr) -> Result<Expr>) -> Result<Expr> {
    match expression {
        Expr::AggregateFunction(AggregateFunction { func, mut params }) => {
            params.args = params.args.into_iter().map(rewrite).collect::<Result<_>>()?;
            Ok(Expr::AggregateFunction(AggregateFunction { func, params }))
        }
        Expr::Alias(alias) => with_arguments(*alias.expr, rewrite),
        other => Ok(other),
    }
}

/// Adds a condition to the rows of an aggregate. `None` if `expression` is not an aggregate function.
fn filtered(expression: Expr, condition: &Expr) -> Option<Expr> {
    match expression {
        Expr::AggregateFunction(AggregateFunction { func, mut params }) => {
            let filter = match params.filter.take() {
                Some(filter) => condition.clone().and(*filter),
                None => condition.clone(),
            };
            params.filter = Some(Box::new(filter));
            Some(Expr::AggregateFunction(AggregateFunction { func, params }))
        }
        Expr::Alias(alias) => filtered(*alias.expr, condition),
        _ => None,
    }
}

/// Checks if `plan` is an aggregate without GROUP BY, below projections, sorts and conditions.
fn aggregates(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Filter(filter) => aggregates(&filter.input),
        LogicalPlan::Projection(projection) => aggregates(&projection.input),
        LogicalPlan::Sort(sort) => aggregates(&sort.input),
        _ => false,
    }
}

/// Returns the conditions of the filters on top of `plan`, and the plan below them. `None` if that refers to the outer
/// query, too.
fn conditions(plan: &LogicalPlan) -> Option<(Vec<&Expr>, &LogicalPlan)> {
    let (mut conditions, mut node) = (Vec::new(), plan);
    while let LogicalPlan::Filter(filter) = node {
        conditions.extend(split_conjunction(&filter.predicate));
        node = &filter.input;
    }
    node.all_out_ref_exprs().is_empty().then_some((conditions, node))
}

/// Checks if `plan` has the same rows when it is computed again, and does not refer to a query around it.
fn is_repeatable(plan: &LogicalPlan) -> Result<bool> {
    let mut varies = !plan.all_out_ref_exprs().is_empty();
    plan.each_node(&mut |node| {
        varies |= match node {
            LogicalPlan::Limit(_) | LogicalPlan::Distinct(Distinct::On(_)) | LogicalPlan::Window(_) => true,
            LogicalPlan::Aggregate(aggregate) => {
                let input = aggregate.input.schema();
                !aggregate.aggr_expr.iter().all(|aggregate| is_determined(aggregate, input))
            }
            _ => node.expressions().iter().any(Expr::is_volatile),
        };
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(!varies)
}

/// Checks if the value of an aggregate does not depend on the order of its rows.
fn is_determined(aggregate: &Expr, input: &DFSchema) -> bool {
    match aggregate {
        Expr::Alias(alias) => is_determined(&alias.expr, input),
        Expr::AggregateFunction(function) if !aggregate.is_volatile() => match function.func.name() {
            "count" | "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or" | "bit_xor" => true,
            "sum" | "avg" => {
                let types = function.params.args.iter().map(|argument| argument.get_type(input));
                types.into_iter().all(|found| found.is_ok_and(|found| found.is_integer() || found.is_decimal()))
            }
            _ => false,
        },
        _ => false,
    }
}
