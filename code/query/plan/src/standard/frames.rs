//! Frames of windows that are longer than any table.
//!
//! DataFusion adds the bound of a frame to the number of a row, which overflows beyond the largest BIGINT. No table has that
//! many rows, so a larger bound means the same as that number.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, Value, ValueWithSpan, WindowFrameBound, WindowFrameUnits, WindowSpec, WindowType,
};

/// Bounds the frame of `expression` if it is a window function whose frame counts rows or groups.
pub(super) fn bounded(expression: &mut Expr) {
    let Expr::Function(Function { over: Some(WindowType::WindowSpec(window)), .. }) = expression else { return };
    let WindowSpec { window_frame: Some(frame), .. } = window else { return };
    if frame.units == WindowFrameUnits::Range {
        return;
    }
    for bound in std::iter::once(&mut frame.start_bound).chain(&mut frame.end_bound) {
        if let WindowFrameBound::Preceding(Some(rows)) | WindowFrameBound::Following(Some(rows)) = bound
            && let Some(count) = count_of(rows)
            && is_beyond(count)
        {
            *count = i64::MAX.to_string();
        }
    }
}

/// Returns the literal in `rows`, such as `1` or `'1'`. The parser reads the latter as an interval.
fn count_of(rows: &mut Expr) -> Option<&mut String> {
    match rows {
        Expr::Value(ValueWithSpan { value: Value::Number(count, _) | Value::SingleQuotedString(count), .. }) => {
            Some(count)
        }
        Expr::Interval(interval) => count_of(&mut interval.value),
        _ => None,
    }
}

fn is_beyond(count: &str) -> bool {
    !count.is_empty() && count.bytes().all(|digit| digit.is_ascii_digit()) && count.parse::<i64>().is_err()
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_statement;

    #[test]
    fn bounds_beyond_the_largest_bigint_are_that_number() {
        for (frame, expected) in [
            ("ROWS 9223372036854775808 PRECEDING", "ROWS 9223372036854775807 PRECEDING"),
            (
                "GROUPS BETWEEN 18446744073709551616 FOLLOWING AND 99999999999999999999999999 FOLLOWING",
                "GROUPS BETWEEN 9223372036854775807 FOLLOWING AND 9223372036854775807 FOLLOWING",
            ),
            ("ROWS BETWEEN 7 PRECEDING AND CURRENT ROW", "ROWS BETWEEN 7 PRECEDING AND CURRENT ROW"),
            ("RANGE 18446744073709551615 PRECEDING", "RANGE 18446744073709551615 PRECEDING"),
        ] {
            let sql = |frame: &str| format!("SELECT sum(a) OVER (ORDER BY a {frame}) FROM t");
            assert_eq!(parse_statement(&sql(frame)).unwrap().to_string(), sql(expected));
            let named = format!("SELECT sum(a) OVER w FROM t WINDOW w AS (ORDER BY a {frame})");
            assert_eq!(parse_statement(&named).unwrap().to_string(), sql(expected));
        }
    }
}
