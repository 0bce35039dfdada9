//! Rows that are sorted, joined, united and grouped by values that DataFusion tells apart although they are equal: intervals of one
//! length, zeros and NaN of doubles, times in different units.

use std::sync::Arc;

use arrow::datatypes::DataType;
use buzz_kernel::one_form;
use datafusion::common::Column;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::min;
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, ExprSchemable, Join, JoinConstraint, LogicalPlan, Projection,
};

use super::intervals::{Kind, have_lengths, is_interval, key, length, ordered, replace};
use super::operands::type_of;
use super::{doubles, instants, lifted, times};

/// Sorts, joins and groups the rows of `node` by the lengths of intervals, and by the values of doubles.
pub(super) fn rows(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Sort(mut sort) => {
            let mut changed = ordered(&mut sort.expr, sort.input.schema())?;
            // Rows with equal doubles are in the order of the next keys.
            if let Some((_, first)) = sort.expr.split_last_mut() {
                for key in first {
                    changed |= doubles::formed(&mut key.expr, sort.input.schema())?;
                }
            }
            Ok(Transformed::new_transformed(LogicalPlan::Sort(sort), changed))
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
    fn of(group: &Expr, aggregate: &Aggregate) -> Result<Self> {
        if matches!(group, Expr::GroupingSet(_)) {
            return Ok(Self::Itself);
        }
        let schema = aggregate.input.schema();
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
    let forms = aggregate.group_expr.iter().map(|group| Form::of(group, &aggregate));
    let forms = forms.collect::<Result<Vec<_>>>()?;
    if forms.iter().all(|form| *form == Form::Itself) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let Aggregate { input, group_expr, mut aggr_expr, schema, .. } = aggregate;
    let (mut groups, mut columns) = (Vec::new(), Vec::new());
    for (index, (group, (relation, field))) in group_expr.into_iter().zip(schema.iter()).enumerate() {
        let column =
            |name: String| Expr::Column(Column::new_unqualified(name)).alias_qualified(relation.cloned(), field.name());
        match forms[index] {
            Form::Length => {
                let (value, name) = (group.unalias(), format!("buzz_interval_{index}"));
                groups.push(length(value.clone()).alias(format!("buzz_length_{index}")));
                aggr_expr.push(min(value).alias(name.as_str()));
                columns.push(column(name));
            }
            Form::Double => {
                let name = format!("buzz_double_{index}");
                groups.push(one_form().call(vec![group.unalias()]).alias(name.as_str()));
                columns.push(column(name));
            }
            Form::Itself => {
                groups.push(group);
                columns.push(Expr::Column(Column::new(relation.cloned(), field.name())));
            }
        }
    }
    let others = schema.iter().skip(forms.len());
    columns.extend(others.map(|(relation, field)| Expr::Column(Column::new(relation.cloned(), field.name()))));
    let grouped = Aggregate::try_new(input, groups, aggr_expr)?;
    let projection = Projection::try_new(columns, Arc::new(LogicalPlan::Aggregate(grouped)))?;
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
}
