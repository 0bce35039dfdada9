//! Cuts a logical plan over streams at its stateful operators.
//!
//! Lowering walks the unoptimised plan from its scans upwards. Each windowed aggregate is cut out: it becomes a stage
//! with a plan of its own, and a scan of the stage's closed windows (a *slot*) takes its place. What remains above the
//! slots is a batch plan that runs once per epoch.
//!
//! **Locality.** That batch plan is correct only if no operator needs rows of two epochs at once. Rows whose window
//! column has the same value are always emitted in the same epoch, so an operator is local if its keys contain such a
//! column. Every operator is refused unless a rule here shows that it is local.
//!
//! **Event time.** The last column of every streaming plan is [`TIME`]. Each rule below keeps it last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use buzz_protocol::{QueryError, Result};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, JoinType, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::functions::core::expr_fn::{coalesce, get_field};
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, ExprSchemable, Filter, Join, LogicalPlan, LogicalPlanBuilder, Operator, Projection,
    Sort, SubqueryAlias, TableScan, Union, Unnest, Window, WindowFunctionDefinition, lit,
};

use crate::feed::FeedTable;
use crate::window::{
    Part, WindowCall, WindowSpec, slice_udf, time_type, window_call, window_type, window_udf, windows_udf,
};

/// The name of the hidden column of event time.
pub(crate) const TIME: &str = "__buzz_time";

/// The name of the slice column in the state of a stage.
pub(crate) const SLICE: &str = "__buzz_slice";

/// A source as lowering sees it.
#[derive(Debug, Clone)]
pub(crate) struct SourceScan {
    /// Its columns, then [`TIME`].
    pub(crate) schema: SchemaRef,
    /// The column that holds the event time, if a single column does.
    pub(crate) time_column: Option<String>,
}

/// Returns the name of the feed of source `name`.
pub(crate) fn source_feed(name: &str) -> String {
    format!("source {name}")
}

/// The source of a column of a closed window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Output {
    /// Column of the final aggregate.
    Column(usize),
    /// Part of the window.
    Window(Part),
}

/// The kind of a stage.
#[derive(Debug, Clone)]
pub(crate) enum StageKind {
    /// Folds rows into partial aggregates by slice and key.
    Fold {
        /// Position of the slice among the group columns.
        window_index: usize,
        /// Columns of a closed window.
        outputs: Vec<Output>,
        /// A slice is a whole window, because rows are repeated per window.
        exact: bool,
    },
    /// Keeps rows until their window closes. The last column is the slice.
    Buffer,
}

/// A stage before physical planning.
#[derive(Debug, Clone)]
pub(crate) struct StageDraft {
    /// The name of the slot.
    pub(crate) slot: String,
    pub(crate) spec: WindowSpec,
    pub(crate) kind: StageKind,
    /// The plan of its input; of a fold, an aggregate at the root.
    pub(crate) below: LogicalPlan,
    /// Columns of the slot, ending with [`TIME`].
    pub(crate) schema: SchemaRef,
    /// The clause, for display.
    pub(crate) clause: String,
}

/// A lowered statement.
#[derive(Debug)]
pub(crate) struct Lowered {
    pub(crate) stages: Vec<StageDraft>,
    pub(crate) above: LogicalPlan,
}

/// Lowers `plan`. Slots are named `slot <prefix>.<number>`. With `on_close`, rows that belong to no window are kept until
/// the watermark has passed their time.
///
/// # Errors
/// `Invalid`, naming the clause, the reason and a remedy, if the statement cannot run over streams.
pub(crate) fn lower(
    plan: &LogicalPlan,
    sources: &BTreeMap<String, SourceScan>,
    prefix: &str,
    on_close: bool,
) -> Result<Lowered> {
    // Hopping windows are first planned by slices. If the statement reads the window before it groups by it, each row
    // is repeated per window instead.
    let attempt = |repeat| Lowering { sources, prefix, repeat, needs_repeat: false, on_close, stages: Vec::new() };
    let mut lowering = attempt(false);
    let mut above = lowering.statement(plan);
    if above.is_err() && lowering.needs_repeat {
        lowering = attempt(true);
        above = lowering.statement(plan);
    }
    Ok(Lowered { above: above?, stages: lowering.stages })
}

