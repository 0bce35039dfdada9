//! Fuse: the scheduler. Implements [`Engine`] on any [`Host`].
//!
//! [`Fuse::plan`] opens the catalogs and has the query planned (`buzz-plan`). [`run`] chooses who reduces
//! (`reducers`), opens inboxes on the combs (`inboxes`), dispatches tasks (`dispatch`), commits one delivery for each and
//! runs the reduce plans (`reduction`), or has tasks run parts of them over objects (`objects`). The differences between AWS and one machine are behind [`Host`].

mod attempts;
mod collected;
mod dispatch;
mod estimate;
mod halved;
mod inboxes;
mod objects;
mod reducers;
mod reduction;
mod reuse;
mod run;
mod stragglers;
mod tasks;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_catalog::{DataFile, Table};
use buzz_engine::{
    Answer, Content, Engine, FileDescription, Progress, Question, Reused, RowSink, Running, Summary, TableDescription,
    Want,
};
use buzz_host::Host;
use buzz_plan::{Capacity, Explain, QueryPlan, explain, explain_analyzed};
use buzz_protocol::{CatalogEntry, QueryError, ReducerChoice, Requests, Result};
use buzz_storage::QueryStores;
use buzz_telemetry::{span, traced};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::collected::Collected;
use crate::reuse::{CachedAnswer, Decision};

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
        let span = span!("query", query_id = %question.id);
        let answered = async move { fuse.answer(question, &counted).await };
        Running::spawn(progress, traced(span, answered))
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
        let planned = async move {
            let (opened, stores) = self.opened(question).await?;
            self.planned(question, opened, &stores).await
        };
        in_time(question.options.timeout(), planned).boxed()
    }

    /// Opens the catalogs.
    async fn opened(&self, question: &Question) -> Result<(Opened, Arc<QueryStores>)> {
        let started = Instant::now();
        let stores = self.host.stores.for_query();
        let opening = async { open(question, &stores, buzz_plan::tables_read(&question.query).as_ref()).await };
        let tables = traced(span!("open tables"), opening).await?;
        Ok((Opened { started, tables, took: started.elapsed() }, stores))
    }

    /// Plans the query over its opened tables.
    async fn planned(&self, question: &Question, opened: Opened, stores: &QueryStores) -> Result<QueryPlan> {
        let Opened { started, tables, took } = opened;
        let capacity = self.capacity(question);
        let planning = buzz_plan::plan(question, tables, stores, &capacity);
        let mut plan = traced(span!("plan"), planning).await?;
        plan.requests = stores.requests();
        plan.opened_in = took;
        plan.planned_in = started.elapsed() - took;
        Ok(plan)
    }

    /// Returns the line of `EXPLAIN` that says who reduces and why, where objects are an alternative.
    fn reducer_note(&self, plan: &QueryPlan) -> String {
        if !self.host.objects.is_for_all() && plan.options.reducer != ReducerChoice::Objects {
            return String::new();
        }
        format!("reduced by: {}\n", reducers::Reducers::expected(&self.host, plan))
    }

    /// Returns the answer that an earlier query kept, or else the plan, and the decision about what is kept.
    async fn kept_or_planned(&self, question: &mut Question) -> Result<(Begun, Decision)> {
        let (mut opened, stores) = self.opened(question).await?;
        let decision = Decision::of(&self.host, question, &mut opened.tables, &stores).await;
        if let Some(answer) = decision.answer().await {
            return Ok((Begun::Cached { answer, requests: stores.requests(), opened_in: opened.took }, decision));
        }
        // Without a place for parts, tasks are made as usual.
        question.options.reuse = matches!(decision, Decision::On(_));
        let mut plan = self.planned(question, opened, &stores).await?;
        plan.part_reuse = decision.parts();
        Ok((Begun::Planned(Box::new(plan)), decision))
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
    async fn answer(&self, mut question: Question, progress: &Progress) -> Result<Answer> {
        progress.keep_attempts(question.options.timeline_attempts);
        let begun = in_time(question.options.timeout(), self.kept_or_planned(&mut question));
        let (begun, reuse) = progress.unless_stopped(begun).await?;
        let (content, summary) = match begun {
            Begun::Cached { answer, requests, opened_in } => {
                progress.add_requests(requests);
                let content = progress.unless_stopped(cached_content(&answer, &question, progress)).await?;
                let reused = Reused { answer: true, tasks: 0 };
                (content, Summary { rows: answer.rows(), reused, opened_in, ..Summary::default() })
            }
            Begun::Planned(plan) => self.explained_or_run(&question, *plan, &reuse, progress).await?,
        };
        let used = progress.used();
        let cost = self.host.compute.cost(&used);
        let summary = Summary {
            requests: used.requests,
            cost_usd: cost.map(|cost| cost.own_usd),
            combs_started: used.starts.combs,
            started_usd: cost.map(|cost| cost.started_usd),
            reruns: Progress::get(&progress.reruns),
            total: progress.elapsed(),
            timeline: progress.timeline(),
            ..summary
        };
        Ok(Answer { id: question.id, content, summary })
    }

    /// Explains or runs `plan`.
    async fn explained_or_run(
        &self,
        question: &Question,
        mut plan: QueryPlan,
        reuse: &Decision,
        progress: &Progress,
    ) -> Result<(Content, Summary)> {
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
                let reused = progress.unless_stopped(reuse.explained(&plan)).await?;
                let summary = Summary { estimate: Some(estimate), ..Summary::default() };
                (Content::Plan(format!("{text}{}{reused}estimate: {estimate}\n", self.reducer_note(&plan))), summary)
            }
            Explain::Analyze => {
                let (summary, again) = self.run_or_halve(question, &plan, progress, &mut NoRows).await?;
                reuse.keep(&plan, None).await;
                let ran = again.as_ref().unwrap_or(&plan);
                (Content::Plan(explain_analyzed(ran, &summary).await?), summary)
            }
            Explain::No => {
                if let (Want::Rows(format), Some(schema)) = (question.want, plan.schema()) {
                    buzz_results::format::check(schema, format)?;
                }
                let mut sink = Collected::of(question, reuse.answer_bytes_max());
                let (summary, again) = self.run_or_halve(question, &plan, progress, &mut sink).await?;
                // A second plan has opened the tables again, maybe in other versions than those of the key.
                reuse.keep(&plan, sink.kept().filter(|_| again.is_none())).await;
                (sink.content(), summary)
            }
        };
        Ok((content, Summary { opened_in: plan.opened_in, planned_in: plan.planned_in, ..summary }))
    }
}

