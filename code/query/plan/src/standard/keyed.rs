//! Rows that are sorted, joined, united and grouped by values that DataFusion tells apart although they are equal: intervals of one
//! length, zeros and NaN of doubles, times in different units.

use std::sync::Arc;

use arrow::datatypes::DataType;
use buzz_kernel::one_form;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::min;
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, ExprSchemable, Join, JoinConstraint, LogicalPlan, Projection, when,
};

use super::intervals::{Kind, have_lengths, is_interval, key, length, ordered, replace};
use super::operands::type_of;
use super::{doubles, instants, lifted, times};

/// The function that tells which keys a grouping set lacks.
const GROUPING: &str = "grouping";

/// Sorts, joins and groups the rows of `node` by the lengths of intervals, and by the values of doubles.
pub(super) fn rows(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Sort(mut sort) => {
            let mut changed = ordered(&mut sort.expr, sort.input.schema())?;
            // Rows with equal doubles are in the order of the next keys.
            if let Some((last, first)) = sort.expr.split_last_mut() {
                for key in first {
                    changed |= doubles::formed(&mut key.expr, sort.input.schema())?;
                }
                changed |= doubles::nan_formed(&mut last.expr, sort.input.schema())?;
            }
            Ok(Transformed::new_transformed(LogicalPlan::Sort(sort), changed))
        }
        LogicalPlan::Projection(projection) => Ok(doubles::projected(projection)?.update_data(LogicalPlan::Projection)),
        LogicalPlan::Values(mut values) => {
            let (mut changed, schema) = (false, DFSchema::empty());
            for value in values.values.iter_mut().flatten() {
                changed |= doubles::nan_formed(value, &schema)?;
            }
            Ok(Transformed::new_transformed(LogicalPlan::Values(values), changed))
        }
        LogicalPlan::Join(join) => joined(join),
        LogicalPlan::Union(union) => times::of_one_unit(union),
        LogicalPlan::Aggregate(aggregate) => lifted::above_aggregate(aggregate, &grouped),
        LogicalPlan::Window(window) => lifted::above_window(window),
        LogicalPlan::Distinct(Distinct::On(mut distinct)) => {
            let input = Arc::clone(&distinct.input);
            let mut changed = false;
            for value in &mut distinct.on_expr {
                changed |= key(value, input.schema())? || doubles::formed(value, input.schema())?;
            }
            // The order begins with the same values.
            if let Some(order) = &mut distinct.sort_expr {
                changed |= ordered(order, input.schema())?;
                for key in order {
                    changed |= doubles::formed(&mut key.expr, input.schema())?;
                }
            }
            Ok(Transformed::new_transformed(LogicalPlan::Distinct(Distinct::On(distinct)), changed))
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let has_forms = |data_type: &DataType| {
                matches!(data_type, DataType::Interval(_) | DataType::Float32 | DataType::Float64)
            };
            if !input.schema().fields().iter().any(|field| has_forms(field.data_type())) {
                return Ok(Transformed::no(LogicalPlan::Distinct(Distinct::All(input))));
            }
            let columns = input.schema().columns().into_iter().map(Expr::Column).collect();
            grouped(Aggregate::try_new(input, columns, Vec::new())?)
        }
        other => Ok(Transformed::no(other)),
    }
}

fn joined(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let mut changed = false;
    for (left, right) in &mut join.on {
        let types = [left.get_type(join.left.schema().as_ref())?, right.get_type(join.right.schema().as_ref())?];
        let both = ((&*left, &types[0]), (&*right, &types[1]));
        if let Some(keys) = instants::keys(both.0, both.1).or_else(|| times::keys(both.0, both.1)) {
            (*left, *right) = keys;
            changed = true;
        } else if types.iter().any(|one| matches!(one, DataType::Float32 | DataType::Float64)) {
            changed |= doubles::formed(left, join.left.schema())?;
            changed |= doubles::formed(right, join.right.schema())?;
        } else if have_lengths(&types.map(|data_type| Kind::of(&data_type))) {
            replace(left, length);
            replace(right, length);
            changed = true;
        }
    }
    if changed {
        // The keys of USING must be columns.
        join.join_constraint = JoinConstraint::On;
    }
    Ok(Transformed::new_transformed(LogicalPlan::Join(join), changed))
}

/// The way in which equal values of a key become one.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// They are.
    Itself,
    Length,
    Double,
}

impl Form {
    fn of(group: &Expr, schema: &DFSchema) -> Result<Self> {
        Ok(match type_of(group, schema)? {
            DataType::Float32 | DataType::Float64 => Self::Double,
            _ if is_interval(group, schema)? => Self::Length,
            _ => Self::Itself,
        })
    }
}