/// A column that holds a window or a part of one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct WindowColumn {
    spec: WindowSpec,
    part: Part,
    /// Rows with the same value are emitted in the same epoch.
    closed: bool,
    /// The column has no value yet: only GROUP BY may use it.
    pending: bool,
    /// Each row was repeated per window.
    repeated: bool,
}

impl WindowColumn {
    /// Returns true if rows with the same value are emitted in the same epoch. Sessions of two keys may have the same
    /// start and other ends.
    fn is_local(&self) -> bool {
        self.closed && (self.part != Part::Start || matches!(self.spec, WindowSpec::Hop { .. }))
    }
}

/// A lowered plan with what is known about its columns, by position.
#[derive(Debug, Clone)]
struct Flow {
    plan: LogicalPlan,
    /// False for rows that are the same in every epoch.
    streaming: bool,
    windows: BTreeMap<usize, WindowColumn>,
    /// Columns by which a window function may compute windows.
    times: BTreeSet<usize>,
    /// Pairs of window columns of which at least one is not null: both sides of a full join.
    pairs: Vec<(usize, usize, WindowColumn)>,
}

impl Flow {
    fn fixed(plan: LogicalPlan) -> Self {
        Self { plan, streaming: false, windows: BTreeMap::new(), times: BTreeSet::new(), pairs: Vec::new() }
    }

    fn width(&self) -> usize {
        self.plan.schema().fields().len()
    }

    fn column(&self, index: usize) -> Expr {
        Expr::Column(Column::from(self.plan.schema().qualified_field(index)))
    }

    fn time(&self) -> Expr {
        self.column(self.width() - 1)
    }

    fn index_of(&self, column: &Column) -> Option<usize> {
        self.plan.schema().maybe_index_of_column(column)
    }

    /// Returns the window part that `expr` is.
    fn window_of(&self, expr: &Expr) -> Result<Option<WindowColumn>> {
        match expr {
            Expr::Alias(alias) => self.window_of(&alias.expr),
            Expr::Column(column) => Ok(self.index_of(column).and_then(|index| self.windows.get(&index)).copied()),
            Expr::Cast(cast) if *cast.field.data_type() == time_type() => self.window_of(&cast.expr),
            Expr::ScalarFunction(function) if function.name() == "get_field" && function.args.len() == 2 => {
                let part = match &function.args[1] {
                    Expr::Literal(name, _) => match name.try_as_str().flatten() {
                        Some("start") => Part::Start,
                        Some("end") => Part::End,
                        _ => return Ok(None),
                    },
                    _ => return Ok(None),
                };
                let window = self.window_of(&function.args[0])?.filter(|window| window.part == Part::Window);
                Ok(window.map(|window| WindowColumn { part, ..window }))
            }
            // A window put together from its two ends.
            Expr::ScalarFunction(function) if function.name() == "named_struct" => {
                let [_, start, _, end] = function.args.as_slice() else { return Ok(None) };
                let (Some(start), Some(end)) = (self.window_of(start)?, self.window_of(end)?) else {
                    return Ok(None);
                };
                let whole = end.part == Part::End && start == WindowColumn { part: Part::Start, ..end };
                Ok(whole.then_some(WindowColumn { part: Part::Window, ..end }))
            }
            Expr::ScalarFunction(function) if function.name() == "coalesce" && function.args.len() == 2 => {
                let index = |expr: &Expr| match expr {
                    Expr::Column(column) => self.index_of(column),
                    _ => None,
                };
                let (Some(a), Some(b)) = (index(&function.args[0]), index(&function.args[1])) else {
                    return Ok(None);
                };
                let paired = self.pairs.iter().find(|&&(l, r, _)| (l, r) == (a, b) || (l, r) == (b, a));
                Ok(paired.map(|&(_, _, window)| window))
            }
            _ => Ok(window_call(expr)?.map(|call| WindowColumn {
                spec: call.spec,
                part: Part::Window,
                closed: false,
                pending: !is_tumble(call.spec),
                repeated: false,
            })),
        }
    }
}

fn is_tumble(spec: WindowSpec) -> bool {
    matches!(spec, WindowSpec::Hop { slide, width } if slide == width)
}

struct Lowering<'a> {
    sources: &'a BTreeMap<String, SourceScan>,
    prefix: &'a str,
    /// Repeats rows per hopping window.
    repeat: bool,
    /// Set with an error that `repeat` avoids.
    needs_repeat: bool,
    /// Keeps rows until the watermark has passed them.
    on_close: bool,
    stages: Vec<StageDraft>,
}

