//! Scans whose errors name the file and the table, and whose doubles have one NaN. DataFusion's readers do neither.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use buzz_protocol::{ErrorKind, Place, QueryError, ScanSpec};
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

use crate::nans;

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

/// A file as errors name it.
#[derive(Debug)]
pub(crate) struct FileName {
    /// Its full path and its table.
    place: Place,
    /// Its path within the store, as readers name it.
    path: String,
}

impl FileName {
    /// Returns the name of the file at `path` within `store`, of table `table`.
    pub(crate) fn new(table: &str, store: &Url, path: &str) -> Self {
        Self { place: Place::file_of(table, full_path(store, path)), path: path.to_string() }
    }

    /// Adds the file to an error of kind `Data` that does not name one, and completes the path that a reader named.
    pub(crate) fn put_on(&self, mut error: QueryError) -> QueryError {
        if error.kind != ErrorKind::Data {
            return error;
        }
        error.places.retain(|place| match place {
            Place::File { path, table: None } => *path != self.path,
            _ => true,
        });
        if error.file().is_some() { error } else { error.at(self.place.clone()) }
    }

    fn put_on_datafusion(&self, error: DataFusionError) -> DataFusionError {
        self.put_on(error.into()).into_datafusion()
    }
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
        let name = Arc::new(FileName::new(table, store, file.object_meta.location.as_ref()));
        let inner = self.inner.plan_file(file).map_err(|error| name.put_on_datafusion(error))?;
        Ok(Box::new(NamingPlanner { inner, name }))
    }
}

/// Converts the panic of a reader to an error. Readers have been observed to panic on corrupt files.
fn panicked(panic: Box<dyn Any + Send>) -> DataFusionError {
    reader_panicked(panic.as_ref()).into_datafusion()
}

#[derive(Debug)]
struct NamingPlanner {
    inner: Box<dyn MorselPlanner>,
    name: Arc<FileName>,
}

impl NamingPlanner {
    fn around(inner: Box<dyn MorselPlanner>, name: &Arc<FileName>) -> Box<dyn MorselPlanner> {
        Box::new(NamingPlanner { inner, name: Arc::clone(name) })
    }
}

impl MorselPlanner for NamingPlanner {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let name = self.name;
        let inner = self.inner;
        let planned = catch_unwind(AssertUnwindSafe(|| inner.plan())).unwrap_or_else(|panic| Err(panicked(panic)));
        let Some(mut plan) = planned.map_err(|error| name.put_on_datafusion(error))? else {
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
                Ok(NamingPlanner::around(inner.map_err(|error| name.put_on_datafusion(error))?, &name))
            });
        }
        Ok(Some(naming))
    }
}

#[derive(Debug)]
struct NamingMorsel {
    inner: Box<dyn Morsel>,
    name: Arc<FileName>,
}

impl Morsel for NamingMorsel {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let name = self.name;
        let batches = AssertUnwindSafe(self.inner.into_stream()).catch_unwind();
        let batches = batches.map(|batch| batch.unwrap_or_else(|panic| Err(panicked(panic))).and_then(nans::of_batch));
        batches.map_err(move |error| name.put_on_datafusion(error)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_error_names_its_file_once() {
        let name = FileName::new("trips", &Url::parse("s3://lake/").unwrap(), "t/a.csv");
        let full = Place::file_of("trips", "s3://lake/t/a.csv");
        let named = QueryError::data("not readable CSV").at(full.clone());
        assert_eq!(name.put_on(QueryError::data("not readable CSV")), named);
        assert_eq!(name.put_on(named.clone()), named);
        let by_reader = Place::File { path: "t/a.csv".to_string(), table: None };
        assert_eq!(name.put_on(QueryError::data("not readable CSV").at(by_reader)), named);
        let other = QueryError::data("not readable CSV").at(Place::file_of("zones", "s3://lake/z.csv"));
        assert_eq!(name.put_on(other.clone()), other);
        let slow = QueryError::unavailable("S3 does not answer");
        assert_eq!(name.put_on(slow.clone()), slow);
        // The text alone does not decide.
        let text = QueryError::data("file `s3://lake/t/a.csv` of table `trips` is mentioned");
        assert_eq!(name.put_on(text).file(), Some("s3://lake/t/a.csv"));
    }
}
