//! Interval joins: conditions on the event times of both sides bound how long a row can find partners.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};

use super::flow::Flow;
use crate::window::{DAY, interval_literal};

/// Bounds of the time of the left row minus that of the right row, in nanoseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    lowest: Option<i64>,
    highest: Option<i64>,
}

/// The event time of a side plus nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Moment {
    is_left: bool,
    plus: i64,
    /// The unit of the column in nanoseconds.
    unit: i64,
}

impl Bounds {
    /// Returns the bounds that `filter` implies. Conditions of other forms do not count.
    pub(super) fn of(left: &Flow, right: &Flow, filter: Option<&Expr>) -> Self {
        let mut bounds = Self::default();
        for condition in filter.into_iter().flat_map(split_conjunction) {
            match condition {
                Expr::BinaryExpr(BinaryExpr { left: a, op, right: b }) => bounds.add(left, right, (a, *op, b)),
                Expr::Between(Between { expr, negated: false, low, high }) => {
                    bounds.add(left, right, (expr, Operator::GtEq, low));
                    bounds.add(left, right, (expr, Operator::LtEq, high));
                }
                _ => {}
            }
        }
        bounds
    }

    fn add(&mut self, left: &Flow, right: &Flow, (a, op, b): (&Expr, Operator, &Expr)) {
        let (Some(a), Some(b)) = (moment(left, right, a), moment(left, right, b)) else { return };
        if a.is_left == b.is_left {
            return;
        }
        // From here on, the left row is on the left.
        let (l, r, op) = match (a.is_left, op.swap()) {
            (true, _) => (a, b, op),
            (false, Some(swapped)) => (b, a, swapped),
            (false, None) => return,
        };
        let Some(bound) = r.plus.checked_sub(l.plus) else { return };
        if matches!(op, Operator::Lt | Operator::LtEq | Operator::Eq) {
            self.highest = Some(self.highest.map_or(bound, |highest| highest.min(bound)));
        }
        if matches!(op, Operator::Gt | Operator::GtEq | Operator::Eq) {
            self.lowest = Some(self.lowest.map_or(bound, |lowest| lowest.max(bound)));
        }
    }

    /// Returns how far the watermark may be ahead of a left row that can still find partners, in nanoseconds; `None` without
    /// a bound.
    pub(super) fn left(self) -> Option<i64> {
        // The end of a window, which is an event time too, is a nanosecond after the time of its row.
        self.lowest.and_then(|lowest| 1_i64.checked_sub(lowest))
    }

    /// As [`Self::left`], of a right row.
    pub(super) fn right(self) -> Option<i64> {
        self.highest.and_then(|highest| highest.checked_add(1))
    }
}

/// Reads `time`, `time + interval` and `time - interval`.
fn moment(left: &Flow, right: &Flow, expr: &Expr) -> Option<Moment> {
    match expr {
        Expr::Alias(alias) => moment(left, right, &alias.expr),
        Expr::Column(column) => {
            let is_time = |flow: &Flow| flow.index_of(column).is_some_and(|index| flow.times.contains(&index));
            let unit =
                |flow: &Flow| flow.index_of(column).map(|index| unit_of(flow.plan.schema().field(index).data_type()));
            match (is_time(left), is_time(right)) {
                (true, false) => Some(Moment { is_left: true, plus: 0, unit: unit(left)? }),
                (false, true) => Some(Moment { is_left: false, plus: 0, unit: unit(right)? }),
                _ => None,
            }
        }
        Expr::BinaryExpr(BinaryExpr { left: a, op, right: b }) => {
            let (time, nanos) = match (moment(left, right, a), moment(left, right, b)) {
                (Some(time), None) => (time, interval(b)?),
                (None, Some(time)) if *op == Operator::Plus => (time, interval(a)?),
                _ => return None,
            };
            // A sum is cut to the unit of the column.
            if nanos % time.unit != 0 {
                return None;
            }
            let plus = match op {
                Operator::Plus => time.plus.checked_add(nanos)?,
                Operator::Minus => time.plus.checked_sub(nanos)?,
                _ => return None,
            };
            Some(Moment { plus, ..time })
        }
        _ => None,
    }
}

/// Returns the unit of times of `data_type`, in nanoseconds.
fn unit_of(data_type: &DataType) -> i64 {
    match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => 1,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => 1_000_000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        _ => DAY,
    }
}

/// Returns the nanoseconds of an interval that has no months.
fn interval(expr: &Expr) -> Option<i64> {
    i64::try_from(interval_literal(expr)?.ok()?).ok()
}
