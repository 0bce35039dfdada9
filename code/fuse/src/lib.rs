//! Fuse, the scheduler: turns a query into its rows.
//!
//! [`Fuse::plan`] opens the catalogs, plans each step ([`steps`]) or cuts the plan of one statement ([`sql`], [`cut`]),
//! prunes files ([`prune`]) and divides the rest into tasks ([`split`]). [`Fuse::answer`] opens inboxes on the combs,
//! dispatches tasks ([`dispatch`]) and accepts one delivery for each. It runs the reduce plans ([`reduce`]) and writes
//! their rows to a [`ResultSink`] ([`run`]). The traits [`Compute`] and [`Combs`] hide the differences between the
//! cloud and one machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use buzz_exchange::Network;
use buzz_protocol::{Options, Query, QueryBody, QueryError, Result};
use buzz_storage::Storage;
use futures::FutureExt;
use futures::future::BoxFuture;

pub mod seams;

pub mod plan;

pub mod steps;

pub mod sql;

mod narrow;

pub mod cut;

pub mod table;

pub mod prune;

pub mod split;

mod session;

mod wire;

pub mod yielding;

pub mod reduce;

mod reducer;

mod inboxes;

mod dispatch;

pub mod run;

pub mod explain;

pub mod summary;

pub use plan::{BuildSide, Evaluate, Explain, MapStage, QueryPlan, ReduceStep, Reducer, ScanSource};
pub use run::{NoRows, ResultSink};
pub use seams::{Combs, Compute, Refused};
pub use summary::{Progress, Summary};

/// A query to plan, with its options.
#[derive(Debug, Clone)]
pub struct Request {
    /// The query.
    pub query: Query,
    /// The folder that relative URIs are resolved against.
    pub base: PathBuf,
    /// The options of the query.
    pub options: Options,
}

/// The scheduler. It has no state of its own: one instance can answer any number of queries.
#[derive(Debug)]
pub struct Fuse {
    storage: Arc<Storage>,
    compute: Arc<dyn Compute>,
    combs: Arc<dyn Combs>,
    network: Arc<dyn Network>,
}

impl Fuse {
    /// Creates a Fuse that reads tables from `storage`, runs tasks on `compute` and reduces on `combs` through
    /// `network`.
    pub fn new(
        storage: Arc<Storage>,
        compute: Arc<dyn Compute>,
        combs: Arc<dyn Combs>,
        network: Arc<dyn Network>,
    ) -> Self {
        Self { storage, compute, combs, network }
    }

    /// Opens the catalogs and plans the query. No task is started.
    ///
    /// # Errors
    /// `Invalid` when a step's SQL or filter is wrong, `Data` when a table is missing or malformed, `Unavailable` when
    /// a store does not respond, `Limit` when planning alone exceeds the query's timeout.
    pub fn plan<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<QueryPlan>> {
        let timeout = request.options.timeout();
        let planning = tokio::time::timeout(timeout, self.plan_steps(request));
        planning
            .map(move |planned| {
                planned.unwrap_or_else(|_| {
                    let error = run::out_of_time(timeout);
                    Err(QueryError { message: format!("{} (planning did not finish)", error.message), ..error })
                })
            })
            .boxed()
    }

    async fn plan_steps(&self, request: &Request) -> Result<QueryPlan> {
        let started = Instant::now();
        buzz_catalog::know_buckets(&request.query.catalogs, &self.storage)?;
        let mut opening = Vec::new();
        for entry in &request.query.catalogs {
            opening.push(buzz_catalog::open(entry, &request.base, &self.storage).boxed());
        }
        let tables = futures::future::try_join_all(opening).await?;
        let opened_in = started.elapsed();
        let warnings: Vec<String> = tables.iter().flat_map(|table| table.warnings.clone()).collect();
        let (storage, compute, combs) = (self.storage.as_ref(), self.compute.as_ref(), self.combs.as_ref());
        let mut plan = match &request.query.body {
            QueryBody::Steps(steps) => steps::plan(request, steps, tables, storage, compute, combs).await?,
            QueryBody::Sql(sql) => sql::plan(request, sql, tables, storage, compute, combs).await?,
        };
        plan.warnings.splice(0..0, warnings);
        plan.opened_in = opened_in;
        plan.planned_in = started.elapsed() - opened_in;
        Ok(plan)
    }

    /// Runs a planned query and writes its rows to `sink`. If a comb is lost during the run, the query is rerun from
    /// the start and `sink` is started again.
    ///
    /// # Errors
    /// The first failure of any role, with its original kind; `Limit` when the query exceeds its timeout; the reason
    /// passed to [`Progress::stop`].
    pub fn answer<'a>(
        &'a self,
        plan: &'a QueryPlan,
        progress: &'a Progress,
        sink: &'a mut dyn ResultSink,
    ) -> BoxFuture<'a, Result<Summary>> {
        run::run(self, plan, progress, sink).boxed()
    }
}