impl Lowering<'_> {
    fn statement(&mut self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        let mut flow = self.lower(plan)?;
        if !flow.streaming {
            return Err(QueryError::invalid("the statement reads no stream; run it with `buzz sql`"));
        }
        if self.on_close && self.stages.is_empty() {
            // A window of a microsecond closes when the watermark has passed it.
            let spec = WindowSpec::Hop { slide: 1_000, width: 1_000 };
            let window = WindowColumn { spec, part: Part::Start, closed: false, pending: false, repeated: false };
            let slice = slice_udf().call(vec![flow.time(), lit(1_000_i64)]);
            flow = self.buffer(flow, &slice, window)?;
        }
        for index in 0..flow.width() - 1 {
            self.materialized(&flow, index)?;
        }
        // Without the time column.
        let columns: Vec<Expr> = (0..flow.width() - 1).map(|index| flow.column(index)).collect();
        Ok(LogicalPlanBuilder::from(flow.plan).project(columns)?.build()?)
    }

    /// Fails if a column has no value yet.
    fn materialized(&mut self, flow: &Flow, index: usize) -> Result<()> {
        match flow.windows.get(&index) {
            Some(window) if window.pending => Err(self.pending_error(window.spec)),
            _ => Ok(()),
        }
    }

    fn pending_error(&mut self, spec: WindowSpec) -> QueryError {
        match spec {
            WindowSpec::Session { .. } => QueryError::invalid(
                "session() is used outside GROUP BY, but a session is known only after grouping; \
                 write GROUP BY session(…) in a subquery and use its window in the outer SELECT",
            ),
            WindowSpec::Hop { .. } => {
                self.needs_repeat = true;
                QueryError::internal("a hopping window was planned by slices")
            }
        }
    }

    fn lower(&mut self, plan: &LogicalPlan) -> Result<Flow> {
        for expr in plan.expressions() {
            check_expression(&expr)?;
        }
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => Ok(Flow::fixed(plan.clone())),
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::SubqueryAlias(alias) => {
                let flow = self.lower(&alias.input)?;
                let plan = SubqueryAlias::try_new(Arc::new(flow.plan), alias.alias.clone())?;
                Ok(Flow { plan: LogicalPlan::SubqueryAlias(plan), ..flow })
            }
            LogicalPlan::Join(join) => self.join(join, None),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window_functions(window),
            LogicalPlan::Distinct(Distinct::All(input)) => self.distinct(input),
            LogicalPlan::Distinct(Distinct::On(_)) => Err(refused(
                "DISTINCT ON",
                "it is not supported over streams",
                "use ROW_NUMBER() OVER (PARTITION BY window, … ORDER BY …) in a subquery and filter on it",
            )),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Limit(limit) => {
                let flow = self.lower(&limit.input)?;
                if !flow.streaming {
                    return Ok(Flow::fixed(plan.clone()));
                }
                Err(refused(
                    "LIMIT",
                    "a stream has no end, so the first rows of all windows are not known",
                    "use ROW_NUMBER() OVER (PARTITION BY window ORDER BY …) in a subquery and filter on it",
                ))
            }
            other => Err(refused(
                other.display().to_string().split([':', ' ']).next().unwrap_or("the operator"),
                "it is not supported over streams",
                "remove it, or run the statement as a batch query",
            )),
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Result<Flow> {
        let name = scan.table_name.table();
        let source = self.sources.get(name).ok_or_else(|| {
            QueryError::invalid(format!("table `{name}` is not a source of this script; add CREATE TABLE {name} (…)"))
        })?;
        let feed = FeedTable { name: source_feed(name), schema: Arc::clone(&source.schema) };
        let plan =
            LogicalPlanBuilder::scan(scan.table_name.clone(), provider_as_source(Arc::new(feed)), None)?.build()?;
        let time = source.time_column.as_ref().and_then(|time| source.schema.index_of(time).ok());
        let times = time.into_iter().collect();
        Ok(Flow { plan, streaming: true, windows: BTreeMap::new(), times, pairs: Vec::new() })
    }

    fn projection(&mut self, projection: &Projection) -> Result<Flow> {
        let mut input = self.lower(&projection.input)?;
        if !input.streaming {
            return Ok(Flow::fixed(LogicalPlan::Projection(projection.clone())));
        }
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
        Ok(Flow { plan, streaming: true, windows, times, pairs })
    }

    /// Checks the time column that a window function in `expr` names. Returns it if it is not the flow's own time.
    fn explicit_time(&mut self, expr: &Expr, input: &Flow) -> Result<Option<Expr>> {
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
            Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
        })?;
        found
    }

    /// Replaces placeholders in `expr`. `window` is the window part that the whole expression is, if any.
    fn rewrite(&mut self, expr: &Expr, window: Option<WindowColumn>, input: &mut Flow) -> Result<Expr> {
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

    fn pending_column(&self, expr: &Expr, input: &Flow) -> Option<WindowColumn> {
        expr.column_refs().into_iter().find_map(|column| {
            let index = input.index_of(column)?;
            input.windows.get(&index).filter(|window| window.pending).copied()
        })
    }

    /// Fails if one of `exprs` calls a window function or reads a window that has no value yet.
    fn plain(&mut self, clause: &str, exprs: &[Expr], input: &Flow) -> Result<()> {
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

    fn filter(&mut self, filter: &Filter) -> Result<Flow> {
        // `FROM a, b WHERE a.window = b.window` is a join on the window.
        if let LogicalPlan::Join(join) = filter.input.as_ref()
            && join.join_type == JoinType::Inner
        {
            return self.join(join, Some(&filter.predicate));
        }
        let input = self.lower(&filter.input)?;
        if !input.streaming {
            return Ok(Flow::fixed(LogicalPlan::Filter(filter.clone())));
        }
        self.plain("WHERE", std::slice::from_ref(&filter.predicate), &input)?;
        let plan = LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input.plan))?);
        Ok(Flow { plan, ..input })
    }

    fn join(&mut self, join: &Join, predicate: Option<&Expr>) -> Result<Flow> {
        let (mut left, mut right) = (self.lower(&join.left)?, self.lower(&join.right)?);
        let conditions: Vec<&Expr> = join.filter.iter().chain(predicate).flat_map(split_conjunction).collect();
        let filter = conditions.iter().map(|expr| (*expr).clone()).reduce(Expr::and);
        let mut equalities: Vec<(Expr, Expr)> = join.on.clone();
        for condition in &conditions {
            if let Expr::BinaryExpr(binary) = condition
                && binary.op == Operator::Eq
            {
                equalities.push((binary.left.as_ref().clone(), binary.right.as_ref().clone()));
            }
        }
        match (left.streaming, right.streaming) {
            (false, false) => {
                let plan = self.rebuild_join(join, filter, left.plan, right.plan)?;
                return Ok(Flow::fixed(plan));
            }
            (true, true) => {
                self.check_join(&mut left, &mut right, &equalities)?;
                // Two columns of one plan must not have the same name.
                (left, right) = (renamed_time(left, "__buzz_time_left")?, renamed_time(right, "__buzz_time_right")?);
            }
            (stream_left, _) => {
                let allowed = match join.join_type {
                    JoinType::Inner => true,
                    JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => stream_left,
                    JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => !stream_left,
                    _ => false,
                };
                if !allowed {
                    return Err(refused(
                        &format!("{} JOIN of a stream with a constant table", join.join_type),
                        "rows of the constant table without a match are never known",
                        "use an INNER JOIN, or a LEFT JOIN with the stream on the left",
                    ));
                }
            }
        }
        let all: Vec<Expr> = conditions.iter().map(|expr| (*expr).clone()).collect();
        let on: Vec<(Expr, Expr)> = join.on.clone();
        let joined_schema = join_columns(&left, &right, join.join_type);
        let plan = self.rebuild_join(join, filter, left.plan.clone(), right.plan.clone())?;
        let raw = Flow {
            plan,
            streaming: true,
            windows: joined_schema.windows.clone(),
            times: BTreeSet::new(),
            pairs: Vec::new(),
        };
        // Pending windows of both sides must not be read by the condition.
        let read: Vec<Expr> = on.into_iter().flat_map(|(l, r)| [l, r]).chain(all).collect();
        self.plain("JOIN … ON", &read, &raw)?;
        self.keep_join(join.join_type, &left, &right, raw, &equalities)
    }

    fn rebuild_join(
        &self,
        join: &Join,
        filter: Option<Expr>,
        left: LogicalPlan,
        right: LogicalPlan,
    ) -> Result<LogicalPlan> {
        Ok(LogicalPlan::Join(Join::try_new(
            Arc::new(left),
            Arc::new(right),
            join.on.clone(),
            filter,
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?))
    }

    /// Checks that rows of both sides with equal windows are emitted in the same epoch, and keeps raw rows until their
    /// window closes.
    fn check_join(&mut self, left: &mut Flow, right: &mut Flow, equalities: &[(Expr, Expr)]) -> Result<()> {
        for (a, b) in equalities {
            let sides = [(a, b), (b, a)];
            for (l, r) in sides {
                let (Some(lw), Some(rw)) = (left.window_of(l)?, right.window_of(r)?) else { continue };
                if !same_epoch(&lw, &rw) {
                    continue;
                }
                if lw.pending || rw.pending {
                    let pending = if lw.pending { lw } else { rw };
                    return Err(self.pending_error(pending.spec));
                }
                if !lw.closed {
                    *left = self.buffer(left.clone(), l, lw)?;
                }
                if !rw.closed {
                    *right = self.buffer(right.clone(), r, rw)?;
                }
                return Ok(());
            }
        }
        Err(refused(
            "JOIN of two streams without equal windows in ON",
            "it would need all rows of both streams for ever",
            "group both sides by the same window and add it to the condition, as in \
             `ON a.window = b.window AND …`",
        ))
    }

    /// Puts the time column last and keeps what is known about the columns.
    fn keep_join(
        &mut self,
        join_type: JoinType,
        left: &Flow,
        right: &Flow,
        joined: Flow,
        equalities: &[(Expr, Expr)],
    ) -> Result<Flow> {
        let columns = join_columns(left, right, join_type);
        let mut exprs: Vec<Expr> = columns.kept.iter().map(|&index| joined.column(index)).collect();
        let left_time = left.streaming.then(|| left.time());
        let right_time = right.streaming.then(|| right.time());
        let time = match (join_type, left_time, right_time) {
            (JoinType::Full, Some(l), Some(r)) => coalesce(vec![l, r]),
            (JoinType::Right | JoinType::RightSemi | JoinType::RightAnti, _, Some(r)) => r,
            (_, Some(l), _) => l,
            (_, None, Some(r)) => r,
            (_, None, None) => return Err(QueryError::internal("a join of two constant tables has no time")),
        };
        exprs.push(time.alias(TIME));
        let new_index = |old: usize| columns.kept.iter().position(|&kept| kept == old);
        let windows = columns.windows.iter().filter_map(|(&old, window)| Some((new_index(old)?, *window))).collect();
        let times = columns.times.iter().filter_map(|&old| new_index(old)).collect();
        let mut pairs = Vec::new();
        if join_type == JoinType::Full {
            for (a, b) in equalities {
                let (Expr::Column(a), Expr::Column(b)) = (a, b) else { continue };
                let (a, b) = if left.index_of(a).is_some() { (a, b) } else { (b, a) };
                let (Some(l), Some(r)) = (left.index_of(a), right.index_of(b)) else { continue };
                let (Some(lw), Some(rw)) = (left.windows.get(&l), right.windows.get(&r)) else { continue };
                if lw.is_local()
                    && rw.is_local()
                    && same_epoch(lw, rw)
                    && let (Some(l), Some(r)) = (new_index(l), new_index(left.width() + r))
                {
                    pairs.push((l, r, *lw));
                }
            }
        }
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(joined.plan))?);
        Ok(Flow { plan, streaming: true, windows, times, pairs })
    }

    /// Cuts `flow`: its rows are kept until the window in `expr` closes.
    fn buffer(&mut self, flow: Flow, expr: &Expr, window: WindowColumn) -> Result<Flow> {
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
        Ok(Flow { plan, streaming: true, windows, times, pairs: Vec::new() })
    }

    /// Adds a stage and returns the scan of its slot, whose columns have `names` and then [`TIME`].
    fn cut(
        &mut self,
        mut draft: StageDraft,
        names: &[(Option<datafusion::common::TableReference>, String)],
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

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Flow> {
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
                input = self.with_time(input, time)?;
            }
        }
        let keys = aggregate.group_expr.iter().map(|expr| input.window_of(expr)).collect::<Result<Vec<_>>>()?;
        if keys.iter().flatten().any(WindowColumn::is_local) {
            return self.closed_aggregate(aggregate, input, &keys);
        }
        let Some(window) = keys.iter().flatten().find(|key| !key.closed).copied() else {
            let clause = if aggregate.group_expr.is_empty() { "an aggregate without GROUP BY" } else { "GROUP BY" };
            return Err(refused(
                &format!("{clause} without a window"),
                "its groups never end, so its rows are never final",
                "add tumble(interval '10 seconds'), hop(…) or session(…) to GROUP BY",
            ));
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

    /// Replaces the time column of a flow.
    fn with_time(&self, flow: Flow, time: Expr) -> Result<Flow> {
        let mut exprs: Vec<Expr> = (0..flow.width() - 1).map(|index| flow.column(index)).collect();
        exprs.push(time.alias(TIME));
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(flow.plan))?);
        Ok(Flow { plan, ..flow })
    }

    /// An aggregate over closed windows that groups by the window: a batch operator.
    fn closed_aggregate(&mut self, aggregate: &Aggregate, input: Flow, keys: &[Option<WindowColumn>]) -> Result<Flow> {
        self.plain("GROUP BY of closed windows", &aggregate.group_expr, &input)?;
        let mut aggregates = aggregate.aggr_expr.clone();
        aggregates.push(max(input.time()).alias(TIME));
        let groups = aggregate.group_expr.clone();
        let windows: BTreeMap<usize, WindowColumn> =
            keys.iter().enumerate().filter_map(|(index, key)| Some((index, (*key)?))).collect();
        let times = local_ends(&windows);
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input.plan), groups, aggregates)?);
        Ok(Flow { plan, streaming: true, windows, times, pairs: Vec::new() })
    }

    /// Cuts a windowed aggregate out of the plan.
    fn fold(
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
        Ok(Flow { plan, streaming: true, windows, times, pairs: Vec::new() })
    }

    /// Returns `flow` with its rows kept until their window closes, if a window column of `exprs` allows it.
    fn local(&mut self, flow: Flow, exprs: &[Expr]) -> Result<Option<Flow>> {
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

    fn window_functions(&mut self, window: &Window) -> Result<Flow> {
        let input = self.lower(&window.input)?;
        if !input.streaming {
            return Ok(Flow::fixed(LogicalPlan::Window(window.clone())));
        }
        let mut flow = input;
        for expr in &window.window_expr {
            let Expr::WindowFunction(function) = expr.clone().unalias_nested().data else {
                return Err(QueryError::internal("a window operator has other expressions"));
            };
            let name = match &function.fun {
                WindowFunctionDefinition::AggregateUDF(function) => function.name().to_string(),
                WindowFunctionDefinition::WindowUDF(function) => function.name().to_string(),
            };
            let keys = function.params.partition_by.clone();
            flow = self.local(flow, &keys)?.ok_or_else(|| {
                refused(
                    &format!("{name}() OVER without a window in PARTITION BY"),
                    "its partitions never end",
                    "add the window of tumble, hop or session to PARTITION BY",
                )
            })?;
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
        Ok(Flow { plan, streaming: true, windows: flow.windows, times: flow.times, pairs: flow.pairs })
    }

    fn distinct(&mut self, input: &LogicalPlan) -> Result<Flow> {
        let flow = self.lower(input)?;
        if !flow.streaming {
            return Ok(Flow::fixed(LogicalPlan::Distinct(Distinct::All(Arc::new(flow.plan)))));
        }
        let columns: Vec<Expr> = (0..flow.width() - 1).map(|index| flow.column(index)).collect();
        let flow = self.local(flow, &columns)?.ok_or_else(|| {
            refused(
                "DISTINCT without a window",
                "a repetition may come at any later time",
                "select the window too, or GROUP BY a window",
            )
        })?;
        // Raw rows of a window have different times; the time of the row is the end of its window from here on.
        let groups: Vec<Expr> = (0..flow.width() - 1).map(|index| flow.column(index)).collect();
        let time = max(flow.time()).alias(TIME);
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(flow.plan), groups, vec![time])?);
        Ok(Flow { plan, streaming: true, windows: flow.windows, times: flow.times, pairs: flow.pairs })
    }

    fn union(&mut self, union: &Union) -> Result<Flow> {
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
        let inputs = flows.into_iter().map(|flow| Arc::new(flow.plan)).collect();
        let plan = LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?);
        Ok(Flow { plan, streaming: true, windows, times, pairs: Vec::new() })
    }

    fn unnest(&mut self, unnest: &Unnest) -> Result<Flow> {
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
        Ok(Flow { plan: LogicalPlan::Unnest(node), streaming: true, windows, times, pairs: Vec::new() })
    }

    fn sort(&mut self, sort: &Sort) -> Result<Flow> {
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
                "order by the window first (ascending), or remove ORDER BY",
            ));
        }
        let exprs: Vec<Expr> = sort.expr.iter().map(|sort| sort.expr.clone()).collect();
        self.plain("ORDER BY", &exprs, &flow)?;
        let plan = LogicalPlan::Sort(Sort { expr: sort.expr.clone(), input: Arc::new(flow.plan.clone()), fetch: None });
        Ok(Flow { plan, ..flow })
    }
}

