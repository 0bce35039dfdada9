//! A lowered plan, with what is known about its columns: which of them determine the window of a row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use buzz_protocol::Result;
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};

use crate::window::{Part, WindowSpec, time_type, window_call};

/// A column that holds a window or a part of one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct WindowColumn {
    pub(super) spec: WindowSpec,
    pub(super) part: Part,
    /// Rows with the same value are emitted in the same epoch.
    pub(super) closed: bool,
    /// The column has no value yet: only GROUP BY may use it.
    pub(super) pending: bool,
    /// Each row was repeated per window.
    pub(super) repeated: bool,
}

impl WindowColumn {
    /// Returns true if rows with the same value are emitted in the same epoch. Sessions of two keys may have the same
    /// start and other ends.
    pub(super) fn is_local(&self) -> bool {
        self.closed && (self.part != Part::Start || matches!(self.spec, WindowSpec::Hop { .. }))
    }
}

/// A lowered plan with what is known about its columns, by position.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    pub(super) plan: LogicalPlan,
    /// False for rows that are the same in every epoch.
    pub(super) streaming: bool,
    /// The rows are those before and after changes, and the time of each is its place among them.
    pub(super) changing: bool,
    pub(super) windows: BTreeMap<usize, WindowColumn>,
    /// Columns by which a window function may compute windows.
    pub(super) times: BTreeSet<usize>,
    /// Pairs of window columns of which at least one is not null: both sides of a full join.
    pub(super) pairs: Vec<(usize, usize, WindowColumn)>,
}

impl Flow {
    pub(super) fn fixed(plan: LogicalPlan) -> Self {
        Self {
            plan,
            streaming: false,
            changing: false,
            windows: BTreeMap::new(),
            times: BTreeSet::new(),
            pairs: Vec::new(),
        }
    }

    pub(super) fn width(&self) -> usize {
        self.plan.schema().fields().len()
    }

    pub(super) fn column(&self, index: usize) -> Expr {
        Expr::Column(Column::from(self.plan.schema().qualified_field(index)))
    }

    pub(super) fn time(&self) -> Expr {
        self.column(self.width() - 1)
    }

    pub(super) fn index_of(&self, column: &Column) -> Option<usize> {
        self.plan.schema().maybe_index_of_column(column)
    }

    /// Returns the window part that `expr` is.
    pub(super) fn window_of(&self, expr: &Expr) -> Result<Option<WindowColumn>> {
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

    /// Replaces the time column.
    pub(super) fn with_time(self, time: Expr, name: &str) -> Result<Self> {
        let mut exprs: Vec<Expr> = (0..self.width() - 1).map(|index| self.column(index)).collect();
        exprs.push(time.alias(name));
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(self.plan))?);
        Ok(Self { plan, ..self })
    }
}

pub(super) fn is_tumble(spec: WindowSpec) -> bool {
    matches!(spec, WindowSpec::Hop { slide, width } if slide == width)
}

/// Returns true if rows whose columns `a` and `b` are equal are emitted in the same epoch.
pub(super) fn same_epoch(a: &WindowColumn, b: &WindowColumn) -> bool {
    match (a.spec, b.spec) {
        (WindowSpec::Hop { width: x, .. }, WindowSpec::Hop { width: y, .. }) => {
            a.part == b.part && (a.part != Part::Start || x == y)
        }
        (WindowSpec::Session { .. }, WindowSpec::Session { .. }) => a.part == b.part && a.part != Part::Start,
        // A session closes one moment later than a hopping window with the same end.
        _ => false,
    }
}

pub(super) fn local_ends(windows: &BTreeMap<usize, WindowColumn>) -> BTreeSet<usize> {
    let ends = windows.iter().filter(|(_, window)| window.is_local() && window.part == Part::End);
    ends.map(|(&index, _)| index).collect()
}
