//! Windows that are ordered by a value of which no range can be computed, such as a struct or a duration, and ranges of null keys.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, WindowFrame, WindowFrameBound, WindowFrameUnits, when};

/// Applies `rule` to `expression`, or to the window function that an earlier rule has put into a cast or a call.
pub(super) fn within(expression: Expr, rule: &dyn Fn(Expr) -> Result<Transformed<Expr>>) -> Result<Transformed<Expr>> {
    match expression {
        Expr::Cast(cast) if matches!(cast.expr.as_ref(), Expr::WindowFunction(_)) => {
            let inner = rule(*cast.expr)?;
            let cast = Cast { expr: Box::new(inner.data), field: cast.field };
            Ok(Transformed::new_transformed(Expr::Cast(cast), inner.transformed))
        }
        Expr::ScalarFunction(mut call) if matches!(call.args.as_slice(), [Expr::WindowFunction(_)]) => {
            let inner = rule(call.args.remove(0))?;
            call.args.push(inner.data);
            Ok(Transformed::new_transformed(Expr::ScalarFunction(call), inner.transformed))
        }
        other => rule(other),
    }
}

/// Makes the frame of a window one of `GROUPS` if no range can be computed of the values that order it, and if its bounds
/// need none: both are then the same.
pub(super) fn in_groups(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut window) = expression else { return Ok(Transformed::no(expression)) };
    if !needs_groups(&window, schema)? {
        return Ok(Transformed::no(Expr::WindowFunction(window)));
    }
    let frame = &window.params.window_frame;
    let (start, end) = (frame.start_bound.clone(), frame.end_bound.clone());
    window.params.window_frame = WindowFrame::new_bounds(WindowFrameUnits::Groups, start, end);
    Ok(Transformed::yes(Expr::WindowFunction(window)))
}

/// Computes a range that ends before the row, such as `RANGE BETWEEN 2 PRECEDING AND 1 PRECEDING`, apart for rows whose key is null:
/// it is all of their peers. DataFusion does not wait for peers in later batches, since the range of other rows has none.
pub(super) fn with_null_peers(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(window) = expression else { return Ok(Transformed::no(expression)) };
    let frame = &window.params.window_frame;
    let ends_before = matches!(&frame.end_bound, WindowFrameBound::Preceding(distance) if !distance.is_null());
    let key = match window.params.order_by.as_slice() {
        [sort] if frame.units == WindowFrameUnits::Range && ends_before && sort.expr.nullable(schema)? => {
            sort.expr.clone()
        }
        _ => return Ok(Transformed::no(Expr::WindowFunction(window))),
    };
    let start = if has_distance(&frame.start_bound) { WindowFrameBound::CurrentRow } else { frame.start_bound.clone() };
    let mut of_peers = window.clone();
    of_peers.params.window_frame =
        WindowFrame::new_bounds(WindowFrameUnits::Range, start, WindowFrameBound::CurrentRow);
    let of_peers = Expr::WindowFunction(of_peers);
    Ok(Transformed::yes(when(key.is_null(), of_peers).otherwise(Expr::WindowFunction(window))?))
}

fn needs_groups(window: &WindowFunction, schema: &DFSchema) -> Result<bool> {
    let frame = &window.params.window_frame;
    if frame.units != WindowFrameUnits::Range || is_range_by_distance(frame) {
        return Ok(false);
    }
    for sort in &window.params.order_by {
        if !has_ranges(&sort.expr.get_type(schema)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks if the rows of `frame` are those within a distance of the value that orders them: it is computed of that value.
pub(super) fn is_range_by_distance(frame: &WindowFrame) -> bool {
    let has_distance = has_distance(&frame.start_bound) || has_distance(&frame.end_bound);
    frame.units == WindowFrameUnits::Range && has_distance
}

fn has_distance(bound: &WindowFrameBound) -> bool {
    match bound {
        WindowFrameBound::Preceding(distance) | WindowFrameBound::Following(distance) => !distance.is_null(),
        WindowFrameBound::CurrentRow => false,
    }
}

fn has_ranges(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => has_ranges(values),
        DataType::Struct(_)
        | DataType::Map(..)
        | DataType::Union(..)
        | DataType::Duration(_)
        | DataType::Interval(_)
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => false,
        _ => true,
    }
}