/// Renames the time column.
fn renamed_time(flow: Flow, name: &str) -> Result<Flow> {
    let mut exprs: Vec<Expr> = (0..flow.width() - 1).map(|index| flow.column(index)).collect();
    exprs.push(flow.time().alias(name));
    let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(flow.plan))?);
    Ok(Flow { plan, ..flow })
}

/// Returns an error that names a clause, the reason, and a remedy.
fn refused(clause: &str, reason: &str, remedy: &str) -> QueryError {
    QueryError::invalid(format!("{clause} cannot run over a stream: {reason}; {remedy}"))
}

/// Refuses expressions that read other tables or whose value depends on when they run.
fn check_expression(expr: &Expr) -> Result<()> {
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
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    })?;
    failure.map_or(Ok(()), Err)
}

fn last_name(expr: &Expr) -> String {
    match expr.clone().unalias_nested().data {
        Expr::Column(column) => column.name,
        other => other.to_string(),
    }
}

/// Returns true if rows whose columns `a` and `b` are equal are emitted in the same epoch.
fn same_epoch(a: &WindowColumn, b: &WindowColumn) -> bool {
    match (a.spec, b.spec) {
        (WindowSpec::Hop { width: x, .. }, WindowSpec::Hop { width: y, .. }) => {
            a.part == b.part && (a.part != Part::Start || x == y)
        }
        (WindowSpec::Session { .. }, WindowSpec::Session { .. }) => a.part == b.part && a.part != Part::Start,
        // A session closes one moment later than a hopping window with the same end.
        _ => false,
    }
}