/// Groups by the lengths of the intervals among the keys, and by the one form of the doubles. Each group has one of its intervals:
/// the one with the fewest months, then days.
fn grouped(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let parts: Vec<Expr> = grouping_set_to_exprlist(&aggregate.group_expr)?.into_iter().cloned().collect();
    let forms = parts.iter().map(|part| Form::of(part, aggregate.input.schema())).collect::<Result<Vec<_>>>()?;
    let has_sets = matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]);
    // A rewritten key has a name, which the argument of `grouping` lacks.
    let is_named = asks_for_sets(&aggregate) && parts.iter().any(|part| matches!(part, Expr::Alias(_)));
    if forms.iter().all(|form| *form == Form::Itself) && !is_named {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let Aggregate { input, group_expr, aggr_expr: outputs, schema, .. } = aggregate;
    let (mut keys, mut columns, mut aggr_expr) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (part, (relation, field))) in parts.iter().zip(schema.iter()).enumerate() {
        let value = part.clone().unalias();
        let column = match forms[index] {
            Form::Length => {
                let (key, name) = (format!("buzz_length_{index}"), format!("buzz_interval_{index}"));
                keys.push(length(value.clone()).alias(key.as_str()));
                aggr_expr.push(min(value).alias(name.as_str()));
                let (key, interval) = (computed(key), computed(name));
                // A set without the key has nulls.
                if has_sets { when(key.is_not_null(), interval).end()? } else { interval }
            }
            Form::Double => {
                let name = format!("buzz_double_{index}");
                keys.push(one_form().call(vec![value]).alias(name.as_str()));
                computed(name)
            }
            Form::Itself => {
                keys.push(part.clone());
                columns.push(Expr::Column(Column::new(relation.cloned(), field.name())));
                continue;
            }
        };
        columns.push(column.alias_qualified(relation.cloned(), field.name()));
    }
    // A later rule adds the number of the grouping set to aggregates that need it.
    let others = schema.iter().skip(forms.len()).filter(|(_, field)| field.name() != Aggregate::INTERNAL_GROUPING_ID);
    let others: Vec<Column> = others.map(|(relation, field)| Column::new(relation.cloned(), field.name())).collect();
    let outputs = outputs.into_iter().zip(&others).map(|(output, name)| asked_of(output, name, &parts, &keys));
    aggr_expr.splice(0..0, outputs);
    columns.extend(others.into_iter().map(Expr::Column));
    let groups = if has_sets { in_sets(group_expr, &parts, &keys)? } else { keys };
    let grouped = Aggregate::try_new(input, groups, aggr_expr)?;
    let projection = Projection::try_new(columns, Arc::new(LogicalPlan::Aggregate(grouped)))?;
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
}

fn computed(name: String) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// Checks if `aggregate` has `grouping(key)`, which a later rule compares with its keys.
fn asks_for_sets(aggregate: &Aggregate) -> bool {
    aggregate.aggr_expr.iter().any(|output| match output.clone().unalias() {
        Expr::AggregateFunction(function) => function.func.name() == GROUPING,
        _ => false,
    })
}

/// Replaces the `parts` in the arguments of `output`, if it is `grouping(…)`, by the `keys` with the same indexes, and gives it the
/// name of its column `name` again.
fn asked_of(output: Expr, name: &Column, parts: &[Expr], keys: &[Expr]) -> Expr {
    let mut asked = output.clone().unalias();
    let Expr::AggregateFunction(function) = &mut asked else { return output };
    if function.func.name() != GROUPING {
        return output;
    }
    for arg in &mut function.params.args {
        let value = arg.clone().unalias();
        let index = parts.iter().position(|part| part.clone().unalias() == value);
        if let Some(key) = index.and_then(|index| keys.get(index)) {
            *arg = key.clone();
        }
    }
    asked.alias_qualified(name.relation.clone(), name.name.as_str())
}

/// Replaces the `parts` of grouping sets by the `keys` with the same indexes.
fn in_sets(sets: Vec<Expr>, parts: &[Expr], keys: &[Expr]) -> Result<Vec<Expr>> {
    let replaced = sets.into_iter().map(|set| {
        let set = set.map_children(|part| {
            let key = parts.iter().position(|other| *other == part).and_then(|index| keys.get(index));
            Ok(key.map_or_else(|| Transformed::no(part), |key| Transformed::yes(key.clone())))
        })?;
        Ok(set.data)
    });
    replaced.collect()
}
