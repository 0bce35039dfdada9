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
//!
//! **Changes.** An operator that is not local keeps its rows by key instead (`keyed`), and emits how its rows change. A
//! flow says whether its rows change; what they may pass through is a row at a time, or keeps rows by key too.
//!
//! `flow` is a lowered plan. `placeholders` handles the window functions in expressions; `rows`, `join`, `aggregate` and
//! `order` have the rules of the operators; `cut` makes stages.

mod aggregate;
mod cut;
mod flow;
mod interval;
mod join;
mod keyed;
mod order;
mod placeholders;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use buzz_protocol::{QueryError, Result};
use datafusion::logical_expr::{
    Distinct, Expr, Limit, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias, lit,
};

use self::flow::{Flow, WindowColumn};
use self::placeholders::check_expression;
use crate::window::{Part, WindowSpec, slice_udf};

/// The name of the hidden column of event time.
pub(crate) const TIME: &str = "__buzz_time";

/// The name of the hidden column of how often a row occurs.
pub(crate) const COUNT: &str = "__buzz_count";

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
    /// Keeps rows by key, or computes rows from what others keep.
    Keyed(Keyed),
}

/// A stage that keeps rows by key, or computes rows from what others keep.
#[derive(Debug, Clone)]
pub(crate) enum Keyed {
    /// Keeps the rows of its input, each with how often it occurs. The last column of the input is [`TIME`].
    Rows {
        /// Columns of the key.
        keys: Vec<usize>,
        /// The rows are those before and after changes.
        changing: bool,
        /// The time of a row is kept too.
        timed: bool,
        /// A row is dropped when the watermark is further ahead of its time, in nanoseconds.
        reach: Option<i64>,
    },
    /// Joins rows that two stages keep: the pairs of which at least one row is new.
    Pairs {
        /// The stages that keep the rows.
        inputs: [usize; 2],
        /// Columns of the left input; the last two of each input are the time and how often the row occurs.
        left: usize,
        /// Columns of the key in the slot.
        keys: Vec<usize>,
        /// Rows may be taken away again.
        changing: bool,
    },
    /// Computes the rows of the keys that change again, and emits the difference to what it had emitted, its state.
    Recompute {
        /// The stages that keep the rows.
        inputs: Vec<usize>,
        /// Columns of the key in the slot.
        keys: Vec<usize>,
    },
}

impl Keyed {
    /// Returns the columns of the key.
    pub(crate) fn keys(&self) -> &[usize] {
        match self {
            Self::Rows { keys, .. } | Self::Pairs { keys, .. } | Self::Recompute { keys, .. } => keys,
        }
    }
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
    /// The last column of `above` is [`TIME`], by which its rows are put in order.
    pub(crate) timed: bool,
    /// The rows of `above` are those before and after changes, and the time of each is its place among them.
    pub(crate) changes: bool,
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
    let mut lowered = lowering.statement(plan);
    if lowered.is_err() && lowering.needs_repeat {
        lowering = attempt(true);
        lowered = lowering.statement(plan);
    }
    let (above, timed, changes) = lowered?;
    Ok(Lowered { above, timed, changes, stages: lowering.stages })
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
    /// Lowers a whole statement. Returns its plan, true if the last column of it is the time, and true if its rows change.
    fn statement(&mut self, plan: &LogicalPlan) -> Result<(LogicalPlan, bool, bool)> {
        let mut flow = self.lower(plan)?;
        if !flow.streaming {
            return Err(QueryError::invalid("the statement reads no stream; run it with `buzz sql`"));
        }
        if self.on_close && flow.changing {
            return Err(refused(
                "EMIT ON WINDOW CLOSE of an aggregate or a join without a window",
                "its rows may always change, so they are never final",
                "add tumble(interval '10 seconds'), hop(…) or session(…) to GROUP BY",
            ));
        }
        let joins =
            |stage: &StageDraft| matches!(stage.kind, StageKind::Keyed(Keyed::Rows { .. } | Keyed::Pairs { .. }));
        if self.on_close && self.stages.iter().all(joins) {
            // A window of a microsecond closes when the watermark has passed it.
            let spec = WindowSpec::Hop { slide: 1_000, width: 1_000 };
            let window = WindowColumn { spec, part: Part::Start, closed: false, pending: false, repeated: false };
            let slice = slice_udf().call(vec![flow.time(), lit(1_000_i64)]);
            flow = self.buffer(flow, &slice, window)?;
        }
        for index in 0..flow.width() - 1 {
            self.materialized(&flow, index)?;
        }
        // Rows of closed windows are put in the order of their windows, unless the statement orders them.
        let timed = !self.stages.is_empty() && !matches!(plan, LogicalPlan::Sort(_));
        let columns: Vec<Expr> = (0..flow.width() - usize::from(!timed)).map(|index| flow.column(index)).collect();
        Ok((LogicalPlanBuilder::from(flow.plan).project(columns)?.build()?, timed, flow.changing))
    }

    fn lower(&mut self, plan: &LogicalPlan) -> Result<Flow> {
        for expr in plan.expressions() {
            check_expression(&expr)?;
        }
        let flow = self.operator(plan)?;
        if flow.changing && !flow.windows.is_empty() {
            return Err(changing_window("a window"));
        }
        Ok(flow)
    }

    fn operator(&mut self, plan: &LogicalPlan) -> Result<Flow> {
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
            LogicalPlan::Limit(limit) => self.limit(limit),
            other => Err(refused(
                &operator_name(other),
                "it is not supported over streams",
                "remove it, or run the statement as a batch query",
            )),
        }
    }

    fn limit(&mut self, limit: &Limit) -> Result<Flow> {
        match limit.input.as_ref() {
            LogicalPlan::Sort(sort) => return self.first_rows(limit, sort),
            // Columns that only the order reads are left out above it.
            LogicalPlan::Projection(projection) if matches!(projection.input.as_ref(), LogicalPlan::Sort(_)) => {
                let first = Limit { input: Arc::clone(&projection.input), ..limit.clone() };
                let first = Arc::new(LogicalPlan::Limit(first));
                let exprs = projection.expr.clone();
                let projection = Projection::try_new_with_schema(exprs, first, Arc::clone(&projection.schema))?;
                return self.lower(&LogicalPlan::Projection(projection));
            }
            _ => {}
        }
        let flow = self.lower(&limit.input)?;
        if !flow.streaming {
            return Ok(Flow::fixed(LogicalPlan::Limit(limit.clone())));
        }
        Err(refused(
            "LIMIT",
            "a stream has no end, so the first rows of all windows are not known",
            "add ORDER BY, or use ROW_NUMBER() OVER (PARTITION BY window ORDER BY …) in a subquery and filter on it",
        ))
    }
}

fn operator_name(plan: &LogicalPlan) -> String {
    match plan {
        LogicalPlan::Join(_) => "JOIN".to_string(),
        LogicalPlan::Union(_) => "UNION".to_string(),
        other => other.display().to_string().split([':', ' ']).next().unwrap_or("the operator").to_string(),
    }
}

/// Returns the error for a window of rows that change.
fn changing_window(clause: &str) -> QueryError {
    refused(
        &format!("{clause} of rows that change"),
        "a window closes once, and its rows could change later",
        "group by the window below, before the aggregate or the join whose rows change",
    )
}

/// Returns an error that names a clause, the reason, and a remedy.
fn refused(clause: &str, reason: &str, remedy: &str) -> QueryError {
    QueryError::invalid(format!("{clause} cannot run over a stream: {reason}; {remedy}"))
}
