//! HBee: runs one map task.
//!
//! [`HBee::run`] decodes the task's fragment, restores the task's files in its scans ([`scan`]), skips deleted rows
//! ([`deletion`]), runs the fragment once per evaluation and delivers the rows. A task without files runs a part of a
//! reduce plan over the deliveries of other tasks (`reduce`). It never parses SQL and never opens a catalog.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use buzz_exchange::{DeliveryWriter, Destination, InboxNetwork, Inboxes, ObjectPlace};
use buzz_kernel::{aggregates, decode_fragment, guarded_joins, scalar_functions};
use buzz_protocol::{BUILD_ID, Evaluation, HBeeTask, QueryError, Result, TaskOutcome, milliseconds};
use buzz_storage::{QueryStores, Stores, unpanicked};
use buzz_telemetry::{continued, span, traced};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::registry::FunctionRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionStateDefaults, TaskContext};
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_optimizer::pushdown_sort::PushdownSort;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use futures::TryStreamExt;
use tracing::Span;
use tracing::field::Empty;

pub mod deletion;

pub mod scan;

mod evolved;

mod exact;

mod mapping;

mod nested;

mod named;

mod nans;

mod reduce;

mod segments;

mod visible;

use named::{FileName, naming_files};
use scan::ScanFiles;

/// Wait before a task is retried that reached an HBee of another build. A function is updated within seconds.
const OTHER_BUILD_WAIT: Duration = Duration::from_secs(3);

/// Runs tasks, which may be concurrent. Create one per process: it keeps connections and caches footers.
#[derive(Debug)]
pub struct HBee {
    /// Functions, runtime, and the options that are the same for every task.
    context: TaskContext,
    stores: Arc<Stores>,
    network: Arc<dyn InboxNetwork>,
}

impl HBee {
    /// Creates an HBee that reads from `stores`, delivers through `network`, and whose operators may use
    /// `memory_bytes`.
    ///
    /// # Errors
    /// `Internal` if the runtime cannot be created, for example without a directory for temporary files.
    pub fn new(stores: Arc<Stores>, network: Arc<dyn InboxNetwork>, memory_bytes: u64) -> Result<HBee> {
        let memory = usize::try_from(memory_bytes).unwrap_or(usize::MAX);
        let runtime = RuntimeEnvBuilder::new()
            .with_object_store_registry(stores.for_query())
            .with_memory_pool(Arc::new(FairSpillPool::new(memory)))
            .build_arc()?;
        Ok(HBee { context: context(runtime)?, stores, network })
    }

    /// Runs one attempt of `task`: delivers its rows as a new delivery and returns the outcome. The rows count only
    /// once Fuse commits that delivery. Dropping the future stops the attempt and aborts its delivery.
    ///
    /// # Errors
    /// `Data`, naming the file that is invalid; `Unavailable` if a store or comb does not respond; `Invalid` if the SQL
    /// fails on a value; `Cancelled` if another attempt of the task was committed.
    pub async fn run(&self, task: &HBeeTask) -> Result<TaskOutcome> {
        if task.build != BUILD_ID {
            let error = QueryError::unavailable(format!(
                "a task of build {} reached an HBee of build {BUILD_ID}: the stack is being deployed; try again in a minute",
                task.build
            ));
            return Err(error.retry_after(Some(OTHER_BUILD_WAIT)));
        }
        let span = continued(task.trace.as_deref(), || task_span(task));
        let running = async {
            let ran = if task.inputs.is_empty() { self.run_here(task).await } else { self.reduce(task).await };
            ran.inspect(record).map_err(|error| error.at_task(&task.step, task.task))
        };
        traced(span, running).await
    }

