//! Operators and functions that DataFusion has for other types: an interval times a number, the average of decimals of more
//! than 28 digits, `date_bin` and `date_trunc` of dates, `date_bin` of times with a zone.

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use buzz_kernel::multiply_interval;
use buzz_protocol::QueryError;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::functions::datetime::expr_fn::to_local_time;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, WindowFunctionDefinition};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::operands::type_of;

/// Plans `INTERVAL '1 day' * n` and `n * INTERVAL '1 day'`.
#[derive(Debug)]
pub(super) struct Intervals;

impl ExprPlanner for Intervals {
    fn plan_binary_op(&self, raw: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        if raw.op != BinaryOperator::Multiply {
            return Ok(PlannerResult::Original(raw));
        }
        let (left, right) = (raw.left.get_type(schema), raw.right.get_type(schema));
        let (Ok(left), Ok(right)) = (left, right) else { return Ok(PlannerResult::Original(raw)) };
        let is_interval = |data_type: &DataType| matches!(data_type, DataType::Interval(_));
        let (interval, number, data_type) = match (is_interval(&left), is_interval(&right)) {
            (true, false) => (raw.left, raw.right, right),
            (false, true) => (raw.right, raw.left, left),
            _ => return Ok(PlannerResult::Original(raw)),
        };
        let to = if data_type.is_integer() { DataType::Int64 } else { DataType::Float64 };
        let number = Expr::Cast(Cast::new(Box::new(number), to));
        let interval = Expr::Cast(Cast::new(Box::new(interval), DataType::Interval(IntervalUnit::MonthDayNano)));
        Ok(PlannerResult::Planned(multiply_interval().call(vec![interval, number])))
    }
}

/// Makes dates of `date_trunc` and `date_bin` times in microseconds. DataFusion makes them nanoseconds, which end in 2262.
pub(super) fn of_dates(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(mut call) = expression else { return Ok(Transformed::no(expression)) };
    if !matches!(call.name(), "date_trunc" | "date_bin") {
        return Ok(Transformed::no(Expr::ScalarFunction(call)));
    }
    let Some(date) = call.args.get_mut(1) else { return Ok(Transformed::no(Expr::ScalarFunction(call))) };
    let is_date = matches!(type_of(date, schema)?, DataType::Date32 | DataType::Date64);
    if is_date {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        *date = Expr::Cast(Cast::new(Box::new(std::mem::take(date)), micros));
    }
    Ok(Transformed::new_transformed(Expr::ScalarFunction(call), is_date))
}

/// Makes the bins of `date_bin(width, time)` begin at midnight of 1970-01-01 in the time zone of the time, and bins of
/// whole days at its midnights. DataFusion takes midnight in UTC.
pub(super) fn zoned_bins(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(mut call) = expression else { return Ok(Transformed::no(expression)) };
    let ("date_bin", [width, time]) = (call.name(), call.args.as_slice()) else {
        return Ok(Transformed::no(Expr::ScalarFunction(call)));
    };
    let zoned = time.get_type(schema)?;
    if !matches!(zoned, DataType::Timestamp(_, Some(_))) {
        return Ok(Transformed::no(Expr::ScalarFunction(call)));
    }
    if is_days(width) {
        call.args[1] = to_local_time(vec![time.clone()]);
        return Ok(Transformed::yes(Expr::Cast(Cast::new(Box::new(Expr::ScalarFunction(call)), zoned))));
    }
    let origin = ScalarValue::from("1970-01-01T00:00:00").cast_to(&zoned)?;
    call.args.push(Expr::Literal(origin, None));
    Ok(Transformed::yes(Expr::ScalarFunction(call)))
}

/// Checks if `width` is an interval of whole days or months.
fn is_days(width: &Expr) -> bool {
    matches!(width, Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(width)), _) if width.nanoseconds == 0)
}

/// Fails for a function that Buzz does not have.
pub(super) fn supported(expression: Expr) -> Result<Transformed<Expr>> {
    match &expression {
        Expr::ScalarFunction(call) if call.name() == "file_row_index" => Err(QueryError::invalid(
            "`file_row_index()` is not supported: the rows of a file may be read by several tasks; number rows with \
             `row_number() OVER ()`",
        )
        .into_datafusion()),
        _ => Ok(Transformed::no(expression)),
    }
}

/// Digits of a decimal whose sums always fit 38 digits.
const DIGITS_SUMMED: u8 = 28;

/// Makes the average of long decimals one of decimals of 76 digits, whose sum fits. The average has the type that
/// DataFusion gives it, or more digits if that type cannot hold it.
pub(super) fn wide_average(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (name, args) = match &expression {
        Expr::AggregateFunction(aggregate) => (aggregate.func.name(), &aggregate.params.args),
        Expr::WindowFunction(window) => match &window.fun {
            WindowFunctionDefinition::AggregateUDF(aggregate) => (aggregate.name(), &window.params.args),
            WindowFunctionDefinition::WindowUDF(_) => return Ok(Transformed::no(expression)),
        },
        _ => return Ok(Transformed::no(expression)),
    };
    let ("avg", [arg]) = (name, args.as_slice()) else { return Ok(Transformed::no(expression)) };
    let (precision, scale) = match arg.get_type(schema)? {
        DataType::Decimal128(precision, scale) if precision > DIGITS_SUMMED => (precision, scale),
        _ => return Ok(Transformed::no(expression)),
    };
    let planned = expression.get_type(schema)?;
    let wide = |arg: &mut Expr| {
        let inner = std::mem::take(arg);
        *arg = Expr::Cast(Cast::new(Box::new(inner), DataType::Decimal256(precision, scale)));
    };
    let mut expression = expression;
    match &mut expression {
        Expr::AggregateFunction(aggregate) => aggregate.params.args.iter_mut().for_each(wide),
        Expr::WindowFunction(window) => window.params.args.iter_mut().for_each(wide),
        _ => {}
    }
    // Four digits behind the point are added.
    let fits = precision + 4 <= 38;
    Ok(Transformed::yes(if fits { Expr::Cast(Cast::new(Box::new(expression), planned)) } else { expression }))
}
