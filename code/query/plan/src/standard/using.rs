//! The columns that `JOIN … USING` and `NATURAL JOIN` merge.
//!
//! After an outer join, the standard's merged column has the value of the side that has a row. DataFusion takes the column
//! of one side, which is null in the rows of the other. Here, a projection above the join puts the merged value into the
//! columns of both sides, and keeps their own values under other names. References that name a side (`x.k`) mean its own
//! value; they are marked in the statement, because a plan does not show how a column was written.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinConstraint, JoinType, plan_err};
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Join, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, Ident, JoinConstraint as SqlConstraint, JoinOperator, Select, Statement, TableFactor,
    TableWithJoins, VisitMut, Visitor,
};

use super::overflow::with_names;
use super::syntax::{call, normal};
use crate::trees::{PlanTree, Tree};
use crate::visit::{each_own_expression_mut, visit};

/// The name of the function that marks a reference to a side.
pub(super) const MARK: &str = "buzz_own_column";

/// References to a side of a join whose merged columns differ from it.
#[derive(Default)]
pub(super) struct Sides {
    /// Relation and column; `None` stands for every column, since the columns of `NATURAL JOIN` are not in the statement.
    columns: BTreeSet<(String, Option<String>)>,
}

impl Sides {
    /// Collects the sides of the joins in `statement`.
    pub(super) fn of(statement: &Statement) -> Self {
        let mut sides = Self::default();
        let _: ControlFlow<()> = visit(statement, &mut sides);
        sides
    }

    /// Marks `expression` if it refers to a side.
    pub(super) fn mark(&self, expression: &mut SqlExpr) {
        let SqlExpr::CompoundIdentifier(parts) = &*expression else { return };
        let [relation, column] = parts.as_slice() else { return };
        let relation = normal(relation);
        if [None, Some(normal(column))].into_iter().any(|column| self.columns.contains(&(relation.clone(), column))) {
            *expression = call(MARK, vec![expression.clone()]);
        }
    }

    fn add(&mut self, relations: &[String], constraint: &SqlConstraint) {
        let columns: Vec<Option<String>> = match constraint {
            SqlConstraint::Using(names) => {
                let last = names.iter().filter_map(|name| name.0.last()?.as_ident());
                last.map(|name| Some(normal(name))).collect()
            }
            SqlConstraint::Natural => vec![None],
            _ => return,
        };
        for relation in relations {
            self.columns.extend(columns.iter().map(|column| (relation.clone(), column.clone())));
        }
    }
}

impl Visitor for Sides {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        for table in &select.from {
            let mut relations = Vec::new();
            collect(table, &mut relations, self);
        }
        ControlFlow::Continue(())
    }
}

/// Collects the names of the relations in `table`, and the sides of its joins.
fn collect(table: &TableWithJoins, relations: &mut Vec<String>, sides: &mut Sides) {
    collect_factor(&table.relation, relations, sides);
    for join in &table.joins {
        let before = relations.clone();
        collect_factor(&join.relation, relations, sides);
        match &join.join_operator {
            JoinOperator::Right(constraint)
            | JoinOperator::RightOuter(constraint)
            | JoinOperator::FullOuter(constraint) => sides.add(relations, constraint),
            JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => {
                let right: Vec<String> = relations[before.len()..].to_vec();
                if right.iter().any(|right| before.iter().any(|left| right < left)) {
                    sides.add(&right, constraint);
                }
            }
            _ => {}
        }
    }
}

fn collect_factor(factor: &TableFactor, relations: &mut Vec<String>, sides: &mut Sides) {
    match factor {
        TableFactor::NestedJoin { table_with_joins, alias: None } => collect(table_with_joins, relations, sides),
        _ => relations.extend(alias_of(factor).map(normal)),
    }
}

pub(super) fn alias_of(factor: &TableFactor) -> Option<&Ident> {
    match factor {
        TableFactor::Table { name, alias, .. } => {
            alias.as_ref().map(|alias| &alias.name).or_else(|| name.0.last()?.as_ident())
        }
        TableFactor::Derived { alias, .. }
        | TableFactor::NestedJoin { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::Function { alias, .. } => alias.as_ref().map(|alias| &alias.name),
        _ => None,
    }
}

/// Returns the constraint of a join that has two sides.
pub(super) fn constraint(operator: &JoinOperator) -> Option<&SqlConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint) => Some(constraint),
        _ => None,
    }
}