fn local_ends(windows: &BTreeMap<usize, WindowColumn>) -> BTreeSet<usize> {
    let ends = windows.iter().filter(|(_, window)| window.is_local() && window.part == Part::End);
    ends.map(|(&index, _)| index).collect()
}

fn slot_schema(types: impl Iterator<Item = DataType>) -> SchemaRef {
    let mut fields: Vec<Field> =
        types.enumerate().map(|(index, data_type)| Field::new(format!("c{index}"), data_type, true)).collect();
    fields.push(Field::new(TIME, time_type(), true));
    Arc::new(Schema::new(fields))
}

/// Returns the start of the window of which `expr` is a part.
fn window_start(expr: Expr, part: Part, width: i64) -> Expr {
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
fn repeat_rows(input: &mut Flow, time: Expr, slide: i64, width: i64) -> Result<Expr> {
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

/// Columns of a join without the two time columns.
struct JoinColumns {
    /// Positions in the join's output.
    kept: Vec<usize>,
    /// Window columns by position in the join's output.
    windows: BTreeMap<usize, WindowColumn>,
    times: BTreeSet<usize>,
}

fn join_columns(left: &Flow, right: &Flow, join_type: JoinType) -> JoinColumns {
    let (mut kept, mut windows, mut times) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    let only_left = matches!(join_type, JoinType::LeftSemi | JoinType::LeftAnti);
    let only_right = matches!(join_type, JoinType::RightSemi | JoinType::RightAnti);
    // A side whose rows may be missing has null windows, which do not determine an epoch.
    let left_whole = !matches!(join_type, JoinType::Right | JoinType::Full);
    let right_whole = !matches!(join_type, JoinType::Left | JoinType::Full);
    let mut side = |flow: &Flow, offset: usize, whole: bool| {
        let count = flow.width() - usize::from(flow.streaming);
        kept.extend(offset..offset + count);
        for (&index, window) in &flow.windows {
            if whole || window.pending {
                windows.insert(offset + index, *window);
            }
        }
        if whole {
            times.extend(flow.times.iter().map(|index| offset + index));
        }
    };
    if !only_right {
        side(left, 0, left_whole);
    }
    if !only_left {
        side(right, if only_right { 0 } else { left.width() }, right_whole);
    }
    JoinColumns { kept, windows, times }
}
