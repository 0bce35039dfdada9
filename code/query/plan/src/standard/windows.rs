//! Windows that are ordered by a value of which no range can be computed, such as a struct or a duration.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr, ExprSchemable, WindowFrame, WindowFrameBound, WindowFrameUnits};

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

fn needs_groups(window: &WindowFunction, schema: &DFSchema) -> Result<bool> {
    let frame = &window.params.window_frame;
    if frame.units != WindowFrameUnits::Range || has_distance(&frame.start_bound) || has_distance(&frame.end_bound) {
        return Ok(false);
    }
    for sort in &window.params.order_by {
        if !has_ranges(&sort.expr.get_type(schema)?) {
            return Ok(true);
        }
    }
    Ok(false)
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
