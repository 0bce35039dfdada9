//! Zeros and NaN of doubles.
//!
//! `-0.0` equals `0.0`, and every NaN is one value, but DataFusion compares their bits in `nullif`, `CASE x WHEN`, lists of IN that it
//! hashes, and the keys of windows. Everywhere else it compares the bits of NaN: one with a sign bit is less than all numbers. Scans
//! give the doubles of files one NaN; what a statement computes, such as `0.0 / 0.0`, gets it where it is compared or becomes a column.

use std::sync::Arc;

use arrow::datatypes::DataType;
use buzz_kernel::{null_if, one_form, one_nan};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, InList, InSubquery, ScalarFunction, WindowFunction};
use datafusion::logical_expr::{BinaryExpr, Case, Cast, Expr, LogicalPlanBuilder, Projection, TryCast};

use super::operands::{is_comparison, type_of};
use super::windows;

/// Compares the doubles in `expression` by their values.
pub(super) fn by_value(mut expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let changed = match &mut expression {
        Expr::Case(case) => of_case(case, schema)?,
        Expr::InSubquery(membership) => of_subquery(membership, schema)?,
        Expr::WindowFunction(window) => of_window(window, schema)?,
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) => {
            // No bounds of a file have NaN, so they must not be compared with it.
            let (of_left, of_right) = (is_nan(right), is_nan(left));
            compared(left, of_left, schema)? | compared(right, of_right, schema)?
        }
        Expr::Between(Between { expr, low, high, .. }) => {
            let with_nan = is_nan(low) || is_nan(high);
            compared(expr, with_nan, schema)? | nan_formed(low, schema)? | nan_formed(high, schema)?
        }
        // A later rule compares the arguments of `grouping` with the keys.
        Expr::AggregateFunction(call) if call.func.name() != "grouping" => {
            let mut changed = each_nan_formed(&mut call.params.args, schema)?;
            for key in &mut call.params.order_by {
                changed |= nan_formed(&mut key.expr, schema)?;
            }
            changed
        }
        Expr::ScalarFunction(call) if keeps_values(call.name()) => each_nan_formed(&mut call.args, schema)?,
        Expr::ScalarFunction(call) if call.name() == "nullif" => match of_nullif(call, schema)? {
            Some(replaced) => {
                expression = replaced;
                true
            }
            None => false,
        },
        Expr::InList(list) => match of_list(list, schema)? {
            Some(replaced) => {
                expression = replaced;
                true
            }
            None => false,
        },
        _ => false,
    };
    Ok(Transformed::new_transformed(expression, changed))
}

/// Returns true if the function compares its arguments, or keeps them in a list or a struct, of which values are read later as
/// those of files are.
fn keeps_values(function: &str) -> bool {
    matches!(
        function,
        "greatest"
            | "least"
            | "make_array"
            | "struct"
            | "named_struct"
            | "array_append"
            | "array_prepend"
            | "array_repeat"
    )
}

fn is_double(expression: &Expr, schema: &DFSchema) -> Result<bool> {
    Ok(matches!(type_of(expression, schema)?, DataType::Float32 | DataType::Float64))
}

/// Gives `key` its one form if it is a double.
pub(super) fn formed(key: &mut Expr, schema: &DFSchema) -> Result<bool> {
    let is_double = is_double(key, schema)?;
    if is_double {
        let null = Expr::Literal(ScalarValue::Null, None);
        *key = one_form().call(vec![std::mem::replace(key, null)]);
    }
    Ok(is_double)
}

fn each_nan_formed(values: &mut [Expr], schema: &DFSchema) -> Result<bool> {
    let mut changed = false;
    for value in values {
        changed |= nan_formed(value, schema)?;
    }
    Ok(changed)
}

/// Gives `value` one NaN if the expression computes it, or `always`, and if it is a double.
fn compared(value: &mut Expr, always: bool, schema: &DFSchema) -> Result<bool> {
    if !always || !is_double(value, schema)? {
        return nan_formed(value, schema);
    }
    replace(value);
    Ok(true)
}

fn replace(value: &mut Expr) {
    let null = Expr::Literal(ScalarValue::Null, None);
    *value = one_nan().call(vec![std::mem::replace(value, null)]);
}

/// Checks if `value` is the constant NaN.
fn is_nan(value: &Expr) -> bool {
    match value {
        Expr::Cast(Cast { expr, .. }) | Expr::TryCast(TryCast { expr, .. }) => is_nan(expr),
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => value.is_nan(),
        Expr::Literal(ScalarValue::Float32(Some(value)), _) => value.is_nan(),
        Expr::Literal(text, _) => text
            .try_as_str()
            .flatten()
            .is_some_and(|text| text.trim().trim_start_matches(['+', '-']).eq_ignore_ascii_case("nan")),
        _ => false,
    }
}

/// Gives `value` one NaN if it is a double that the expression computes.
pub(super) fn nan_formed(value: &mut Expr, schema: &DFSchema) -> Result<bool> {
    if !may_have_sign(value, schema)? || !is_double(value, schema)? {
        return Ok(false);
    }
    replace(value);
    Ok(true)
}

