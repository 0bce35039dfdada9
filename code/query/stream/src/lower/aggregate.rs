//! Aggregates: a windowed one is cut out as a stage, one over closed windows stays in the plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use buzz_protocol::Result;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, ExprSchemable, LogicalPlan, lit};

use super::cut::slot_schema;
use super::flow::{Flow, WindowColumn, local_ends};
use super::placeholders::window_start;
use super::{Lowering, Output, SLICE, StageDraft, StageKind, TIME, changing_window, refused};
use crate::window::{Part, WindowSpec, slice_udf, time_type, whole_udf};

impl Lowering<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Flow> {
        let mut input = self.lower(&aggregate.input)?;
        if !input.streaming {
            return Ok(Flow::fixed(LogicalPlan::Aggregate(aggregate.clone())));
        }
        if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return Err(refused(
                "GROUP BY with ROLLUP, CUBE or GROUPING SETS",
                "it is not supported over streams",
                "write one SELECT per grouping and combine them with UNION ALL",
            ));
        }
        self.plain("an aggregate", &aggregate.aggr_expr, &input)?;
        for expr in &aggregate.group_expr {
            if let Some(time) = self.explicit_time(expr, &input)? {
                input = input.with_time(time, TIME)?;
            }
        }
        let keys = aggregate.group_expr.iter().map(|expr| input.window_of(expr)).collect::<Result<Vec<_>>>()?;
        if input.changing {
            if keys.iter().any(Option::is_some) {
                return Err(changing_window("GROUP BY with a window"));
            }
            return self.changed_aggregate(aggregate, &input);
        }
        if keys.iter().flatten().any(WindowColumn::is_local) {
            return self.closed_aggregate(aggregate, input, &keys);
        }
        let Some(window) = keys.iter().flatten().find(|key| !key.closed).copied() else {
            return self.endless(aggregate, input);
        };
        if let Some(other) = keys.iter().flatten().find(|key| !key.closed && key.spec != window.spec) {
            return Err(refused(
                &format!("GROUP BY with two windows, {} and {}", window.spec, other.spec),
                "a group belongs to one window",
                "group by one of them",
            ));
        }
        self.fold(aggregate, input, &keys, window)
    }

    /// An aggregate without a window: its groups never end, so its rows change.
    fn endless(&mut self, aggregate: &Aggregate, input: Flow) -> Result<Flow> {
        let (spec, part) = (WindowSpec::Never, Part::Start);
        let never = WindowColumn { spec, part, closed: false, pending: false, repeated: false };
        let keys = vec![None; aggregate.group_expr.len()];
        Ok(Flow { changing: true, ..self.fold(aggregate, input, &keys, never)? })
    }

    /// An aggregate over closed windows that groups by the window: a batch operator.
    pub(super) fn closed_aggregate(
        &mut self,
        aggregate: &Aggregate,
        input: Flow,
        keys: &[Option<WindowColumn>],
    ) -> Result<Flow> {
        self.plain("GROUP BY of closed windows", &aggregate.group_expr, &input)?;
        let mut aggregates = aggregate.aggr_expr.clone();
        aggregates.push(max(input.time()).alias(TIME));
        let groups = aggregate.group_expr.clone();
        let windows: BTreeMap<usize, WindowColumn> =
            keys.iter().enumerate().filter_map(|(index, key)| Some((index, (*key)?))).collect();
        let times = local_ends(&windows);
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input.plan), groups, aggregates)?);
        Ok(Flow { plan, streaming: true, changing: false, windows, times, pairs: Vec::new() })
    }

    /// Cuts a windowed aggregate out of the plan.
    pub(super) fn fold(
        &mut self,
        aggregate: &Aggregate,
        input: Flow,
        keys: &[Option<WindowColumn>],
        window: WindowColumn,
    ) -> Result<Flow> {
        let (mut groups, mut outputs, mut windows) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut exact = false;
        let mut slice = None;
        for (index, (expr, key)) in aggregate.group_expr.iter().zip(keys).enumerate() {
            match key {
                Some(key) if !key.closed => {
                    outputs.push(Output::Window(key.part));
                    windows.insert(index, WindowColumn { closed: true, pending: false, repeated: false, ..*key });
                    if key.repeated
                        && let WindowSpec::Hop { width, .. } = key.spec
                    {
                        exact = true;
                        slice = Some(window_start(expr.clone().unalias_nested().data, key.part, width));
                    }
                }
                _ => {
                    self.plain("GROUP BY", std::slice::from_ref(expr), &input)?;
                    outputs.push(Output::Column(groups.len()));
                    groups.push(expr.clone());
                }
            }
        }
        let window_index = groups.len();
        let slice = match slice {
            Some(slice) => slice.cast_to(&time_type(), input.plan.schema())?,
            None if window.spec == WindowSpec::Never => whole_udf().call(vec![input.time()]),
            None => slice_udf().call(vec![input.time(), lit(window.spec.slice())]),
        };
        groups.push(slice.alias(SLICE));
        outputs.extend((0..aggregate.aggr_expr.len()).map(|index| Output::Column(window_index + 1 + index)));
        let mut aggregates = aggregate.aggr_expr.clone();
        if matches!(window.spec, WindowSpec::Session { .. }) {
            aggregates.push(max(input.time()).alias("__buzz_last"));
        }
        let schema = slot_schema(aggregate.schema.fields().iter().map(|field| field.data_type().clone()));
        let names: Vec<_> = aggregate.schema.iter().map(|(q, f)| (q.cloned(), f.name().clone())).collect();
        let below = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input.plan), groups, aggregates)?);
        let mut clause: Vec<String> = aggregate.aggr_expr.iter().map(|expr| expr.human_display().to_string()).collect();
        clause.push(format!("by {}", window.spec));
        let plan = self.cut(
            StageDraft {
                slot: String::new(),
                spec: window.spec,
                kind: StageKind::Fold { window_index, outputs, exact },
                below,
                schema,
                clause: clause.join(", "),
            },
            &names,
        )?;
        let times = local_ends(&windows);
        Ok(Flow { plan, streaming: true, changing: false, windows, times, pairs: Vec::new() })
    }

    pub(super) fn distinct(&mut self, input: &LogicalPlan) -> Result<Flow> {
        let flow = self.lower(input)?;
        if !flow.streaming {
            return Ok(Flow::fixed(LogicalPlan::Distinct(Distinct::All(Arc::new(flow.plan)))));
        }
        let columns: Vec<Expr> = (0..flow.width() - 1).map(|index| flow.column(index)).collect();
        let local = if flow.changing { None } else { self.local(flow.clone(), &columns)? };
        let Some(flow) = local else {
            let aggregate = Aggregate::try_new(Arc::new(flow.plan.clone()), columns, Vec::new())?;
            return match flow.changing {
                true => self.changed_aggregate(&aggregate, &flow),
                false => self.endless(&aggregate, flow),
            };
        };
        // Raw rows of a window have different times; the time of the row is the end of its window from here on.
        let groups: Vec<Expr> = (0..flow.width() - 1).map(|index| flow.column(index)).collect();
        let time = max(flow.time()).alias(TIME);
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(flow.plan), groups, vec![time])?);
        Ok(Flow { plan, streaming: true, changing: false, windows: flow.windows, times: flow.times, pairs: flow.pairs })
    }
}