    async fn run_here(&self, task: &HBeeTask) -> Result<TaskOutcome> {
        let started = Instant::now();
        let stores = self.stores.for_query();
        for scan in &task.scans {
            stores.set_bucket(&scan.store, &scan.bucket);
            stores.open_all(&scan.stores)?;
        }
        let ctx = self.task_context(task, Arc::clone(&stores), None)?;
        let scans = ScanFiles::of(task, &ctx)?;

        let fragment = decode_fragment(&task.fragment, &ctx)?;
        let at_once = if is_partition_wise(fragment.as_ref()) { EVALUATIONS_AT_ONCE } else { 1 };
        let (mut writer, objects) = self.writer(task, fragment.schema())?;
        let mut read = Read::default();
        for evaluations in task.evaluations.chunks(at_once) {
            // A plan object can be executed only once, so it is decoded again for each execution.
            let fragment = decode_fragment(&task.fragment, &ctx)?;
            let plan = scans
                .put_into(fragment, evaluations, &ctx)
                .await
                .map_err(|(error, evaluation)| name_file(error, task, evaluation))?;
            let plan = if evaluations.len() == 1 { with_dynamic_filters(plan, &ctx)? } else { plan };
            let plan = guarded_joins(naming_files(plan, &task.scans)?)?;
            // A plan for one evaluation may have several output partitions, for example with a UNION.
            let partitions_each = plan.properties().partitioning.partition_count() / evaluations.len();
            for (index, evaluation) in evaluations.iter().enumerate() {
                if writer.is_too_large() {
                    break;
                }
                let partitions = index * partitions_each..(index + 1) * partitions_each;
                let evaluated = unpanicked(evaluate(plan.as_ref(), partitions, &ctx, &mut writer)).await;
                evaluated.flatten().map_err(|error| name_file(error, task, evaluation))?;
            }
            count_scans(plan.as_ref(), &mut read);
        }
        let delivery = writer.finish().await?;
        Ok(TaskOutcome {
            delivery: delivery.delivery,
            delivered: delivery.delivered,
            rows: delivery.rows,
            bytes_delivered: delivery.bytes,
            rows_scanned: read.rows,
            bytes_scanned: read.bytes,
            requests: stores.requests() + objects.map(|objects| objects.requests()).unwrap_or_default(),
            milliseconds: milliseconds(started.elapsed()),
        })
    }

    /// Begins the delivery of `task`, whose rows have `schema`. Returns also the place of its object, if it has one.
    fn writer(&self, task: &HBeeTask, schema: SchemaRef) -> Result<(DeliveryWriter, Option<ObjectPlace>)> {
        let place = |root: &String| ObjectPlace::parse(self.stores.for_stack(), root);
        let objects = task.objects.as_ref().map(place).transpose()?;
        let destination = Destination { objects: objects.clone(), ..task.into() };
        Ok((DeliveryWriter::new(Arc::clone(&self.network), destination, schema)?, objects))
    }

    /// Returns the context of one task: its session options, its own view of the stores, and the deliveries that it reads.
    /// Memory and the cache of footers are shared with other tasks.
    fn task_context(
        &self,
        task: &HBeeTask,
        stores: Arc<QueryStores>,
        inputs: Option<Arc<Inboxes>>,
    ) -> Result<Arc<TaskContext>> {
        let ctx = &self.context;
        let mut config = ctx.session_config().clone();
        if let Some(inputs) = inputs {
            config.set_extension(inputs);
        }
        for (key, value) in &task.session {
            config.options_mut().set(key, value)?;
        }
        // Each evaluation must read only its own files, so partitions must not steal files from each other.
        config.options_mut().execution.enable_file_stream_work_stealing = false;
        // Some functions store session options, such as the time zone of `to_timestamp`.
        let of_session = |(name, function): (&String, &Arc<ScalarUDF>)| {
            let updated = function.inner().with_updated_config(config.options());
            (name.clone(), updated.map_or_else(|| Arc::clone(function), Arc::new))
        };
        Ok(Arc::new(TaskContext::new(
            None,
            ctx.session_id(),
            config.clone(),
            ctx.scalar_functions().iter().map(of_session).collect(),
            ctx.higher_order_functions().clone(),
            ctx.aggregate_functions().clone(),
            ctx.window_functions().clone(),
            RuntimeEnvBuilder::from_runtime_env(&ctx.runtime_env()).with_object_store_registry(stores).build_arc()?,
        )))
    }
}

/// Creates the context of tasks, with every function that a plan may call. It is not taken from a session, because that
/// would add the SQL parser and the optimizer to the program.
fn context(runtime: Arc<RuntimeEnv>) -> Result<TaskContext> {
    let mut context = TaskContext::default().with_runtime(runtime);
    for function in SessionStateDefaults::default_scalar_functions().into_iter().chain(scalar_functions()) {
        context.register_udf(function)?;
    }
    for function in SessionStateDefaults::default_higher_order_functions() {
        context.register_higher_order_function(function)?;
    }
    for function in SessionStateDefaults::default_aggregate_functions().into_iter().chain(aggregates()) {
        context.register_udaf(function)?;
    }
    for function in SessionStateDefaults::default_window_functions() {
        context.register_udwf(function)?;
    }
    Ok(context)
}

fn task_span(task: &HBeeTask) -> Span {
    span!(
        "task",
        otel.kind = "server",
        query_id = %task.query,
        step = task.step.as_str(),
        task = task.task.0,
        attempt = task.attempt,
        rows_scanned = Empty,
        bytes_scanned = Empty,
        requests = Empty,
    )
}