/// Checks if `value`, if it is a double, can be a NaN with a sign bit. Columns are none: they have one NaN.
fn may_have_sign(value: &Expr, schema: &DFSchema) -> Result<bool> {
    let any = |values: &mut dyn Iterator<Item = &Expr>| -> Result<bool> {
        for value in values {
            if may_have_sign(value, schema)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    Ok(match value {
        Expr::Alias(alias) => may_have_sign(&alias.expr, schema)?,
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => value.is_nan(),
        Expr::Literal(ScalarValue::Float32(Some(value)), _) => value.is_nan(),
        Expr::BinaryExpr(binary) => !is_comparison(binary.op),
        Expr::Negative(_) => true,
        Expr::Cast(Cast { expr, .. }) | Expr::TryCast(TryCast { expr, .. }) => match type_of(expr, schema)? {
            DataType::Float16 | DataType::Float32 | DataType::Float64 => may_have_sign(expr, schema)?,
            other => other.is_string(),
        },
        Expr::Case(case) => {
            let thens = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
            any(&mut thens.chain(case.else_expr.as_deref()))?
        }
        Expr::ScalarFunction(call) => match call.name() {
            "coalesce" | "nvl" | "greatest" | "least" => any(&mut call.args.iter())?,
            // Nested values were read from files, or made of formed ones.
            "get_field" | "array_element" | "buzz_double" | "buzz_nan" => false,
            _ => true,
        },
        _ => false,
    })
}

/// Gives the computed columns of `projection` one NaN.
pub(super) fn projected(mut projection: Projection) -> Result<Transformed<Projection>> {
    let mut changed = false;
    for (output, (relation, field)) in projection.expr.iter_mut().zip(projection.schema.iter()) {
        if !matches!(field.data_type(), DataType::Float32 | DataType::Float64) {
            continue;
        }
        let mut value = output.clone().unalias();
        if nan_formed(&mut value, projection.input.schema())? {
            *output = value.alias_qualified(relation.cloned(), field.name());
            changed = true;
        }
    }
    Ok(Transformed::new_transformed(projection, changed))
}

/// Compares a double with the one form of the values of a subquery.
fn of_subquery(membership: &mut InSubquery, schema: &DFSchema) -> Result<bool> {
    let plan = Arc::clone(&membership.subquery.subquery);
    let columns = plan.schema().columns();
    let [column] = columns.as_slice() else { return Ok(false) };
    let mut item = Expr::Column(column.clone());
    if !formed(&mut item, plan.schema())? {
        return formed(&mut membership.expr, schema);
    }
    let plan = LogicalPlanBuilder::from(plan.as_ref().clone()).project(vec![item])?.build()?;
    membership.subquery = membership.subquery.with_plan(Arc::new(plan));
    formed(&mut membership.expr, schema)?;
    Ok(true)
}

fn of_case(case: &mut Case, schema: &DFSchema) -> Result<bool> {
    let Some(value) = &mut case.expr else { return Ok(false) };
    let mut changed = formed(value, schema)?;
    for (when, _) in &mut case.when_then_expr {
        changed |= formed(when, schema)?;
    }
    Ok(changed)
}

fn of_window(window: &mut WindowFunction, schema: &DFSchema) -> Result<bool> {
    let params = &mut window.params;
    let mut changed = each_nan_formed(&mut params.args, schema)?;
    for key in &mut params.partition_by {
        changed |= formed(key, schema)?;
    }
    if !windows::is_range_by_distance(&params.window_frame) {
        for sort in &mut params.order_by {
            changed |= formed(&mut sort.expr, schema)?;
        }
    }
    Ok(changed)
}

fn of_nullif(call: &ScalarFunction, schema: &DFSchema) -> Result<Option<Expr>> {
    let [first, second] = call.args.as_slice() else { return Ok(None) };
    let (of_first, of_second) = (type_of(first, schema)?, type_of(second, schema)?);
    let is_number = of_second.is_integer() || matches!(of_second, DataType::Float32 | DataType::Float64);
    let to = match (&of_first, &of_second) {
        (DataType::Float64, _) | (DataType::Float32, DataType::Float64) => DataType::Float64,
        (DataType::Float32, _) => DataType::Float32,
        _ => return Ok(None),
    };
    if !is_number {
        return Ok(None);
    }
    let as_double = |value: &Expr, own: &DataType| {
        if *own == to { value.clone() } else { Expr::Cast(Cast::new(Box::new(value.clone()), to.clone())) }
    };
    Ok(Some(null_if().call(vec![as_double(first, &of_first), as_double(second, &of_second)])))
}

/// Gives the doubles of a list one form if it has a zero, a NaN, or other items than constants.
fn of_list(list: &InList, schema: &DFSchema) -> Result<Option<Expr>> {
    if !list.list.iter().all(|item| matches!(item, Expr::Literal(..))) {
        let mut list = list.clone();
        let mut changed = formed(&mut list.expr, schema)?;
        for item in &mut list.list {
            changed |= formed(item, schema)?;
        }
        return Ok(changed.then_some(Expr::InList(list)));
    }
    let is_zero = |item: &Expr| match item {
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => *value == 0.0,
        Expr::Literal(ScalarValue::Float32(Some(value)), _) => *value == 0.0,
        Expr::Literal(ScalarValue::Int64(Some(value)), _) => *value == 0,
        _ => false,
    };
    if !list.list.iter().any(|item| is_zero(item) || is_nan(item)) || !is_double(&list.expr, schema)? {
        return Ok(None);
    }
    let mut list = list.clone();
    formed(&mut list.expr, schema)?;
    for item in &mut list.list {
        if is_zero(item) {
            *item = Expr::Literal(ScalarValue::Float64(Some(0.0)), None);
        } else if is_nan(item) {
            *item = Expr::Literal(ScalarValue::Float64(Some(f64::NAN)), None);
        }
    }
    Ok(Some(Expr::InList(list)))
}
