//! Times, dates and texts beside each other without a conversion that overflows or takes another time zone.
//!
//! The planner reads the literals of timestamps in nanoseconds and converts the other values of COALESCE or CASE to nanoseconds too,
//! which end in 2262: `9999-12-31`, the usual end of time, fails. It reads a text beside a column with a time zone in the zone of
//! the column, not in that of the session, and refuses times without seconds and to compare times of day of different units. [`super::instants`] compares
//! dates and timestamps.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use buzz_storage::text::with_seconds;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::{Case, Cast, Expr, LogicalPlan, Projection, Union};

use super::operands::{compared, is_constant, literal_value, text, type_of};

/// Converts the operands of a comparison, and the results of CASE, COALESCE and the like, so that they have one type. `zone` is the
/// time zone of the session.
pub(super) fn comparable(expression: Expr, schema: &DFSchema, zone: Option<&str>) -> Result<Transformed<Expr>> {
    let compared = compared(expression, &|operands| readable(operands, schema, zone))?;
    let was_changed = compared.transformed;
    let operands = |mut operands: Vec<Expr>| -> Result<Option<Vec<Expr>>> {
        let is_changed = readable(&mut operands, schema, zone)? | united(&mut operands, schema)?;
        Ok(is_changed.then_some(operands))
    };
    let converted = match compared.data {
        Expr::Cast(cast) => wide_literal(&cast).map_or_else(|| Transformed::no(Expr::Cast(cast)), Transformed::yes),
        Expr::Case(case) => {
            let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref().clone());
            let results: Vec<Expr> = results.chain(case.else_expr.as_deref().cloned()).collect();
            match operands(results)? {
                Some(results) => Transformed::yes(Expr::Case(with_results(case, results))),
                None => Transformed::no(Expr::Case(case)),
            }
        }
        Expr::ScalarFunction(mut function) if function.name() == "nullif" => {
            let is_changed = readable(&mut function.args, schema, zone)?;
            Transformed::new_transformed(Expr::ScalarFunction(function), is_changed)
        }
        Expr::ScalarFunction(mut function)
            if ["coalesce", "greatest", "least", "nvl", "ifnull"].contains(&function.name()) =>
        {
            match operands(function.args.clone())? {
                Some(args) => {
                    function.args = args;
                    Transformed::yes(Expr::ScalarFunction(function))
                }
                None => Transformed::no(Expr::ScalarFunction(function)),
            }
        }
        other => Transformed::no(other),
    };
    Ok(Transformed::new_transformed(converted.data, was_changed || converted.transformed))
}

fn with_results(case: Case, results: Vec<Expr>) -> Case {
    let mut results = results.into_iter().map(Box::new);
    let conditions = case.when_then_expr.into_iter().map(|(when, _)| when);
    let when_then_expr = conditions.zip(results.by_ref()).collect();
    Case { expr: case.expr, when_then_expr, else_expr: results.next() }
}

/// Returns a literal in microseconds if its text does not fit nanoseconds, or in the unit of its type if the planner cannot read its
/// text.
fn wide_literal(cast: &Cast) -> Option<Expr> {
    let DataType::Timestamp(unit, zone) = cast.field.data_type() else { return None };
    let text = text(&cast.expr)?;
    let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
    if let Some(full) = full_text(text) {
        let value = full.cast_to(cast.field.data_type()).or_else(|_| full.cast_to(&micros));
        return Some(Expr::Literal(value.ok()?, None));
    }
    if *unit != TimeUnit::Nanosecond || text.cast_to(cast.field.data_type()).is_ok() {
        return None;
    }
    Some(Expr::Literal(text.cast_to(&micros).ok()?, None))
}

/// Returns the text of a time that ends with its minute, such as `2024-01-31 10:00`, with its seconds, which the planner requires.
/// `None` if `text` is another.
fn full_text(text: &ScalarValue) -> Option<ScalarValue> {
    match with_seconds(text.try_as_str()??) {
        Cow::Owned(full) => Some(ScalarValue::from(full.as_str())),
        Cow::Borrowed(_) => None,
    }
}