/// Names the relation of merged columns in `select` that the planner finds ambiguous: those of several joins, and all in
/// WHERE.
pub(super) fn ambiguous_columns(select: &mut Select) {
    let mut merged: BTreeMap<String, (Option<Ident>, usize)> = BTreeMap::new();
    for table in &select.from {
        let mut before = vec![alias_of(&table.relation).cloned()];
        for join in &table.joins {
            let right = alias_of(&join.relation).cloned();
            let keeps_left = matches!(&join.join_operator, JoinOperator::Left(_) | JoinOperator::LeftOuter(_));
            let only = if let [only] = before.as_slice() { only.clone() } else { None };
            if let Some(SqlConstraint::Using(names)) = constraint(&join.join_operator) {
                for name in names.iter().filter_map(|name| name.0.last()?.as_ident()) {
                    let (relation, joins) = merged.entry(normal(name)).or_default();
                    *relation = if keeps_left { relation.take().or_else(|| only.clone()) } else { right.clone() };
                    *joins += 1;
                }
            }
            before.push(right);
        }
    }
    let named = |least: usize| {
        let repeated = merged.iter().filter(|(_, (_, joins))| *joins >= least);
        let columns = repeated.filter_map(|(column, (relation, _))| Some((column.clone(), relation.clone()?)));
        columns.collect::<BTreeMap<String, Ident>>()
    };
    name_columns(&mut select.selection, &named(1));
    let several = named(2);
    name_columns(&mut select.projection, &several);
    name_columns(&mut select.group_by, &several);
    name_columns(&mut select.having, &several);
}

/// Names the relations of `columns`, which they have by name, in `node` outside of its subqueries.
fn name_columns(node: &mut impl VisitMut, columns: &BTreeMap<String, Ident>) {
    each_own_expression_mut(node, &mut |expression| {
        if let SqlExpr::Identifier(column) = &*expression
            && let Some(relation) = columns.get(&normal(column))
        {
            *expression = SqlExpr::CompoundIdentifier(vec![relation.clone(), column.clone()]);
        }
    });
}

/// Returns the function that marks a reference to a side. [`merged`] removes it.
pub(super) fn mark() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let signature = Signature::any(1, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Mark { signature }))
    });
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Mark {
    signature: Signature,
}

impl ScalarUDFImpl for Mark {
    fn name(&self) -> &'static str {
        MARK
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [column] => Ok(column.clone()),
            _ => plan_err!("{MARK} takes a column"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.into_iter().next() {
            Some(column) => Ok(column),
            None => plan_err!("{MARK} takes a column"),
        }
    }
}

