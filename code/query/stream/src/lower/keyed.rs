//! Operators without a window: the rows that they read are kept by key, and what an operator returns for a key is computed
//! again when rows of the key change. Inner joins compute only the pairs that are new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use buzz_protocol::Result;
use datafusion::common::{Column, JoinType, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, Join, Limit, LogicalPlan, LogicalPlanBuilder, Projection, Sort, Window,
};

use super::cut::slot_schema;
use super::flow::Flow;
use super::interval::Bounds;
use super::placeholders::check_expression;
use super::rows::check_repeatable;
use super::{COUNT, Keyed, Lowering, StageDraft, StageKind, TIME, refused};
use crate::feed::FeedTable;
use crate::window::{WindowSpec, time_type};

/// A flow whose rows a stage keeps by key.
struct KeyedInput {
    stage: usize,
    /// Reads the rows that are kept: the columns of the flow, computed keys and, of a join of new rows, the time and the
    /// number of each.
    scan: LogicalPlan,
    /// Columns of the key.
    keys: Vec<usize>,
    /// The expressions of the key that have a hash, by their position.
    used: Vec<usize>,
    /// Columns of the flow.
    visible: usize,
}

impl KeyedInput {
    fn width(&self) -> usize {
        self.scan.schema().fields().len()
    }
}

