//! Cuts: a stage takes the place of a part of the plan, and a scan of its closed windows stands there instead.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use buzz_protocol::Result;
use datafusion::common::{Column, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection};

use super::flow::{Flow, WindowColumn, local_ends};
use super::placeholders::window_start;
use super::{Lowering, SLICE, StageDraft, StageKind, TIME, refused};
use crate::feed::FeedTable;
use crate::window::{WindowSpec, time_type};

impl Lowering<'_> {
    /// Cuts `flow`: its rows are kept until the window in `expr` closes.
    pub(super) fn buffer(&mut self, flow: Flow, expr: &Expr, window: WindowColumn) -> Result<Flow> {
        let WindowSpec::Hop { width, .. } = window.spec else {
            return Err(refused(
                "session() of raw rows",
                "a session is known only after grouping",
                "write GROUP BY session(…) in a subquery",
            ));
        };
        for index in 0..flow.width() - 1 {
            self.materialized(&flow, index)?;
        }
        let start = window_start(expr.clone().unalias_nested().data, window.part, width);
        let start = start.cast_to(&time_type(), flow.plan.schema())?;
        let mut exprs: Vec<Expr> =
            (0..flow.width()).map(|index| flow.column(index).alias(format!("c{index}"))).collect();
        exprs.push(start.alias(SLICE));
        let below = LogicalPlanBuilder::from(flow.plan.clone()).project(exprs)?.build()?;
        let last = flow.width() - 1;
        let schema = slot_schema(flow.plan.schema().fields().iter().take(last).map(|field| field.data_type().clone()));
        let names: Vec<_> = flow.plan.schema().iter().take(last).map(|(q, f)| (q.cloned(), f.name().clone())).collect();
        let plan = self.cut(
            StageDraft {
                slot: String::new(),
                spec: window.spec,
                kind: StageKind::Buffer,
                below,
                schema,
                clause: format!("rows of {}", window.spec),
            },
            &names,
        )?;
        // Rows with the window of `expr` are now emitted together.
        let mut windows = flow.windows;
        for known in windows.values_mut() {
            if known.spec == window.spec {
                known.closed = true;
            }
        }
        // The rows leave at the end of their window, so their own time is in the past.
        let times = local_ends(&windows);
        Ok(Flow { plan, streaming: true, changing: false, windows, times, pairs: Vec::new() })
    }

    /// Adds a stage and returns the scan of its slot, whose columns have `names` and then [`TIME`].
    pub(super) fn cut(
        &mut self,
        mut draft: StageDraft,
        names: &[(Option<TableReference>, String)],
    ) -> Result<LogicalPlan> {
        let slot = format!("slot {}.{}", self.prefix, self.stages.len());
        draft.slot.clone_from(&slot);
        let table = FeedTable { name: slot, schema: Arc::clone(&draft.schema) };
        let alias = format!("__slot{}", self.stages.len());
        let scan = LogicalPlanBuilder::scan(alias.as_str(), provider_as_source(Arc::new(table)), None)?;
        let mut exprs: Vec<Expr> = names
            .iter()
            .enumerate()
            .map(|(index, (qualifier, name))| {
                Expr::Column(Column::new(Some(alias.as_str()), format!("c{index}")))
                    .alias_qualified(qualifier.clone(), name)
            })
            .collect();
        exprs.push(Expr::Column(Column::new(Some(alias.as_str()), TIME)).alias(TIME));
        self.stages.push(draft);
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(scan.build()?))?))
    }

    /// Returns `flow` with its rows kept until their window closes, if a window column of `exprs` allows it.
    pub(super) fn local(&mut self, flow: Flow, exprs: &[Expr]) -> Result<Option<Flow>> {
        let mut raw = None;
        for expr in exprs {
            match flow.window_of(expr)? {
                Some(window) if window.is_local() => return Ok(Some(flow)),
                Some(window) if !window.closed => raw = Some((expr.clone(), window)),
                _ => {}
            }
        }
        match raw {
            Some((_, window)) if window.pending => Err(self.pending_error(window.spec)),
            Some((expr, window)) => Ok(Some(self.buffer(flow, &expr, window)?)),
            None => Ok(None),
        }
    }
}

pub(super) fn slot_schema(types: impl Iterator<Item = DataType>) -> SchemaRef {
    let mut fields: Vec<Field> =
        types.enumerate().map(|(index, data_type)| Field::new(format!("c{index}"), data_type, true)).collect();
    fields.push(Field::new(TIME, time_type(), true));
    Arc::new(Schema::new(fields))
}
