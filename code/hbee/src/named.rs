//! Scans whose errors name the file and the table. DataFusion's readers do not name them.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use buzz_protocol::{ErrorKind, QueryError, ScanSpec};
use buzz_storage::{full_path, reader_panicked};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use url::Url;

/// Wraps the scans of `plan` so that errors of kind `Data` name the file. `specs` describes the scans in pre-order. The
/// plan must not be optimized afterwards, because the wrapper hides the type of each scan's source.
///
/// # Errors
/// Fails if the plan cannot be rebuilt.
pub(crate) fn naming_files(plan: Arc<dyn ExecutionPlan>, specs: &[ScanSpec]) -> Result<Arc<dyn ExecutionPlan>> {
    let mut specs = specs.iter();
    plan.transform_down(|node| {
        let source = node.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
        let scan = source.and_then(|source| source.downcast_ref::<FileScanConfig>());
        let (Some(scan), Some(spec)) = (scan, scan.and_then(|_| specs.next())) else {
            return Ok(Transformed::no(node));
        };
        let table = Arc::new((spec.table.clone(), spec.store.clone()));
        let source = NamingSource { inner: Arc::clone(scan.file_source()), table };
        let scan = FileScanConfigBuilder::from(scan.clone()).with_source(Arc::new(source)).build();
        Ok(Transformed::yes(DataSourceExec::from_data_source(scan) as _))
    })
    .data()
}

/// Returns the name of a file for messages: its full path and its table.
pub(crate) fn file_name(table: &str, store: &Url, path: &str) -> String {
    format!("file `{}` of table `{table}`", full_path(store, path))
}

/// Prefixes an error of kind `Data` with `place`, unless its message contains `place` already.
pub(crate) fn named(error: QueryError, place: &str, path: &str) -> QueryError {
    if error.kind != ErrorKind::Data || error.message.contains(place) {
        return error;
    }
    // Some messages already start with the file's path within the store.
    let what = error.message.strip_prefix(&format!("`{path}`: ")).unwrap_or(&error.message);
    QueryError { message: format!("{place}: {what}"), ..error }
}

/// A file source that names files in errors. Implements only what the execution of a scan needs.
struct NamingSource {
    inner: Arc<dyn FileSource>,
    /// The table's name and the root of its store.
    table: Arc<(String, Url)>,
}

impl FileSource for NamingSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.inner.create_file_opener(store, config, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let inner = self.inner.create_morselizer(store, config, partition)?;
        Ok(Box::new(NamingMorselizer { inner, table: Arc::clone(&self.table) }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(NamingSource { inner: self.inner.with_batch_size(batch_size), table: Arc::clone(&self.table) })
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.inner.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_extra(kind, f)
    }

    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.inner.reorder_files(files)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }
}

#[derive(Debug)]
struct NamingMorselizer {
    inner: Box<dyn Morselizer>,
    table: Arc<(String, Url)>,
}

impl Morselizer for NamingMorselizer {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let (table, store) = self.table.as_ref();
        let path = file.object_meta.location.to_string();
        let name = Arc::new(Name { place: file_name(table, store, &path), path });
        let inner = self.inner.plan_file(file).map_err(|error| name.put_on(error))?;
        Ok(Box::new(NamingPlanner { inner, name }))
    }
}

/// The names of a file: `place` for messages, `path` within its store.
#[derive(Debug)]
struct Name {
    place: String,
    path: String,
}

impl Name {
    fn put_on(&self, error: DataFusionError) -> DataFusionError {
        named(error.into(), &self.place, &self.path).into_datafusion()
    }
}

/// Converts the panic of a reader to an error. Readers have been observed to panic on corrupt files.
fn panicked(panic: Box<dyn Any + Send>) -> DataFusionError {
    reader_panicked(panic.as_ref()).into_datafusion()
}

#[derive(Debug)]
struct NamingPlanner {
    inner: Box<dyn MorselPlanner>,
    name: Arc<Name>,
}

impl NamingPlanner {
    fn around(inner: Box<dyn MorselPlanner>, name: &Arc<Name>) -> Box<dyn MorselPlanner> {
        Box::new(NamingPlanner { inner, name: Arc::clone(name) })
    }
}

impl MorselPlanner for NamingPlanner {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let name = self.name;
        let inner = self.inner;
        let planned = catch_unwind(AssertUnwindSafe(|| inner.plan())).unwrap_or_else(|panic| Err(panicked(panic)));
        let Some(mut plan) = planned.map_err(|error| name.put_on(error))? else {
            return Ok(None);
        };
        let morsel = |inner| Box::new(NamingMorsel { inner, name: Arc::clone(&name) }) as Box<dyn Morsel>;
        let morsels = plan.take_morsels().into_iter().map(morsel).collect();
        let planners = plan.take_ready_planners();
        let planners = planners.into_iter().map(|inner| NamingPlanner::around(inner, &name)).collect();
        let mut naming = MorselPlan::new().with_morsels(morsels).with_planners(planners);
        if let Some(pending) = plan.take_pending_planner() {
            naming.set_pending_planner(async move {
                let inner = AssertUnwindSafe(pending).catch_unwind().await;
                let inner = inner.unwrap_or_else(|panic| Err(panicked(panic)));
                Ok(NamingPlanner::around(inner.map_err(|error| name.put_on(error))?, &name))
            });
        }
        Ok(Some(naming))
    }
}

#[derive(Debug)]
struct NamingMorsel {
    inner: Box<dyn Morsel>,
    name: Arc<Name>,
}

impl Morsel for NamingMorsel {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let name = self.name;
        let batches = AssertUnwindSafe(self.inner.into_stream()).catch_unwind();
        let batches = batches.map(|batch| batch.unwrap_or_else(|panic| Err(panicked(panic))));
        batches.map_err(move |error| name.put_on(error)).boxed()
    }
}
