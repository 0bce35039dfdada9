//! Planning: from a question and its opened tables to a [`QueryPlan`].
//!
//! [`plan`] plans each step (`steps`) or cuts the plan of one statement (`statement`, `cut`), prunes files (`prune`,
//! `narrow`) and packs the rest into tasks (`split`). It reads Parquet footers and nothing else: it does not know where
//! the query will run, only the [`Capacity`] of that place. [`reduce_plan`] and [`divide`] plan the reduce side of one
//! run, [`task_stages`] divides it into tasks, [`explain()`] writes a plan as text. [`dialect`] plans the statements of continuous queries.

mod chains;
mod columns;
mod cut;
mod deadline;
pub mod dialect;
mod explain;
mod footers;
mod information;
mod join_keys;
mod join_order;
mod key_filters;
mod limited;
mod missing;
mod narrow;
mod ordered;
mod params;
mod partition_filter;
mod parts;
mod prune;
mod query_plan;
mod reads;
mod reduce;
mod reduce_tasks;
mod repeatable;
mod scalar;
mod shared;
mod split;
mod sql;
mod sql_types;
mod standard;
mod statement;
mod steps;
mod table;
mod trees;
mod verbs;
mod views;
pub mod visit;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use buzz_catalog::Table;
use buzz_engine::{Question, Want};
use buzz_kernel::{planning_config, session_options};
use buzz_protocol::{Options, QueryBody, Requests, Result};
use buzz_storage::QueryStores;
use chrono::{DateTime, SubsecRound, Utc};
use datafusion::catalog::TableProvider;
use datafusion::execution::SessionState;

pub use cut::ScanSource;
pub use explain::{explain, explain_analyzed};
pub use query_plan::{BuildSide, Evaluate, Explain, MapStage, PartReuse, QueryPlan, ReduceStep};
pub use reads::{Read, Reads, ScanRead};
pub use reduce::{divide, is_cut_alike, reduce_plan};
pub use reduce_tasks::{TaskStage, task_stages};
pub use repeatable::{NormalText, changing_word, normal_text};
pub use table::{FileTable, InboxTable, InboxTarget, scan_number};
pub use views::tables_read;

/// Capacity of the place where a query will run.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Tasks that a stage should have at least, if it has as many splits, so that no worker idles.
    pub tasks_min: usize,
    /// Partitions that a comb works on at the same time, if it is the only one.
    pub partitions_of_one: usize,
    /// Partitions that each comb works on at the same time, if there are as many combs as the query asks for.
    pub partitions_of_each: usize,
}

impl Capacity {
    /// Returns the number of partitions of each of `combs` combs. Several combs have at least two each: with one
    /// partition the planner omits the exchanges along which a plan is divided.
    pub(crate) fn partitions_per_comb(&self, combs: usize) -> usize {
        if combs == 1 { self.partitions_of_one.max(1) } else { self.partitions_of_each.max(2) }
    }
}

/// Plans `question` over its `tables`, which are opened from `stores`.
///
/// # Errors
/// `Invalid` if a step's SQL or filter is wrong, `Data` if a table contradicts itself, `Unavailable` if a store does not
/// respond, `Limit` if it has more tasks than the options allow.
pub async fn plan(
    question: &Question,
    tables: Vec<Table>,
    stores: &QueryStores,
    capacity: &Capacity,
) -> Result<QueryPlan> {
    let mut warnings: Vec<String> = tables.iter().flat_map(|table| table.warnings.clone()).collect();
    warnings.extend(params::check(&question.query)?);
    let tables = tables.into_iter().map(Arc::new).collect();
    let planning = Planning { question, tables, stores, capacity, start: start() };
    let mut plan = match &question.query.body {
        QueryBody::Steps(steps) => {
            views::check_no_views(&question.query)?;
            steps::plan(&planning, steps).await?
        }
        QueryBody::Sql(sql) => {
            statement::plan(planning, sql).await.map_err(|error| missing::with_hint_for_streams(error, sql))?
        }
    };
    if question.want == Want::Plan {
        plan.explain = Explain::Plan;
    }
    warnings.append(&mut plan.warnings);
    plan.warnings = warnings;
    plan.check_bounds()?;
    Ok(plan)
}

/// Returns the value of `now()`: with microseconds, which every protocol and file format can hold.
fn start() -> DateTime<Utc> {
    DateTime::<Utc>::from(buzz_protocol::now()).trunc_subsecs(6)
}

/// Inputs of planning one query.
struct Planning<'a> {
    question: &'a Question,
    tables: Vec<Arc<Table>>,
    stores: &'a QueryStores,
    capacity: &'a Capacity,
    /// The value of `now()`.
    start: DateTime<Utc>,
}

impl Planning<'_> {
    fn options(&self) -> &Options {
        &self.question.options
    }

    /// Makes a session in which only `tables` exist.
    fn session<'t>(&self, tables: impl IntoIterator<Item = (&'t str, Arc<dyn TableProvider>)>) -> Result<SessionState> {
        let mut config = planning_config(self.options(), 1)?;
        config.options_mut().sql_parser.collect_spans = true;
        let state = standard::session(config, self.options(), self.start, tables)?;
        Ok(deadline::within_time(state, self.options(), self.start))
    }

    /// Makes the plan of `stages` and `reduces`, for `reducer` combs or for Fuse alone.
    fn finished(&self, stages: Vec<MapStage>, reduces: Vec<ReduceStep>, reducer: reduce::Reducer) -> QueryPlan {
        QueryPlan {
            options: self.options().clone(),
            stages,
            reduces,
            explain: Explain::No,
            warnings: reducer.warnings,
            fuse_only: reducer.fuse_only,
            comb_count: reducer.combs,
            partitions_per_comb: self.capacity.partitions_per_comb(reducer.combs),
            start: self.start,
            session: session_options(self.options()),
            requests: Requests::default(),
            opened_in: Duration::ZERO,
            planned_in: Duration::ZERO,
            part_reuse: PartReuse::Off,
        }
    }
}