impl Lowering<'_> {
    /// An aggregate of rows that change.
    pub(super) fn changed_aggregate(&mut self, aggregate: &Aggregate, input: &Flow) -> Result<Flow> {
        self.plain("GROUP BY", &aggregate.group_expr, input)?;
        check_repeatable("GROUP BY", input, &aggregate.group_expr)?;
        let kept = self.keep(input, &aggregate.group_expr, None)?;
        let (groups, aggregates) = (aggregate.group_expr.clone(), aggregate.aggr_expr.clone());
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(kept.scan), groups, aggregates)?);
        let mut clause: Vec<String> = aggregate.aggr_expr.iter().map(|expr| expr.human_display().to_string()).collect();
        if clause.is_empty() {
            clause.push("DISTINCT".to_string());
        }
        let visible = (0..plan.schema().fields().len()).collect();
        self.recompute(vec![kept.stage], plan, kept.used, visible, clause.join(", "))
    }

    /// Window functions whose partitions have no window. `partitions` has the keys of each function.
    pub(super) fn keyed_window(&mut self, window: &Window, input: &Flow, partitions: &[Vec<Expr>]) -> Result<Flow> {
        self.plain("OVER", &window.window_expr, input)?;
        let mut keys = partitions.first().cloned().unwrap_or_default();
        keys.retain(|key| partitions.iter().all(|other| other.contains(key)));
        let kept = self.keep(input, &keys, None)?;
        let (visible, width) = (kept.visible, kept.width());
        let plan = LogicalPlan::Window(Window::try_new(window.window_expr.clone(), Arc::new(kept.scan))?);
        let visible = (0..visible).chain(width..plan.schema().fields().len()).collect();
        let clause: Vec<String> = window.window_expr.iter().map(|expr| expr.human_display().to_string()).collect();
        self.recompute(vec![kept.stage], plan, kept.keys, visible, clause.join(", "))
    }

    /// The first rows of all rows.
    pub(super) fn first_rows(&mut self, limit: &Limit, sort: &Sort) -> Result<Flow> {
        let input = self.lower(&sort.input)?;
        if !input.streaming {
            return Ok(Flow::fixed(LogicalPlan::Limit(limit.clone())));
        }
        let order: Vec<Expr> = sort.expr.iter().map(|sort| sort.expr.clone()).collect();
        for expr in &order {
            check_expression(expr)?;
        }
        self.plain("ORDER BY", &order, &input)?;
        let kept = self.keep(&input, &[], None)?;
        let sorted = LogicalPlan::Sort(Sort { input: Arc::new(kept.scan), ..sort.clone() });
        let plan = LogicalPlan::Limit(Limit { input: Arc::new(sorted), ..limit.clone() });
        let visible = (0..kept.visible).collect();
        self.recompute(vec![kept.stage], plan, Vec::new(), visible, "ORDER BY with LIMIT".to_string())
    }

    /// A join of two streams by other columns than windows.
    pub(super) fn keyed_join(
        &mut self,
        join: &Join,
        filter: Option<Expr>,
        (left, right): (&Flow, &Flow),
        equalities: &[(Expr, Expr)],
    ) -> Result<Flow> {
        let (left_keys, right_keys) = join_keys(left, right, equalities)?;
        if left_keys.is_empty() {
            return Err(refused(
                "JOIN of two streams without equal windows or another equality in ON",
                "each new row would be compared with all rows of the other stream for ever",
                "add an equality of columns of both that have the same type and are not floats, such as `ON a.id = b.id \
                 AND …`, or group both sides by the same window and add that",
            ));
        }
        let read: Vec<Expr> = join.on.iter().flat_map(|(l, r)| [l.clone(), r.clone()]).chain(filter.clone()).collect();
        self.plain("JOIN … ON", &read, left)?;
        self.plain("JOIN … ON", &read, right)?;
        let clause = format!("{} JOIN", join.join_type.to_string().to_uppercase());
        if join.join_type == JoinType::Inner {
            return self.pairs(join, filter, (left, &left_keys), (right, &right_keys), clause);
        }
        let l = self.keep(left, &left_keys, None)?;
        let r = self.keep(right, &right_keys, None)?;
        let (left_width, inputs) = (l.width(), vec![l.stage, r.stage]);
        let mut plan = self.rebuild_join(join, filter, l.scan, r.scan)?;
        let of_right = |offset: usize, columns: &[usize]| columns.iter().map(|key| key + offset).collect::<Vec<_>>();
        let both = (0..l.visible).chain(left_width..left_width + r.visible).collect();
        let (keys, visible) = match join.join_type {
            JoinType::Left => (l.keys, both),
            JoinType::Right => (of_right(left_width, &r.keys), both),
            JoinType::LeftSemi | JoinType::LeftAnti => (l.keys, (0..l.visible).collect()),
            JoinType::RightSemi | JoinType::RightAnti => (r.keys, (0..r.visible).collect()),
            JoinType::Full => {
                // A row of one side has the key of that side.
                let whole = Flow::fixed(plan.clone());
                let width = whole.width();
                let mut exprs: Vec<Expr> = (0..width).map(|index| whole.column(index)).collect();
                let keys = l.keys.iter().zip(of_right(left_width, &r.keys)).enumerate();
                exprs.extend(keys.map(|(number, (&a, b))| {
                    coalesce(vec![whole.column(a), whole.column(b)]).alias(format!("__buzz_both{}_{number}", inputs[0]))
                }));
                plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?);
                ((width..width + l.keys.len()).collect(), both)
            }
            other => {
                return Err(refused(
                    &format!("{other} JOIN without a window"),
                    "it is not supported over streams",
                    "write it as an INNER or LEFT JOIN",
                ));
            }
        };
        self.recompute(inputs, plan, keys, visible, clause)
    }

    /// An inner join: an epoch adds the pairs of which at least one row is new.
    fn pairs(
        &mut self,
        join: &Join,
        filter: Option<Expr>,
        (left, left_keys): (&Flow, &[Expr]),
        (right, right_keys): (&Flow, &[Expr]),
        clause: String,
    ) -> Result<Flow> {
        let changing = left.changing || right.changing;
        let l = self.keep(left, left_keys, Some(!changing))?;
        let r = self.keep(right, right_keys, Some(!changing))?;
        let (left_width, width) = (l.width(), l.width() + r.width());
        let keyed = Keyed::Pairs { inputs: [l.stage, r.stage], left: left_width, keys: l.keys, changing };
        if !changing {
            let bounds = Bounds::of(left, right, filter.as_ref());
            self.expire_rows(l.stage, bounds.left());
            self.expire_rows(r.stage, bounds.right());
        }
        let plan = self.rebuild_join(join, filter, l.scan, r.scan)?;
        let hidden = [left_width - 2, left_width - 1, width - 2, width - 1];
        let columns: Vec<usize> = (0..width).filter(|index| !hidden.contains(index)).collect();
        let visible = (0..l.visible).chain(left_width - 2..left_width - 2 + r.visible).collect();
        self.slot(keyed, plan, &columns, visible, (clause, changing))
    }

    /// Lets the rows of a stage expire when the watermark is `after` nanoseconds ahead of them.
    fn expire_rows(&mut self, stage: usize, after: Option<i64>) {
        if let StageKind::Keyed(Keyed::Rows { reach, .. }) = &mut self.stages[stage].kind {
            *reach = after;
        }
    }

    /// Adds the stage of `plan`, which computes rows of `inputs` again. `keys` are the columns of its key, and `visible`
    /// those that operators above see.
    fn recompute(
        &mut self,
        inputs: Vec<usize>,
        plan: LogicalPlan,
        keys: Vec<usize>,
        visible: Vec<usize>,
        clause: String,
    ) -> Result<Flow> {
        let columns: Vec<usize> = (0..plan.schema().fields().len()).collect();
        self.slot(Keyed::Recompute { inputs, keys }, plan, &columns, visible, (clause, true))
    }

    /// Adds a stage whose slot has `columns` of `plan`, of which operators above see `visible`.
    fn slot(
        &mut self,
        keyed: Keyed,
        plan: LogicalPlan,
        columns: &[usize],
        visible: Vec<usize>,
        (clause, changing): (String, bool),
    ) -> Result<Flow> {
        let schema = plan.schema();
        let slot = slot_schema(columns.iter().map(|&index| schema.field(index).data_type().clone()));
        let named = columns.iter().map(|&index| schema.qualified_field(index));
        let names: Vec<(Option<TableReference>, String)> = named.map(|(q, f)| (q.cloned(), f.name().clone())).collect();
        let draft = StageDraft {
            slot: String::new(),
            spec: WindowSpec::Never,
            kind: StageKind::Keyed(keyed),
            below: plan,
            schema: slot,
            clause,
        };
        let all = Flow::fixed(self.cut(draft, &names)?);
        let mut exprs: Vec<Expr> = visible.into_iter().map(|index| all.column(index)).collect();
        exprs.push(all.time().alias(TIME));
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(all.plan))?);
        let (windows, times, pairs) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Ok(Flow { plan, streaming: true, changing, windows, times, pairs })
    }

    /// Adds a stage that keeps the rows of `flow` by `keys`. With `counted`, the rows that are read have their number
    /// and, if it is true, their time; otherwise, equal rows are read as often as they occur.
    fn keep(&mut self, flow: &Flow, keys: &[Expr], counted: Option<bool>) -> Result<KeyedInput> {
        let visible = flow.width() - 1;
        for index in 0..visible {
            self.materialized(flow, index)?;
        }
        let number = self.stages.len();
        let schema = flow.plan.schema();
        let mut exprs: Vec<Expr> = (0..visible).map(|index| flow.column(index)).collect();
        let mut names: Vec<(Option<TableReference>, String)> =
            schema.iter().take(visible).map(|(q, f)| (q.cloned(), f.name().clone())).collect();
        let (mut positions, mut used) = (Vec::new(), Vec::new());
        for (index, key) in keys.iter().enumerate() {
            let key = key.clone().unalias_nested().data;
            if !has_hash(&key.get_type(schema)?) {
                continue;
            }
            let column = match &key {
                Expr::Column(column) => flow.index_of(column),
                _ => None,
            };
            positions.push(column.unwrap_or(exprs.len()));
            used.push(index);
            if column.is_none() {
                names.push((None, format!("__buzz_key{number}_{index}")));
                exprs.push(key);
            }
        }
        let types = exprs.iter().map(|expr| expr.get_type(schema)).collect::<Result<Vec<_>, _>>()?;
        let mut fields: Vec<Field> =
            types.iter().enumerate().map(|(index, kind)| Field::new(format!("c{index}"), kind.clone(), true)).collect();
        let mut below: Vec<Expr> =
            exprs.into_iter().enumerate().map(|(index, expr)| expr.alias(format!("c{index}"))).collect();
        below.push(flow.time().alias(TIME));
        let slot = format!("slot {}.{number}", self.prefix);
        if counted.is_some() {
            fields.push(Field::new(TIME, time_type(), true));
            fields.push(Field::new(COUNT, DataType::Int64, true));
            names.push((None, format!("{TIME}{number}")));
            names.push((None, format!("{COUNT}{number}")));
        }
        let columns: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
        let table = FeedTable { name: slot.clone(), schema: Arc::new(Schema::new(fields)) };
        let alias = format!("__rows{number}");
        let scan = LogicalPlanBuilder::scan(alias.as_str(), provider_as_source(Arc::new(table)), None)?;
        let named = columns.into_iter().zip(names).map(|(column, (qualifier, name))| {
            Expr::Column(Column::new(Some(alias.as_str()), column)).alias_qualified(qualifier, name)
        });
        let scan = LogicalPlan::Projection(Projection::try_new(named.collect(), Arc::new(scan.build()?))?);
        let keyed: Vec<String> = used.iter().map(|&index| keys[index].human_display().to_string()).collect();
        let clause = match keyed.is_empty() {
            true => "rows".to_string(),
            false => format!("rows by {}", keyed.join(", ")),
        };
        self.stages.push(StageDraft {
            slot,
            spec: WindowSpec::Never,
            kind: StageKind::Keyed(Keyed::Rows {
                keys: positions.clone(),
                changing: flow.changing,
                timed: counted == Some(true),
                reach: None,
            }),
            below: LogicalPlanBuilder::from(flow.plan.clone()).project(below)?.build()?,
            schema: slot_schema(types.into_iter()),
            clause,
        });
        Ok(KeyedInput { stage: number, scan, keys: positions, used, visible })
    }
}

