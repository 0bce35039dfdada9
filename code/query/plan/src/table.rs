//! Table providers for the planner: one over files, one over an inbox. Neither names a file or a comb, so a plan does
//! not depend on the files that are read or the place where it runs.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_catalog::Table;
use buzz_exchange::InboxExec;
use buzz_protocol::{FileFormat, QueryId, StageId};
use buzz_storage::INT96_UNIT;
use buzz_storage::text::TextSource;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{ColumnStatistics, Statistics, internal_datafusion_err};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

/// A table whose scan receives its files from the HBee. For an `HBee` step it has no statistics: DataFusion would
/// replace `COUNT(*)` by a constant, and every evaluation would return it.
#[derive(Debug)]
pub struct FileTable {
    table: Arc<Table>,
    /// The table number that identifies its scans in a plan to be cut; `None` for an `HBee` step.
    number: Option<usize>,
    /// Cached, since a query is planned more than once and a table may have many files.
    statistics: OnceLock<Statistics>,
}

impl FileTable {
    /// Creates a table over the files of `table`, for an `HBee` step.
    pub fn new(table: Arc<Table>) -> Self {
        Self { table, number: None, statistics: OnceLock::new() }
    }

    /// Creates a table over the files of `table`, for a plan to be cut. `number` identifies its scans
    /// ([`scan_number`]).
    pub fn for_cut(table: Arc<Table>, number: usize) -> Self {
        Self { table, number: Some(number), statistics: OnceLock::new() }
    }

    /// Returns the number that identifies the table's scans; `None` for an `HBee` step.
    pub(crate) fn number(&self) -> Option<usize> {
        self.number
    }

    /// Returns the rows of the table, for estimates. `None` if they are not known.
    pub(crate) fn row_count(&self) -> Option<usize> {
        self.planner_statistics().num_rows.get_value().copied()
    }

    /// Returns the statistics of the column `name`, for estimates. `None` if they are not known.
    pub(crate) fn column_statistics(&self, name: &str) -> Option<ColumnStatistics> {
        let (file, partitions) = (self.table.file_schema(), self.table.partition_fields());
        let position = file.fields().iter().chain(&partitions).position(|field| field.name() == name)?;
        self.planner_statistics().column_statistics.get(position).cloned()
    }

    fn planner_statistics(&self) -> &Statistics {
        self.statistics.get_or_init(|| self.table.planner_statistics())
    }

    /// Returns the table.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table)
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // A scan has the files' columns first, then the partition columns. The table may have another order.
        let schema = TableSchema::builder(self.table.file_schema())
            .with_table_partition_cols(self.table.partition_fields())
            .build();
        let positions = match projection {
            Some(chosen) => chosen.clone(),
            None => (0..self.table.schema.fields().len()).collect(),
        };
        let positions = positions
            .into_iter()
            .map(|column| schema.table_schema().index_of(self.table.schema.field(column).name()))
            .collect::<Result<Vec<_>, _>>()?;
        let source: Arc<dyn FileSource> = match &self.table.format {
            FileFormat::Parquet => {
                let mut options = state.default_table_options().parquet.clone();
                options.global.coerce_int96 = Some(INT96_UNIT.to_string());
                Arc::new(ParquetSource::new(schema).with_table_parquet_options(options))
            }
            text => Arc::new(TextSource::new(text.clone(), schema)),
        };
        let store = ObjectStoreUrl::parse(self.table.store.as_str())?;
        let mut statistics = Statistics::new_unknown(source.table_schema().table_schema());
        let groups = match self.number {
            None => vec![FileGroup::new(Vec::new())],
            Some(number) => {
                // With several partitions, the planner splits aggregates and sorts into phases; the plan is cut between
                // them.
                let partitions = inbox_target(state)?.partitions.max(2);
                // The planner orders joins by statistics, and answers COUNT, MIN and MAX from them if they are exact.
                statistics = self.planner_statistics().clone();
                vec![FileGroup::new(vec![PartitionedFile::new(number.to_string(), 0)]); partitions]
            }
        };
        let config = FileScanConfigBuilder::new(store, source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(Some(positions))?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// Returns the number of the table that a scan reads, in a plan to be cut.
pub fn scan_number(scan: &FileScanConfig) -> Option<usize> {
    let stand_in = scan.file_groups.first()?.files().first()?;
    stand_in.path().as_ref().parse().ok()
}

/// The query and the number of partitions for which an [`InboxTable`] is planned: an extension of the session.
#[derive(Debug, Clone, Copy)]
pub struct InboxTarget {
    /// The query.
    pub query: QueryId,
    /// Partitions of each stage that one comb owns.
    pub partitions: usize,
}

fn inbox_target(state: &dyn Session) -> Result<InboxTarget> {
    let target = state.config().get_extension::<InboxTarget>();
    target.map(|target| *target).ok_or_else(|| internal_datafusion_err!("a reduce plan has no target"))
}

/// The result of a step, as later steps read it.
#[derive(Debug, Clone)]
pub struct InboxTable {
    /// The stage that contains the rows.
    pub stage: StageId,
    /// The step's name.
    pub step: String,
    /// Its columns.
    pub schema: SchemaRef,
}

#[async_trait]
impl TableProvider for InboxTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let target = inbox_target(state)?;
        let schema = Arc::clone(&self.schema);
        let inbox = InboxExec::new(target.query, self.stage, self.step.clone(), 0..target.partitions, schema);
        let Some(columns) = projection else {
            return Ok(Arc::new(inbox));
        };
        let expressions = columns.iter().map(|&column| {
            let name = self.schema.field(column).name();
            (Arc::new(Column::new(name, column)) as _, name.clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(expressions.collect::<Vec<_>>(), Arc::new(inbox))?))
    }
}