/// Opened tables, and the time that it took.
struct Opened {
    started: Instant,
    tables: Vec<Table>,
    took: Duration,
}

/// The begin of a query.
enum Begun {
    /// Its answer was kept.
    Cached { answer: CachedAnswer, requests: Requests, opened_in: Duration },
    /// It must run.
    Planned(Box<QueryPlan>),
}

/// Ends `planning` when it exceeds `timeout`, the time of the query.
async fn in_time<T>(timeout: Duration, planning: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(timeout, planning).await.unwrap_or_else(|_| {
        let error = run::out_of_time(timeout);
        Err(QueryError { message: format!("{} (planning did not finish)", error.message), ..error })
    })
}

/// Returns the rows of a kept answer, or passes them to the sink of `question`.
async fn cached_content(answer: &CachedAnswer, question: &Question, progress: &Progress) -> Result<Content> {
    progress.warn(answer.warnings().iter().cloned());
    if let Want::Rows(format) = question.want {
        buzz_results::format::check(&answer.schema, format)?;
    }
    let mut sink = Collected::of(question, 0);
    answer.pass_to(&mut sink).await?;
    Ok(sink.content())
}

/// Opens the tables of `question`, in the order of its catalogs, once its options are checked. Those that are not among the
/// names `read`, if these are known, have their recorded columns only.
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
