//! Window functions and ORDER BY over closed windows.

use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Sort, Window};

use super::flow::Flow;
use super::{Lowering, TIME, refused};

impl Lowering<'_> {
    pub(super) fn window_functions(&mut self, window: &Window) -> Result<Flow> {
        let input = self.lower(&window.input)?;
        if !input.streaming {
            return Ok(Flow::fixed(LogicalPlan::Window(window.clone())));
        }
        let mut partitions = Vec::new();
        for expr in &window.window_expr {
            let Expr::WindowFunction(function) = expr.clone().unalias_nested().data else {
                return Err(QueryError::internal("a window operator has other expressions"));
            };
            partitions.push(function.params.partition_by);
        }
        if input.changing || !all_windowed(&input, &partitions)? {
            return self.keyed_window(window, &input, &partitions);
        }
        let mut flow = input;
        for keys in &partitions {
            flow = self.local(flow, keys)?.ok_or_else(|| QueryError::internal("a partition with a window has none"))?;
        }
        self.plain("OVER", &window.window_expr, &flow)?;
        let time = flow.time();
        let width = flow.width();
        let added = window.window_expr.len();
        let plan = LogicalPlan::Window(Window::try_new(window.window_expr.clone(), Arc::new(flow.plan))?);
        let joined = Flow::fixed(plan);
        // The time column last.
        let mut exprs: Vec<Expr> = (0..width + added).filter(|&i| i != width - 1).map(|i| joined.column(i)).collect();
        exprs.push(time.alias(TIME));
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(joined.plan))?);
        Ok(Flow { plan, streaming: true, changing: false, windows: flow.windows, times: flow.times, pairs: flow.pairs })
    }

    pub(super) fn sort(&mut self, sort: &Sort) -> Result<Flow> {
        let flow = self.lower(&sort.input)?;
        if !flow.streaming {
            return Ok(Flow::fixed(LogicalPlan::Sort(sort.clone())));
        }
        let by_window = match sort.expr.first() {
            Some(first) => first.asc && flow.window_of(&first.expr)?.is_some_and(|window| window.is_local()),
            None => false,
        };
        if !by_window || sort.fetch.is_some() {
            return Err(refused(
                "ORDER BY",
                "a stream has no end, so its rows cannot be sorted as a whole",
                "order by the window first (ascending), add LIMIT, or remove ORDER BY",
            ));
        }
        let exprs: Vec<Expr> = sort.expr.iter().map(|sort| sort.expr.clone()).collect();
        self.plain("ORDER BY", &exprs, &flow)?;
        let plan = LogicalPlan::Sort(Sort { expr: sort.expr.clone(), input: Arc::new(flow.plan.clone()), fetch: None });
        Ok(Flow { plan, ..flow })
    }
}

/// Returns true if each list of keys has a window.
fn all_windowed(flow: &Flow, partitions: &[Vec<Expr>]) -> Result<bool> {
    for keys in partitions {
        let windows = keys.iter().map(|key| flow.window_of(key)).collect::<Result<Vec<_>>>()?;
        // The start of a closed session does not determine the epoch.
        if !windows.iter().flatten().any(|window| window.is_local() || !window.closed) {
            return Ok(false);
        }
    }
    Ok(true)
}