/// Merges the columns of the outer joins in `plan`, and resolves the marked references.
///
/// # Errors
/// `Plan` if the rewritten plan is inconsistent.
pub(super) fn merged(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut found = false;
    plan.each_node(&mut |node| {
        found |= matches!(node, LogicalPlan::Join(join) if merges(join));
        node.each_expression(&mut |expression| {
            found |= expression.any(&mut |inner| Ok(is_mark(inner)))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    if !found {
        return Ok(plan);
    }
    let plan = plan.rewrite_all_up(&mut |node| {
        // The columns of an input may have changed.
        let node = node.recompute_schema()?;
        let schema = merge_schema(&node.inputs());
        let node = rewritten(node, &|inner| Ok(resolved(inner, &schema)))?;
        let node = with_subqueries_resolved(node, &schema)?.recompute_schema()?;
        Ok(Transformed::yes(match node {
            LogicalPlan::Join(join) if merges(&join) => with_merged(join)?,
            node => node,
        }))
    })?;
    // A reference that is marked still has no column in the plans around it.
    let plan = plan.data.rewrite_all_up(&mut |node| rewritten(node, &unmarked).map(Transformed::yes))?;
    Ok(plan.data)
}

/// Rewrites the expressions of `node` with `rewrite`, and keeps their names.
fn rewritten(node: LogicalPlan, rewrite: &dyn Fn(Expr) -> Result<Transformed<Expr>>) -> Result<LogicalPlan> {
    let names = NamePreserver::new(&node);
    Ok(node.rewrite_expressions(&mut |expression| with_names(expression, &names, rewrite))?.data)
}

/// Resolves the marked references from the subqueries of `node` to its inputs, whose columns are `schema`. The subqueries
/// themselves were visited before the joins below `node`, so their references to outer queries are marked still.
fn with_subqueries_resolved(node: LogicalPlan, schema: &DFSchema) -> Result<LogicalPlan> {
    let node = node.map_subqueries(|subquery| resolved_outside(subquery, schema).map(Transformed::yes))?.data;
    match node {
        LogicalPlan::Join(mut join)
            if join.right.as_ref().any(&mut |inner| Ok(matches!(inner, LogicalPlan::Subquery(_))))? =>
        {
            // LATERAL: the right side refers to the left one.
            let right = resolved_outside(join.right.as_ref().clone(), join.left.schema())?;
            join.right = Arc::new(right);
            Ok(LogicalPlan::Join(join))
        }
        node => Ok(node),
    }
}

/// Resolves the marked references in `plan` to an outer query whose columns are `schema`.
fn resolved_outside(plan: LogicalPlan, schema: &DFSchema) -> Result<LogicalPlan> {
    let plan = plan.rewrite_all_up(&mut |node| {
        let node = rewritten(node, &|inner| Ok(outer_resolved(inner, schema)))?;
        Ok(Transformed::yes(match node {
            LogicalPlan::Subquery(mut subquery) => {
                // The optimizer keeps the columns that stand here.
                subquery.outer_ref_columns = subquery.subquery.all_out_ref_exprs();
                LogicalPlan::Subquery(subquery)
            }
            node => node,
        }))
    })?;
    Ok(plan.data)
}

fn is_mark(expression: &Expr) -> bool {
    marked(expression).is_some()
}

/// Returns what `expression` marks.
fn marked(expression: &Expr) -> Option<&Expr> {
    match expression {
        Expr::ScalarFunction(function) if function.name() == MARK => function.args.first(),
        _ => None,
    }
}

/// Replaces a marked column by the one with the side's own value, or by the column if no join has merged it.
fn resolved(expression: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let replaced = match marked(&expression) {
        None | Some(Expr::OuterReferenceColumn(..)) => None,
        Some(Expr::Column(column)) => Some(Expr::Column(own_column(column, schema).unwrap_or_else(|| column.clone()))),
        Some(other) => Some(other.clone()),
    };
    replaced.map_or_else(|| Transformed::no(expression), Transformed::yes)
}

/// Replaces a marked reference to an outer query by one to the side's own value, or to the column if no join has merged it.
/// A reference to a column that is not in `schema` is one to a query further out, and stays.
fn outer_resolved(expression: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let replaced = match marked(&expression) {
        Some(Expr::OuterReferenceColumn(field, column)) => {
            let found = own_column(column, schema).or_else(|| schema.has_column(column).then(|| column.clone()));
            found.map(|found| Expr::OuterReferenceColumn(Arc::clone(field), found))
        }
        _ => None,
    };
    replaced.map_or_else(|| Transformed::no(expression), Transformed::yes)
}

/// Removes a mark.
fn unmarked(expression: Expr) -> Result<Transformed<Expr>> {
    let inner = marked(&expression).cloned();
    Ok(inner.map_or_else(|| Transformed::no(expression), Transformed::yes))
}

/// Returns the column of `schema` with the own value of the side that `column` names: one that a join has kept, or one that
/// a GROUP BY has named after the marked reference.
fn own_column(column: &Column, schema: &DFSchema) -> Option<Column> {
    let names = [own_name(column), format!("{MARK}({})", column.flat_name())];
    names.into_iter().find(|name| schema.has_column_with_unqualified_name(name)).map(Column::new_unqualified)
}

fn own_name(column: &Column) -> String {
    format!("buzz_own_{}", column.flat_name())
}

/// Checks if the merged columns of `join` differ from those that DataFusion takes. After a left join, DataFusion takes the
/// left columns except for `*`, for which it takes the first in the order of the names.
fn merges(join: &Join) -> bool {
    join.join_constraint == JoinConstraint::Using
        && match join.join_type {
            JoinType::Right | JoinType::Full => true,
            JoinType::Left => join.on.iter().any(|pair| matches!(pair, (Expr::Column(l), Expr::Column(r)) if r < l)),
            _ => false,
        }
}

fn with_merged(mut join: Join) -> Result<LogicalPlan> {
    let mut columns = Vec::new();
    let mut kept = Vec::new();
    for column in join.schema.columns() {
        let pair = join.on.iter().find_map(|pair| match pair {
            (Expr::Column(left), Expr::Column(right)) if *left == column || *right == column => Some((left, right)),
            _ => None,
        });
        let Some((left, right)) = pair else {
            columns.push(Expr::Column(column));
            continue;
        };
        let (left, right) = (Expr::Column(left.clone()), Expr::Column(right.clone()));
        let value = match join.join_type {
            JoinType::Left => left,
            JoinType::Right => right,
            _ => coalesce(vec![left, right]),
        };
        // A column that an earlier join has merged has its own value already.
        if !join.schema.has_column_with_unqualified_name(&own_name(&column)) {
            kept.push(Expr::Column(column.clone()).alias(own_name(&column)));
        }
        columns.push(value.alias_qualified(column.relation, column.name));
    }
    columns.extend(kept);
    // The constraint would make wildcards and names of later joins ambiguous. And if this plan is that of a view, the columns
    // would be merged again in each statement that reads it, which loses the sides' own values.
    join.join_constraint = JoinConstraint::On;
    LogicalPlanBuilder::from(LogicalPlan::Join(join)).project(columns)?.build()
}