fn types_of(operands: &[Expr], schema: &DFSchema) -> Result<Vec<DataType>> {
    operands.iter().map(|operand| type_of(operand, schema)).collect()
}

/// Makes literals of the texts among `operands` that are beside a timestamp, and gives times of day one unit. Returns false if they
/// can stay as they are.
fn readable(operands: &mut [Expr], schema: &DFSchema, zone: Option<&str>) -> Result<bool> {
    let types = types_of(operands, schema)?;
    if types.iter().any(is_time) {
        return Ok(times_of_day(operands, &types));
    }
    let Some((unit, column_zone)) = operands.iter().zip(&types).find_map(|(operand, data_type)| match data_type {
        DataType::Timestamp(unit, zone) if literal_value(operand).is_none() => Some((*unit, zone.clone())),
        _ => None,
    }) else {
        return Ok(false);
    };
    let mut changed = false;
    for operand in operands {
        if let Some(new) = text(operand).and_then(|text| text_as_time(text, unit, column_zone.as_ref(), zone)) {
            *operand = new;
            changed = true;
        }
    }
    Ok(changed)
}

/// Converts the values among `operands` that nanoseconds may not hold, and those beside them, to microseconds. Returns false if they
/// can stay as they are.
fn united(operands: &mut [Expr], schema: &DFSchema) -> Result<bool> {
    let types = types_of(operands, schema)?;
    let zone = types.iter().find_map(|data_type| match data_type {
        DataType::Timestamp(_, zone) => Some(zone.clone()),
        _ => None,
    });
    let Some(zone) = zone else { return Ok(false) };
    let is_coarse = |data_type: &DataType| match data_type {
        DataType::Timestamp(unit, _) => *unit != TimeUnit::Nanosecond,
        other => matches!(other, DataType::Date32 | DataType::Date64),
    };
    let varies = |(operand, data_type): (&Expr, &DataType)| is_coarse(data_type) && !is_constant(operand);
    let is_beyond = |operand: &Expr| literal_value(operand).is_some_and(|value| beyond_nanoseconds(&value));
    if !operands.iter().zip(&types).any(varies) && !operands.iter().any(is_beyond) {
        return Ok(false);
    }
    let wanted = DataType::Timestamp(TimeUnit::Microsecond, zone);
    let has_beyond = operands.iter().any(is_beyond);
    let mut changed = false;
    for (operand, data_type) in operands.iter_mut().zip(&types) {
        let new = match data_type {
            DataType::Date32 | DataType::Date64 => Some(cast(operand, &wanted)),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => match literal_value(operand) {
                Some(value) if in_microseconds(&value) => {
                    let own = DataType::Timestamp(TimeUnit::Microsecond, zone_of(&value));
                    value.cast_to(&own).ok().map(|value| Expr::Literal(value, None))
                }
                Some(_) => None,
                // `now()` has microseconds in PostgreSQL.
                None => (has_beyond || is_constant(operand)).then(|| cast(operand, &wanted)),
            },
            _ => None,
        };
        if let Some(new) = new {
            *operand = new;
            changed = true;
        }
    }
    Ok(changed)
}

/// Converts the times of day that `union` unites to nanoseconds where their units differ: the planner refuses these.
pub(super) fn of_one_unit(union: Union) -> Result<Transformed<LogicalPlan>> {
    let columns = union.schema.fields().len();
    let mut differ = vec![false; columns];
    for (index, differs) in differ.iter_mut().enumerate() {
        let mut types = union.inputs.iter().map(|input| input.schema().field(index).data_type());
        let first = types.next();
        *differs = first.is_some_and(is_time) && types.clone().all(is_time) && types.any(|other| Some(other) != first);
    }
    if !differ.contains(&true) {
        return Ok(Transformed::no(LogicalPlan::Union(union)));
    }
    let mut inputs = Vec::with_capacity(union.inputs.len());
    for input in union.inputs {
        let columns = input.schema().iter().zip(&differ).map(|((relation, field), differs)| {
            let column = Expr::Column(Column::new(relation.cloned(), field.name()));
            if *differs { in_nanoseconds(&column).alias_qualified(relation.cloned(), field.name()) } else { column }
        });
        let columns = columns.collect();
        inputs.push(Arc::new(LogicalPlan::Projection(Projection::try_new(columns, input)?)));
    }
    Ok(Transformed::yes(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)))
}

