//! Decimal literals that a DOUBLE does not hold.
//!
//! The planner reads `0.1` as a DOUBLE. A literal of up to 15 digits becomes the same decimal again where it is compared
//! with one (`decimals`). Longer ones are decimals from the start, and sums and products of literals are computed exactly.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, Value, ValueWithSpan,
};

/// Digits that a DOUBLE always holds.
const DIGITS_OF_DOUBLE: usize = 15;
/// Digits of the longest decimal.
const DIGITS_MAX: usize = 38;

/// Makes `expression` exact if it is a literal, or an operation on literals.
pub(super) fn exact(expression: &mut Expr) {
    if let Expr::BinaryOp { left, op, right } = &*expression
        && let (Some(left), Some(right)) = (Decimal::of(left), Decimal::of(right))
        && (left.scale > 0 || right.scale > 0)
        && let Some(result) = left.computed(op, right)
    {
        *expression = result;
        return;
    }
    if let Some(number) = literal(expression)
        && let Some(decimal) = long(number)
    {
        *expression = decimal;
    }
}

fn literal(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => Some(number),
        _ => None,
    }
}

/// Returns a literal of too many digits for a DOUBLE or a BIGINT as a decimal.
fn long(number: &str) -> Option<Expr> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_decimal = !number.is_empty() && whole.chars().chain(fraction.chars()).all(|digit| digit.is_ascii_digit());
    let significant = whole.trim_start_matches('0').len() + fraction.len();
    let fits = if number.contains('.') { significant <= DIGITS_OF_DOUBLE } else { number.parse::<u64>().is_ok() };
    let digits = significant.max(fraction.len());
    if !is_decimal || fits || digits > DIGITS_MAX {
        return None;
    }
    let (digits, scale) = (u64::try_from(digits).ok()?, i64::try_from(fraction.len()).ok()?);
    Some(Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Expr::value(Value::SingleQuotedString(number.to_string()))),
        data_type: DataType::Decimal(ExactNumberInfo::PrecisionAndScale(digits, scale)),
        array: false,
        format: None,
    })
}

/// A literal of few digits.
#[derive(Debug, Clone, Copy)]
struct Decimal {
    digits: i64,
    scale: u32,
}

impl Decimal {
    fn of(expression: &Expr) -> Option<Self> {
        let number = literal(expression)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() > DIGITS_OF_DOUBLE {
            return None;
        }
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.chars().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        Some(Self { digits: digits.parse().ok()?, scale: u32::try_from(fraction.len()).ok()? })
    }

    /// Computes `op` as a literal. `None` if the result is negative or too long for a literal of few digits.
    fn computed(self, op: &BinaryOperator, other: Self) -> Option<Expr> {
        let scale = self.scale.max(other.scale);
        let aligned = |one: Self| one.digits.checked_mul(10_i64.checked_pow(scale - one.scale)?);
        let (digits, scale) = match op {
            BinaryOperator::Plus => (aligned(self)?.checked_add(aligned(other)?)?, scale),
            BinaryOperator::Minus => (aligned(self)?.checked_sub(aligned(other)?)?, scale),
            BinaryOperator::Multiply => (self.digits.checked_mul(other.digits)?, self.scale + other.scale),
            _ => return None,
        };
        let scale = usize::try_from(scale).ok()?;
        let text = format!("{digits:0>width$}", width = scale + 1);
        if digits < 0 || text.len() > DIGITS_OF_DOUBLE {
            return None;
        }
        let (whole, fraction) = text.split_at(text.len() - scale);
        Some(Expr::value(Value::Number(format!("{whole}.{fraction}"), false)))
    }
}
