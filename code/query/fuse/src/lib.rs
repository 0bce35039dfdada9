//! Fuse: the scheduler. Implements [`Engine`] on any [`Host`].
//!
//! [`Fuse::plan`] opens the catalogs and has the query planned (`buzz-plan`). [`run`] chooses who reduces
//! (`reducers`), opens inboxes on the combs (`inboxes`), dispatches tasks (`dispatch`), commits one delivery for each and
//! runs the reduce plans (`reduction`), or has tasks run parts of them over objects (`objects`). The differences between AWS and one machine are behind [`Host`].

mod attempts;
mod dispatch;
mod estimate;
mod halved;
mod inboxes;
mod objects;
mod reducers;
mod reduction;
mod run;
mod stragglers;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_catalog::{DataFile, Table};
use buzz_engine::{
    Answer, Content, Engine, FileDescription, Progress, Question, RowSink, Rows, Running, Summary, TableDescription,
    Want,
};
use buzz_host::Host;
use buzz_plan::{Capacity, Explain, QueryPlan, explain, explain_analyzed};
use buzz_protocol::{CatalogEntry, QueryError, ReducerChoice, Result};
use buzz_storage::QueryStores;
use futures::FutureExt;
use futures::future::BoxFuture;

/// Files that a description of tables lists, of all tables together.
const FILES_LISTED: usize = 256;

/// The scheduler. It has no state between queries and can answer any number of them at the same time.
#[derive(Debug, Clone)]
pub struct Fuse {
    host: Host,
}

#[async_trait]
impl Engine for Fuse {
    async fn describe(&self, question: &Question) -> Result<Vec<TableDescription>> {
        let stores = self.host.stores.for_query();
        let tables = open(question, &stores, None).await?;
        // A response of a stack has a maximum size, whatever the number of tables.
        let files_max = FILES_LISTED / tables.len().max(1);
        Ok(tables.iter().map(|table| description(table, files_max)).collect())
    }

    fn start_with(&self, question: Question, progress: Arc<Progress>) -> Running {
        let (fuse, counted) = (self.clone(), Arc::clone(&progress));
        Running::spawn(progress, async move { fuse.answer(question, &counted).await })
    }
}

impl Fuse {
    /// Makes a Fuse that runs queries on `host`.
    pub fn new(host: Host) -> Self {
        Self { host }
    }

    /// Opens the catalogs and plans the query. Invokes nothing.
    ///
    /// # Errors
    /// `Invalid` if a step's SQL or filter is wrong, `Data` if a table is invalid, `Unavailable` if a store does not
    /// respond, `Limit` if planning alone exceeds the query's timeout.
    pub fn plan<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<QueryPlan>> {
        let timeout = question.options.timeout();
        let planning = tokio::time::timeout(timeout, self.open_and_plan(question));
        planning
            .map(move |planned| {
                planned.unwrap_or_else(|_| {
                    let error = run::out_of_time(timeout);
                    Err(QueryError { message: format!("{} (planning did not finish)", error.message), ..error })
                })
            })
            .boxed()
    }

    async fn open_and_plan(&self, question: &Question) -> Result<QueryPlan> {
        let started = Instant::now();
        let stores = self.host.stores.for_query();
        let tables = open(question, &stores, buzz_plan::tables_read(&question.query).as_ref()).await?;
        let opened_in = started.elapsed();
        let mut plan = buzz_plan::plan(question, tables, &stores, &self.capacity(question)).await?;
        plan.requests = stores.requests();
        plan.opened_in = opened_in;
        plan.planned_in = started.elapsed() - opened_in;
        Ok(plan)
    }

    /// Returns the line of `EXPLAIN` that says who reduces and why, where objects are an alternative.
    fn reducer_note(&self, plan: &QueryPlan) -> String {
        if !self.host.objects.is_for_all() && plan.options.reducer != ReducerChoice::Objects {
            return String::new();
        }
        format!("reduced by: {}\n", reducers::Reducers::expected(&self.host, plan))
    }

    fn capacity(&self, question: &Question) -> Capacity {
        Capacity {
            tasks_min: self.host.compute.tasks_min(),
            partitions_of_one: self.host.combs.partitions_per_comb(1),
            partitions_of_each: self.host.combs.partitions_per_comb(question.query.zones),
        }
    }

