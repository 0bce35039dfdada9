//! Calls of `tumble`, `hop` and `session` in expressions: where they may stand, and what takes their place.

use buzz_protocol::{QueryError, Result};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlanBuilder, lit};

use super::flow::{Flow, WindowColumn};
use super::{Lowering, changing_window, refused};
use crate::window::{Part, WindowCall, WindowSpec, time_type, window_call, window_type, window_udf, windows_udf};

impl Lowering<'_> {
    /// Fails if a column has no value yet.
    pub(super) fn materialized(&mut self, flow: &Flow, index: usize) -> Result<()> {
        match flow.windows.get(&index) {
            Some(window) if window.pending => Err(self.pending_error(window.spec)),
            _ => Ok(()),
        }
    }

    pub(super) fn pending_error(&mut self, spec: WindowSpec) -> QueryError {
        match spec {
            WindowSpec::Session { .. } => QueryError::invalid(
                "session() is used outside GROUP BY, but a session is known only after grouping; \
                 write GROUP BY session(…) in a subquery and use its window in the outer SELECT",
            ),
            WindowSpec::Never => QueryError::internal("a group without a window has one"),
            WindowSpec::Hop { .. } => {
                self.needs_repeat = true;
                QueryError::internal("a hopping window was planned by slices")
            }
        }
    }

    /// Checks the time column that a window function in `expr` names. Returns it if it is not the flow's own time.
    pub(super) fn explicit_time(&mut self, expr: &Expr, input: &Flow) -> Result<Option<Expr>> {
        let mut found = Ok(None);
        expr.apply(|node| {
            match window_call(node) {
                Ok(Some(WindowCall { time: Some(time), .. })) => {
                    let position = match time.clone().unalias_nested().data {
                        Expr::Column(column) => input.index_of(&column),
                        _ => None,
                    };
                    found = match position {
                        Some(position) if input.times.contains(&position) => {
                            // The end of a closed window is later than the time of its row, so it may replace it.
                            let replaces = input.windows.contains_key(&position);
                            Ok(replaces
                                .then(|| time.clone().cast_to(&time_type(), input.plan.schema()))
                                .transpose()
                                .unwrap_or_default())
                        }
                        _ if input.changing => Err(changing_window("a window")),
                        _ => Err(refused(
                            &format!("a window by `{time}`"),
                            "windows follow the event time of their source",
                            &format!("declare WATERMARK FOR {} in its CREATE TABLE", last_name(&time)),
                        )),
                    };
                }
                Ok(_) => {}
                Err(error) => found = Err(error),
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        found
    }

    /// Replaces placeholders in `expr`. `window` is the window part that the whole expression is, if any.
    pub(super) fn rewrite(&mut self, expr: &Expr, window: Option<WindowColumn>, input: &mut Flow) -> Result<Expr> {
        if let Some(window) = window
            && window.pending
            && !self.repeat
        {
            // A column without a value, which only GROUP BY may use.
            let data_type = if window.part == Part::Window { window_type() } else { time_type() };
            return Ok(lit(ScalarValue::try_from(&data_type)?));
        }
        // A column that has no value yet must not be read.
        if let Some(pending) = self.pending_column(expr, input) {
            return Err(self.pending_error(pending.spec));
        }
        let mut failure = None;
        let rewritten = expr
            .clone()
            .transform_up(|node| {
                let call = match window_call(&node) {
                    Ok(Some(call)) => call,
                    Ok(None) => return Ok(Transformed::no(node)),
                    Err(error) => {
                        failure = Some(error);
                        return Ok(Transformed::no(node));
                    }
                };
                let time = match &call.time {
                    Some(time) => time.clone().cast_to(&time_type(), input.plan.schema())?,
                    None => input.time(),
                };
                match call.spec {
                    WindowSpec::Hop { slide, width } if slide == width => {
                        Ok(Transformed::yes(window_udf().call(vec![time, lit(width)])))
                    }
                    WindowSpec::Hop { slide, width } if self.repeat => match repeat_rows(input, time, slide, width) {
                        Ok(column) => Ok(Transformed::yes(column)),
                        Err(error) => {
                            failure = Some(error);
                            Ok(Transformed::no(node))
                        }
                    },
                    spec => {
                        failure = Some(self.pending_error(spec));
                        Ok(Transformed::no(node))
                    }
                }
            })
            .data()?;
        match failure {
            Some(error) => Err(error),
            None => Ok(rewritten),
        }
    }

    pub(super) fn pending_column(&self, expr: &Expr, input: &Flow) -> Option<WindowColumn> {
        expr.column_refs().into_iter().find_map(|column| {
            let index = input.index_of(column)?;
            input.windows.get(&index).filter(|window| window.pending).copied()
        })
    }

    /// Fails if one of `exprs` calls a window function or reads a window that has no value yet.
    pub(super) fn plain(&mut self, clause: &str, exprs: &[Expr], input: &Flow) -> Result<()> {
        for expr in exprs {
            let calls = expr.exists(|node| Ok(matches!(window_call(node), Ok(Some(_)) | Err(_))))?;
            if calls {
                return Err(refused(
                    &format!("{clause} with a window function"),
                    "tumble, hop and session are allowed in SELECT and GROUP BY",
                    "select the window under a name in a subquery and use that name",
                ));
            }
            if let Some(pending) = self.pending_column(expr, input) {
                return Err(self.pending_error(pending.spec));
            }
        }
        Ok(())
    }
}

/// Refuses expressions that read other tables or whose value depends on when they run.
pub(super) fn check_expression(expr: &Expr) -> Result<()> {
    let mut failure = None;
    expr.apply(|node| {
        match node {
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => {
                failure = Some(refused(
                    "a subquery in an expression",
                    "the rows it reads change with every epoch",
                    "write it as a JOIN on the window",
                ));
            }
            Expr::OuterReferenceColumn(..) => {
                failure =
                    Some(refused("a correlated subquery", "it is not supported over streams", "write it as a JOIN"));
            }
            Expr::ScalarFunction(function)
                if matches!(
                    function.name(),
                    "now" | "current_date" | "current_time" | "current_timestamp" | "today"
                ) =>
            {
                failure = Some(refused(
                    &format!("{}()", function.name()),
                    "its value would differ when an epoch is repeated",
                    "use the event time of the row",
                ));
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    failure.map_or(Ok(()), Err)
}

pub(super) fn last_name(expr: &Expr) -> String {
    match expr.clone().unalias_nested().data {
        Expr::Column(column) => column.name,
        other => other.to_string(),
    }
}

/// Returns the start of the window of which `expr` is a part.
pub(super) fn window_start(expr: Expr, part: Part, width: i64) -> Expr {
    match part {
        Part::Window => get_field(expr, "start"),
        Part::Start => expr,
        Part::End => {
            let width = arrow::datatypes::IntervalMonthDayNano::new(0, 0, width);
            expr - lit(ScalarValue::IntervalMonthDayNano(Some(width)))
        }
    }
}

/// Repeats each row of `input` per hopping window, and returns the new window column.
pub(super) fn repeat_rows(input: &mut Flow, time: Expr, slide: i64, width: i64) -> Result<Expr> {
    let name = format!("__buzz_window_{slide}_{width}");
    if let Ok(index) = input.plan.schema().index_of_column(&Column::from_name(&name)) {
        return Ok(input.column(index));
    }
    let mut exprs: Vec<Expr> = (0..input.width()).map(|index| input.column(index)).collect();
    let last = exprs.len() - 1;
    let windows = windows_udf().call(vec![time, lit(slide), lit(width)]).alias(&name);
    // Before the time column, which stays last.
    exprs.insert(last, windows);
    let plan = LogicalPlanBuilder::from(input.plan.clone()).project(exprs)?;
    input.plan = plan.unnest_column(Column::from_name(&name))?.build()?;
    Ok(Expr::Column(Column::from_name(name)))
}
