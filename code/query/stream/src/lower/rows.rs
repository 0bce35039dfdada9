//! Operators that pass rows on: projections, filters, unions and unnesting. They are local by nature.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use datafusion::common::{JoinType, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{
    Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection, TableScan, Union, Unnest, lit,
};

use super::flow::Flow;
use super::placeholders::check_expression;
use super::{Lowering, TIME, refused, source_feed};
use crate::feed::FeedTable;
use crate::window::{Part, WindowSpec};

impl Lowering<'_> {
    pub(super) fn scan(&mut self, scan: &TableScan) -> Result<Flow> {
        let name = scan.table_name.table();
        let source = self.sources.get(name).ok_or_else(|| {
            QueryError::invalid(format!("table `{name}` is not a source of this script; add CREATE TABLE {name} (…)"))
        })?;
        if source.is_lookup {
            return Ok(Flow::fixed(LogicalPlan::TableScan(scan.clone())));
        }
        let feed = FeedTable { name: source_feed(name), schema: Arc::clone(&source.schema) };
        let plan =
            LogicalPlanBuilder::scan(scan.table_name.clone(), provider_as_source(Arc::new(feed)), None)?.build()?;
        let time = source.time_column.as_ref().and_then(|time| source.schema.index_of(time).ok());
        let times = time.into_iter().collect();
        let (windows, changing) = (BTreeMap::new(), source.changing);
        Ok(Flow { plan, streaming: true, changing, windows, times, pairs: Vec::new() })
    }

    pub(super) fn projection(&mut self, projection: &Projection) -> Result<Flow> {
        let mut input = self.lower(&projection.input)?;
        if !input.streaming {
            return Ok(Flow::fixed(LogicalPlan::Projection(projection.clone())));
        }
        check_repeatable("SELECT", &input, &projection.expr)?;
        let names: Vec<_> = projection.schema.iter().map(|(q, f)| (q.cloned(), f.name().clone())).collect();
        let (mut exprs, mut windows, mut times, mut pairs) = (Vec::new(), BTreeMap::new(), BTreeSet::new(), Vec::new());
        let mut positions: BTreeMap<usize, usize> = BTreeMap::new();
        let mut time = None;
        for (index, expr) in projection.expr.iter().enumerate() {
            let call = self.explicit_time(expr, &input)?;
            time = call.or(time);
            let window = input.window_of(expr)?;
            let rewritten = self.rewrite(expr, window, &mut input)?;
            // The original name, because nodes above refer to it.
            let (qualifier, name) = names[index].clone();
            let named = match &rewritten == expr {
                true => rewritten,
                false => rewritten.unalias_nested().data.alias_qualified(qualifier, name),
            };
            if let Some(mut window) = window {
                if self.repeat && matches!(window.spec, WindowSpec::Hop { .. }) && window.pending {
                    (window.pending, window.repeated) = (false, true);
                }
                windows.insert(index, window);
            }
            if let Expr::Column(column) = expr.clone().unalias_nested().data
                && let Some(position) = input.index_of(&column)
            {
                positions.insert(position, index);
                if input.times.contains(&position) {
                    times.insert(index);
                }
            }
            exprs.push(named);
        }
        for &(a, b, window) in &input.pairs {
            if let (Some(&a), Some(&b)) = (positions.get(&a), positions.get(&b)) {
                pairs.push((a, b, window));
            }
        }
        for (&index, window) in &windows {
            if window.is_local() && window.part == Part::End {
                times.insert(index);
            }
        }
        let time = time.unwrap_or_else(|| input.time());
        exprs.push(time.alias(TIME));
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input.plan))?);
        Ok(Flow { plan, streaming: true, changing: input.changing, windows, times, pairs })
    }

    pub(super) fn filter(&mut self, filter: &Filter) -> Result<Flow> {
        // `FROM a, b WHERE a.window = b.window` is a join on the window.
        if let LogicalPlan::Join(join) = filter.input.as_ref()
            && join.join_type == JoinType::Inner
        {
            for expr in filter.input.expressions() {
                check_expression(&expr)?;
            }
            return self.join(join, Some(&filter.predicate));
        }
        let input = self.lower(&filter.input)?;
        if !input.streaming {
            return Ok(Flow::fixed(LogicalPlan::Filter(filter.clone())));
        }
        check_repeatable("WHERE", &input, std::slice::from_ref(&filter.predicate))?;
        self.plain("WHERE", std::slice::from_ref(&filter.predicate), &input)?;
        let plan = LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input.plan))?);
        Ok(Flow { plan, ..input })
    }

    pub(super) fn union(&mut self, union: &Union) -> Result<Flow> {
        let flows = union.inputs.iter().map(|input| self.lower(input)).collect::<Result<Vec<_>>>()?;
        if flows.iter().all(|flow| !flow.streaming) {
            return Ok(Flow::fixed(LogicalPlan::Union(union.clone())));
        }
        if flows.iter().any(|flow| !flow.streaming) {
            return Err(refused(
                "UNION of a stream with a constant table",
                "the constant rows would be repeated in every epoch",
                "remove the constant rows",
            ));
        }
        let mut windows = flows[0].windows.clone();
        windows.retain(|index, window| flows.iter().all(|flow| flow.windows.get(index) == Some(window)));
        for flow in &flows {
            for index in flow.windows.keys() {
                self.materialized(flow, *index)?;
            }
        }
        let mut times = flows[0].times.clone();
        times.retain(|index| flows.iter().all(|flow| flow.times.contains(index)));
        let changing = flows.iter().any(|flow| flow.changing);
        let flows = flows.into_iter().map(|flow| match changing && !flow.changing {
            // Each row is new, without a row before it.
            true => flow.with_time(lit(ScalarValue::TimestampNanosecond(Some(-1), None)), TIME),
            false => Ok(flow),
        });
        let inputs = flows.map(|flow| Ok(Arc::new(flow?.plan))).collect::<Result<Vec<_>>>()?;
        let plan = LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?);
        Ok(Flow { plan, streaming: true, changing, windows, times, pairs: Vec::new() })
    }

    pub(super) fn unnest(&mut self, unnest: &Unnest) -> Result<Flow> {
        let flow = self.lower(&unnest.input)?;
        if !flow.streaming {
            return Ok(Flow::fixed(LogicalPlan::Unnest(unnest.clone())));
        }
        for column in &unnest.exec_columns {
            self.plain("unnest", &[Expr::Column(column.clone())], &flow)?;
        }
        let unnested: BTreeSet<usize> = unnest.exec_columns.iter().filter_map(|column| flow.index_of(column)).collect();
        let node = Unnest::try_new(Arc::new(flow.plan), unnest.exec_columns.clone(), unnest.options.clone())?;
        let (mut windows, mut times) = (BTreeMap::new(), BTreeSet::new());
        for (index, source) in node.dependency_indices.iter().enumerate() {
            if unnested.contains(source) {
                continue;
            }
            if let Some(window) = flow.windows.get(source) {
                windows.insert(index, *window);
            }
            if flow.times.contains(source) {
                times.insert(index);
            }
        }
        let plan = LogicalPlan::Unnest(node);
        Ok(Flow { plan, streaming: true, changing: flow.changing, windows, times, pairs: Vec::new() })
    }
}

/// Refuses expressions whose values differ each time over rows that change: the row that takes one away would be another.
pub(super) fn check_repeatable(clause: &str, input: &Flow, exprs: &[Expr]) -> Result<()> {
    if input.changing && exprs.iter().any(Expr::is_volatile) {
        return Err(refused(
            &format!("{clause} with a function such as random() or a window over rows that change"),
            "a row could not be taken away again",
            "use it below the aggregate or the join whose rows change",
        ));
    }
    Ok(())
}
