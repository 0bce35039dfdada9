//! Joins: of two streams by equal windows, and of a stream with a constant table or one that is looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use datafusion::common::JoinType;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Operator, Projection};

use super::flow::{Flow, WindowColumn, same_epoch};
use super::rows::check_repeatable;
use super::{Lowering, TIME, refused};

impl Lowering<'_> {
    pub(super) fn join(&mut self, join: &Join, predicate: Option<&Expr>) -> Result<Flow> {
        let (mut left, mut right) = (self.lower(&join.left)?, self.lower(&join.right)?);
        let conditions: Vec<&Expr> = join.filter.iter().chain(predicate).flat_map(split_conjunction).collect();
        let filter = conditions.iter().map(|expr| (*expr).clone()).reduce(Expr::and);
        for side in [&left, &right] {
            check_repeatable("JOIN … ON", side, filter.as_slice())?;
        }
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
                let is_local =
                    !left.changing && !right.changing && self.check_join(&mut left, &mut right, &equalities)?;
                if !is_local {
                    return self.keyed_join(join, filter, (&left, &right), &equalities);
                }
                // Two columns of one plan must not have the same name.
                let times = (left.time(), right.time());
                left = left.with_time(times.0, "__buzz_time_left")?;
                right = right.with_time(times.1, "__buzz_time_right")?;
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
                let (stream, table) = if stream_left { (&left, &right) } else { (&right, &left) };
                if stream.changing && self.looks_up(&table.plan) {
                    return Err(refused(
                        "JOIN of rows that change with a lookup table",
                        "the table may have other rows when a row is taken back than when it was emitted",
                        "join the stream with the table in a subquery, below the aggregate or the join whose rows change",
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
            changing: left.changing || right.changing,
            windows: joined_schema.windows.clone(),
            times: BTreeSet::new(),
            pairs: Vec::new(),
        };
        // Pending windows of both sides must not be read by the condition.
        let read: Vec<Expr> = on.into_iter().flat_map(|(l, r)| [l, r]).chain(all).collect();
        self.plain("JOIN … ON", &read, &raw)?;
        self.keep_join(join.join_type, &left, &right, raw, &equalities)
    }

    /// Returns true if `plan` reads a lookup table.
    fn looks_up(&self, plan: &LogicalPlan) -> bool {
        let is_lookup = match plan {
            LogicalPlan::TableScan(scan) => {
                self.sources.get(scan.table_name.table()).is_some_and(|source| source.is_lookup)
            }
            _ => false,
        };
        is_lookup || plan.inputs().into_iter().any(|input| self.looks_up(input))
    }

    pub(super) fn rebuild_join(
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

    /// Keeps raw rows of both sides until their window closes, if the condition has equal windows, so that rows that
    /// match are emitted in the same epoch. Returns false if it has none.
    pub(super) fn check_join(
        &mut self,
        left: &mut Flow,
        right: &mut Flow,
        equalities: &[(Expr, Expr)],
    ) -> Result<bool> {
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
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts the time column last and keeps what is known about the columns.
    pub(super) fn keep_join(
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
        Ok(Flow { plan, streaming: true, changing: joined.changing, windows, times, pairs })
    }
}

/// Columns of a join without the two time columns.
pub(super) struct JoinColumns {
    /// Positions in the join's output.
    pub(super) kept: Vec<usize>,
    /// Window columns by position in the join's output.
    pub(super) windows: BTreeMap<usize, WindowColumn>,
    pub(super) times: BTreeSet<usize>,
}

pub(super) fn join_columns(left: &Flow, right: &Flow, join_type: JoinType) -> JoinColumns {
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