/// Returns true if equal values of `data_type` have equal hashes. Of floats, -0 and 0 are equal in SQL only.
fn has_hash(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            has_hash(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().all(|field| has_hash(field.data_type())),
        DataType::Dictionary(_, value) => has_hash(value),
        DataType::Map(..) | DataType::Union(..) | DataType::RunEndEncoded(..) | DataType::Null => false,
        other => !other.is_floating(),
    }
}

/// Returns the expressions of both sides that are equal, with equal types that have hashes.
fn join_keys(left: &Flow, right: &Flow, equalities: &[(Expr, Expr)]) -> Result<(Vec<Expr>, Vec<Expr>)> {
    let of = |flow: &Flow, expr: &Expr| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.iter().all(|column| flow.index_of(column).is_some())
    };
    let (mut left_keys, mut right_keys) = (Vec::new(), Vec::new());
    for (a, b) in equalities {
        let (l, r) = match (of(left, a) && of(right, b), of(left, b) && of(right, a)) {
            (true, _) => (a, b),
            (false, true) => (b, a),
            (false, false) => continue,
        };
        if l.is_volatile() || r.is_volatile() {
            continue;
        }
        let types = (l.get_type(left.plan.schema())?, r.get_type(right.plan.schema())?);
        let common = match &types {
            (a, b) if a == b => a.clone(),
            // A number of 20 digits has all integers of 64 bits, with and without a sign.
            (a, b) if a.is_integer() && b.is_integer() => DataType::Decimal128(20, 0),
            (a, b) if a.is_string() && b.is_string() => DataType::Utf8,
            _ => continue,
        };
        if has_hash(&common) {
            left_keys.push(l.clone().cast_to(&common, left.plan.schema())?);
            right_keys.push(r.clone().cast_to(&common, right.plan.schema())?);
        }
    }
    Ok((left_keys, right_keys))
}