/// Returns what to join instead of `left = right`, expressions of the given types, if these are times of day of different units.
pub(super) fn keys(left: (&Expr, &DataType), right: (&Expr, &DataType)) -> Option<(Expr, Expr)> {
    let differ = is_time(left.1) && is_time(right.1) && left.1 != right.1;
    differ.then(|| (in_nanoseconds(left.0), in_nanoseconds(right.0)))
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Time32(_) | DataType::Time64(_))
}

fn in_nanoseconds(time: &Expr) -> Expr {
    cast(time, &DataType::Time64(TimeUnit::Nanosecond))
}

fn cast(operand: &Expr, to: &DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(operand.clone()), to.clone()))
}

/// Makes all of `operands` times of day in nanoseconds.
fn times_of_day(operands: &mut [Expr], types: &[DataType]) -> bool {
    let mut times = types.iter().filter(|data_type| is_time(data_type));
    let first = times.next();
    if times.all(|time| Some(time) == first) {
        return false;
    }
    for (operand, data_type) in operands.iter_mut().zip(types) {
        if is_time(data_type) && *data_type != DataType::Time64(TimeUnit::Nanosecond) {
            *operand = in_nanoseconds(operand);
        }
    }
    true
}

fn zone_of(value: &ScalarValue) -> Option<Arc<str>> {
    match value.data_type() {
        DataType::Timestamp(_, zone) => zone,
        _ => None,
    }
}

fn beyond_nanoseconds(value: &ScalarValue) -> bool {
    let nanoseconds = match value.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => return false,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone),
        DataType::Date32 | DataType::Date64 => DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => {
            let of = |unit| value.cast_to(&DataType::Timestamp(unit, None));
            return of(TimeUnit::Nanosecond).is_err() && of(TimeUnit::Microsecond).is_ok();
        }
        _ => return false,
    };
    value.cast_to(&nanoseconds).is_err()
}

/// Checks if a timestamp in nanoseconds has no fraction of a microsecond.
fn in_microseconds(value: &ScalarValue) -> bool {
    matches!(value, ScalarValue::TimestampNanosecond(Some(nanoseconds), _) if nanoseconds % 1000 == 0)
}

/// Returns a text as a literal beside values in `unit` and `column_zone`. `None` if the planner reads the text in the same way.
fn text_as_time(
    text: &ScalarValue,
    unit: TimeUnit,
    column_zone: Option<&Arc<str>>,
    zone: Option<&str>,
) -> Option<Expr> {
    let read_in = match (zone, column_zone) {
        (Some(zone), Some(_)) => Some(Arc::from(zone)),
        _ => column_zone.cloned(),
    };
    let full = full_text(text);
    let is_read = full.is_none() && read_in.as_ref() == column_zone;
    let read = |unit| full.as_ref().unwrap_or(text).cast_to(&DataType::Timestamp(unit, read_in.clone()));
    let (value, unit) = match read(TimeUnit::Nanosecond) {
        Ok(_) if unit == TimeUnit::Nanosecond && is_read => return None,
        Ok(value) => (value, TimeUnit::Nanosecond),
        Err(_) => (read(TimeUnit::Microsecond).ok()?, TimeUnit::Microsecond),
    };
    let value = value.cast_to(&DataType::Timestamp(unit, column_zone.cloned())).ok()?;
    Some(Expr::Literal(value, None))
}