    /// Runs a plan and passes its rows to `sink`. If a comb is lost or refuses the query, if the rows are too many for Fuse,
    /// or if a task whose delivery flows is `Unavailable`, the query is rerun from the start and [`RowSink::start`] is called
    /// again.
    ///
    /// # Errors
    /// The first failure of any role, with its kind; `Limit` if the query exceeds its timeout; the reason that
    /// [`Progress::stop`] was given.
    pub fn run<'a>(
        &'a self,
        plan: &'a QueryPlan,
        progress: &'a Progress,
        sink: &'a mut dyn RowSink,
    ) -> BoxFuture<'a, Result<Summary>> {
        run::run(&self.host, plan, progress, sink).boxed()
    }

    /// Plans `question`, explains or runs it, and collects its rows.
    async fn answer(&self, question: Question, progress: &Progress) -> Result<Answer> {
        progress.keep_attempts(question.options.timeline_attempts);
        let mut plan = progress.unless_stopped(self.plan(&question)).await?;
        progress.warn(plan.warnings.iter().cloned());
        progress.add_requests(plan.requests);
        if plan.explain != Explain::Plan {
            let checking = Instant::now();
            progress.unless_stopped(estimate::check_limits(&self.host, &plan, progress)).await?;
            // The deadline counts this time too.
            plan.planned_in += checking.elapsed();
        }
        let (content, summary) = match plan.explain {
            Explain::Plan => {
                let text = explain(&plan).await?;
                let expected = async { Ok(estimate::estimate(&self.host, &plan, progress).await) };
                let estimate = progress.unless_stopped(expected).await?;
                let summary = Summary { estimate: Some(estimate), ..Summary::default() };
                (Content::Plan(format!("{text}{}estimate: {estimate}\n", self.reducer_note(&plan))), summary)
            }
            Explain::Analyze => {
                let (summary, again) = self.run_or_halve(&question, &plan, progress, &mut NoRows).await?;
                let ran = again.as_ref().unwrap_or(&plan);
                (Content::Plan(explain_analyzed(ran, &summary).await?), summary)
            }
            Explain::No => {
                if let (Want::Rows(format), Some(schema)) = (question.want, plan.schema()) {
                    buzz_results::format::check(schema, format)?;
                }
                let mut rows = Rows::new().at_most(plan.options.max_result_bytes);
                let (summary, _) = self.run_or_halve(&question, &plan, progress, &mut rows).await?;
                (Content::Rows(rows), summary)
            }
        };
        let used = progress.used();
        let cost = self.host.compute.cost(&used);
        let summary = Summary {
            requests: used.requests,
            cost_usd: cost.map(|cost| cost.own_usd),
            combs_started: used.starts.combs,
            started_usd: cost.map(|cost| cost.started_usd),
            reruns: Progress::get(&progress.reruns),
            opened_in: plan.opened_in,
            planned_in: plan.planned_in,
            total: progress.elapsed(),
            timeline: progress.timeline(),
            ..summary
        };
        Ok(Answer { id: question.id, content, summary })
    }
}

/// Opens the tables of `question`, in the order of its catalogs, once its options are checked. Those that are not among the names `read`, if these are
/// known, have their recorded columns only.
async fn open(question: &Question, stores: &QueryStores, read: Option<&HashSet<String>>) -> Result<Vec<Table>> {
    question.options.check()?;
    let (entries, base) = (&question.query.catalogs, &question.base);
    stores.set_read_max(question.options.max_manifest_bytes);
    let is_read = |entry: &CatalogEntry| read.is_none_or(|read| read.contains(&entry.name.to_lowercase()));
    let mut recorded = Vec::new();
    for entry in entries {
        let is_opened = !entry.is_view() && (is_read(entry) || entry.columns.is_none());
        recorded.push(if is_opened { None } else { buzz_catalog::recorded(entry)? });
    }
    let opened = entries.iter().zip(&recorded).filter(|(_, recorded)| recorded.is_none()).map(|(entry, _)| entry);
    buzz_catalog::set_buckets(opened, stores)?;
    let opening = entries.iter().zip(recorded).map(|(entry, recorded)| match recorded {
        Some(table) => futures::future::ready(Ok(table)).boxed(),
        None => buzz_catalog::open(entry, base, stores).boxed(),
    });
    futures::future::try_join_all(opening.collect::<Vec<_>>()).await
}

/// Describes `table` with up to `files_max` of its files.
fn description(table: &Table, files_max: usize) -> TableDescription {
    // View types are an encoding in memory; the files hold strings.
    let plain = |data_type: String| data_type.replace("Utf8View", "Utf8").replace("BinaryView", "Binary");
    let fields = table.schema.fields().iter();
    TableDescription {
        name: table.name.clone(),
        kind: table.kind.to_string(),
        uri: table.uri.to_string(),
        version: table.version,
        files: table.files.len() as u64,
        bytes: table.bytes(),
        partition_columns: table.partition_columns.clone(),
        columns: fields.map(|field| (field.name().clone(), plain(field.data_type().to_string()))).collect(),
        warnings: table.warnings.clone(),
        file_list: table.files.iter().take(files_max).map(file_description).collect(),
    }
}

fn file_description(file: &DataFile) -> FileDescription {
    let values = file.partition_values.iter();
    FileDescription {
        path: file.path.clone(),
        bytes: file.size,
        partition_values: values.map(|value| (!value.is_null()).then(|| value.to_string())).collect(),
        deleted_rows: file.deleted_rows(),
    }
}

/// Drops the rows of `EXPLAIN ANALYZE`.
#[derive(Debug)]
struct NoRows;

impl RowSink for NoRows {
    fn start(&mut self, _schema: SchemaRef) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, _batch: RecordBatch) -> Result<()> {
        Ok(())
    }
}