/// Adds what a task has read to its span, the current one.
fn record(outcome: &TaskOutcome) {
    let span = Span::current();
    span.record("rows_scanned", outcome.rows_scanned);
    span.record("bytes_scanned", outcome.bytes_scanned);
    span.record("requests", outcome.requests.total());
}

/// Rows and bytes read by the scans of a task.
#[derive(Debug, Default)]
struct Read {
    rows: u64,
    bytes: u64,
}

/// Adds the dynamic filters of top-k operators to `plan`, and pushes sort orders down to its scans. Both are lost when
/// a plan is encoded, and evaluations must not share a filter.
fn with_dynamic_filters(plan: Arc<dyn ExecutionPlan>, ctx: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
    let options = ctx.session_config().options();
    let plan = PushdownSort::new().optimize(plan, options)?;
    Ok(FilterPushdown::new_post_optimization().optimize(plan, options)?)
}

/// Maximum number of evaluations that run as partitions of one plan object.
const EVALUATIONS_AT_ONCE: usize = 32;

/// Returns whether every operator of `plan` computes each partition from the same partition of its input. Then several
/// evaluations can run as partitions of one plan. Decoding a plan costs more than reading a small file.
fn is_partition_wise(plan: &dyn ExecutionPlan) -> bool {
    let own = if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        // Other modes combine partitions, or are combined by a later aggregate.
        *aggregate.mode() == AggregateMode::Single
    } else {
        plan.downcast_ref::<DataSourceExec>().is_some()
            || plan.downcast_ref::<FilterExec>().is_some()
            || plan.downcast_ref::<ProjectionExec>().is_some()
    };
    own && plan.children().into_iter().all(|child| is_partition_wise(child.as_ref()))
}

async fn evaluate(
    plan: &dyn ExecutionPlan,
    partitions: Range<usize>,
    ctx: &Arc<TaskContext>,
    writer: &mut DeliveryWriter,
) -> Result<()> {
    // Run concurrently: partitions of one plan may wait for each other.
    let streams = partitions.map(|partition| plan.execute(partition, Arc::clone(ctx)));
    let mut batches = futures::stream::select_all(streams.collect::<Result<Vec<_>, _>>()?);
    while let Some(batch) = batches.try_next().await? {
        writer.write(batch).await?;
        if writer.is_too_large() {
            break;
        }
    }
    Ok(())
}

fn count_scans(plan: &dyn ExecutionPlan, read: &mut Read) {
    if plan.children().is_empty()
        && let Some(metrics) = plan.metrics()
    {
        read.rows += metrics.output_rows().unwrap_or_default() as u64;
        read.bytes += metrics.sum_by_name("bytes_scanned").map_or(0, |bytes| bytes.as_usize() as u64);
    }
    for child in plan.children() {
        count_scans(child.as_ref(), read);
    }
}

/// Adds the file's name to an error of kind `Data` that no scan has named, such as a panic of a reader. Only possible
/// if the evaluation reads a single file.
fn name_file(error: QueryError, task: &HBeeTask, evaluation: &Evaluation) -> QueryError {
    let files = evaluation.inputs.iter().zip(&task.scans).flat_map(|(slices, scan)| {
        slices.iter().filter_map(move |slice| Some((scan, scan.files.get(slice.file as usize)?)))
    });
    let files: Vec<_> = files.collect();
    match files.as_slice() {
        [(scan, file), rest @ ..] if rest.iter().all(|(_, other)| other.path == file.path) => {
            FileName::new(&scan.table, &scan.store, &file.path).put_on(error)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateBuilder;

    use super::*;

    #[test]
    fn tasks_have_all_functions_and_options_of_a_session() {
        let own = context(Arc::default()).unwrap();
        let mut session = TaskContext::from(&SessionStateBuilder::new().with_default_features().build());
        for function in scalar_functions() {
            session.register_udf(function).unwrap();
        }
        for function in aggregates() {
            session.register_udaf(function).unwrap();
        }
        assert_eq!(own.udfs(), session.udfs());
        assert_eq!(own.udafs(), session.udafs());
        assert_eq!(own.udwfs(), session.udwfs());
        assert_eq!(own.higher_order_function_names(), session.higher_order_function_names());
        let name = |(name, function): (&String, &Arc<ScalarUDF>)| (name.clone(), function.name().to_string());
        let names = |context: &TaskContext| {
            context.scalar_functions().iter().map(name).collect::<std::collections::BTreeMap<_, _>>()
        };
        assert_eq!(names(&own), names(&session), "aliases included");
        assert_eq!(own.session_config().options().entries().len(), session.session_config().options().entries().len());
    }
}
