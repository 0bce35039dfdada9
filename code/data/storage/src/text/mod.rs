//! CSV and JSON files, and segments of streams, as a DataFusion source.
//!
//! DataFusion's own sources find CSV columns by position only and support one compression for all files of a scan. They
//! also lose the compression and the text of nulls when a plan is encoded. Fuse plans with [`TextSource`], of which
//! only the columns are encoded. The HBee restores it with the [`FileFormat`] of the task.

mod open;

mod record;

mod compression;

mod encoding;

mod csv;

mod quotes;

mod csv_decoder;

mod json_array;

mod json_decoder;

mod members;

mod exact;

mod times;

mod segments;

mod keys;

mod sample;

use std::fmt;
use std::sync::Arc;

use buzz_protocol::FileFormat;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{PhysicalExpr, conjunction};
use datafusion::physical_plan::filter_pushdown::{FilterPushdownPropagation, PushedDown};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder};
use datafusion::physical_plan::proto::ExecutionPlanEncodeCtx;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use datafusion_proto::protobuf::{JsonScanExecNode, PhysicalPlanNode};
use object_store::ObjectStore;

pub use compression::plain_text;
pub use csv::column_names;
pub use encoding::encoding;
pub use exact::{Syntax, as_texts, exact_batch, exact_values, float, has_infinity};
pub use keys::{check_capitals, foreign_row};
pub use members::Members;
pub use sample::{Sample, sample};
pub use segments::{CountedRows, RowFormat, RowsOfRequest};
pub use times::{TimestampForm, timestamp_form, with_seconds};

use open::TextOpener;

/// Scans CSV or JSON files, or segments of a stream. Columns that a file lacks are null.
#[derive(Debug, Clone)]
pub struct TextSource {
    format: FileFormat,
    table_schema: TableSchema,
    projection: SplitProjection,
    /// The condition on rows. The scan does not evaluate it; it is used to prune files.
    filter: Option<Arc<dyn PhysicalExpr>>,
    batch_size: usize,
    metrics: ExecutionPlanMetricsSet,
}

impl TextSource {
    /// Creates a scan of files in `format`. In `table_schema`, strings must be of type `Utf8View`.
    pub fn new(format: FileFormat, table_schema: TableSchema) -> Self {
        Self {
            format,
            projection: SplitProjection::unprojected(&table_schema),
            table_schema,
            filter: None,
            batch_size: 8192,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// Returns this scan with the columns of `projection` only.
    ///
    /// # Errors
    /// Fails if the projection does not belong to this table.
    pub fn project(&self, projection: &ProjectionExprs) -> Result<TextSource> {
        let merged = self.projection.source.try_merge(projection)?;
        let projection = SplitProjection::new(self.table_schema.file_schema(), &merged);
        Ok(TextSource { projection, ..self.clone() })
    }
}

impl FileSource for TextSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        _config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let file_schema = self.table_schema.file_schema();
        let opener = TextOpener {
            store,
            format: self.format.clone(),
            columns: Arc::clone(file_schema),
            wanted: Arc::new(file_schema.project(&self.projection.file_indices)?),
            batch_size: self.batch_size,
            bytes_scanned: MetricBuilder::new(&self.metrics).counter("bytes_scanned", partition),
        };
        ProjectionOpener::try_new(self.projection.clone(), Arc::new(opener), file_schema)
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table_schema
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(TextSource { batch_size, ..self.clone() })
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.filter.clone()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        self.format.name()
    }

    fn fmt_extra(&self, _: datafusion::physical_plan::DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.filter {
            Some(filter) => write!(f, ", predicate={filter}"),
            None => Ok(()),
        }
    }

    fn supports_repartitioning(&self) -> bool {
        // Fuse splits files itself.
        false
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        let handled = vec![PushedDown::No; filters.len()];
        let all = conjunction(self.filter.iter().cloned().chain(filters));
        let source: Arc<dyn FileSource> = Arc::new(TextSource { filter: Some(all), ..self.clone() });
        Ok(FilterPushdownPropagation::with_parent_pushdown_result(handled).with_updated_node(source))
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(Some(Arc::new(self.project(projection)?)))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let projected = self.projection.source.iter().map(|projected| &projected.expr);
        for expr in self.filter.iter().chain(projected) {
            if f(expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    /// Encodes the source as a scan of JSON, which is the smallest message. The task carries the rest.
    fn try_to_proto(
        &self,
        base: &FileScanConfig,
        ctx: &ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<PhysicalPlanNode>> {
        let scan = JsonScanExecNode { base_conf: Some(base.try_to_proto(ctx)?) };
        Ok(Some(PhysicalPlanNode { physical_plan_type: Some(PhysicalPlanType::JsonScan(scan)) }))
    }
}
