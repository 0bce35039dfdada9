//! Restores a task's files in the scans of its fragment, and the properties that the encoding of plans omits.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::ipc::reader::StreamReader;
use buzz_protocol::{Evaluation, FileFormat, FileSlice, HBeeTask, QueryError, QueryId, Result, ScanSpec, TaskFile};
use buzz_storage::UnchangedStore;
use buzz_storage::text::{CountedRows, TextSource};
use chrono::{DateTime, Utc};
use datafusion::common::Statistics;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};
use parquet::file::metadata::ParquetMetaData;

use crate::deletion::remaining_rows;
use crate::mapping::MappedColumns;
use crate::named::FileName;
use crate::nans;
use crate::segments::SegmentRows;

/// The files of a task's scans, with their partition values decoded.
#[derive(Debug)]
pub struct ScanFiles {
    query: QueryId,
    scans: Vec<(ScanSpec, Option<RecordBatch>)>,
}

impl ScanFiles {
    /// Decodes the scans of `task`.
    ///
    /// # Errors
    /// `Internal` if the task is inconsistent.
    pub fn of(task: &HBeeTask, _ctx: &TaskContext) -> Result<ScanFiles> {
        let mut scans = Vec::new();
        for spec in &task.scans {
            let constants = constants(spec)?;
            scans.push((spec.clone(), constants));
        }
        Ok(ScanFiles { query: task.query, scans })
    }

    /// Adds the files of `evaluations` to the scans of `fragment`. Each evaluation becomes one partition of each scan.
    ///
    /// # Errors
    /// Returned with the evaluation that failed: `Data` if a footer or deletion vector cannot be decoded, `Unavailable`
    /// if the store does not respond, `Internal` if the task names a file or scan that does not exist.
    pub async fn put_into<'a>(
        &self,
        fragment: Arc<dyn ExecutionPlan>,
        evaluations: &'a [Evaluation],
        ctx: &TaskContext,
    ) -> Result<Arc<dyn ExecutionPlan>, (QueryError, &'a Evaluation)> {
        let mut reading = Vec::new();
        for (index, (spec, constants)) in self.scans.iter().enumerate() {
            for evaluation in evaluations {
                let slices = evaluation.inputs.get(index).map(Vec::as_slice).unwrap_or_default();
                let group = file_group(spec, constants.as_ref(), slices, self.query, ctx);
                reading.push(group.map_err(move |error| (error, evaluation)));
            }
        }
        let mut groups = futures::future::try_join_all(reading).await?.into_iter();
        let by_scan = self.scans.iter().map(|_| groups.by_ref().take(evaluations.len()).collect()).collect();
        match evaluations.first() {
            Some(first) => self.replace(fragment, by_scan).map_err(|error| (error, first)),
            None => Ok(fragment),
        }
    }

    fn replace(&self, fragment: Arc<dyn ExecutionPlan>, groups: Vec<Vec<FileGroup>>) -> Result<Arc<dyn ExecutionPlan>> {
        let mut groups = groups.into_iter().zip(&self.scans);
        let plan = fragment
            .transform_down(|node| {
                let Some(scan) = file_scan(&node) else {
                    return Ok(Transformed::no(node));
                };
                let Some((group, (spec, _))) = groups.next() else {
                    return Err(QueryError::internal("a fragment has more scans than its task").into_datafusion());
                };
                // The encoded statistics describe the whole table, not the task's files.
                let unknown = Statistics::new_unknown(scan.file_source().table_schema().table_schema());
                let builder = FileScanConfigBuilder::from(scan.clone()).with_statistics(unknown);
                let builder = builder.with_file_groups(group);
                let builder = match &spec.format {
                    FileFormat::Parquet => {
                        let source = scan.file_source().downcast_ref::<ParquetSource>();
                        let builder = match source.map(nans::of_source).transpose()?.flatten() {
                            Some(source) => builder.with_source(source),
                            None => builder,
                        };
                        builder.with_expr_adapter(Some(Arc::new(MappedColumns(spec.mapping.clone()))))
                    }
                    text => builder.with_source(text_source(scan, text)?),
                };
                Ok(Transformed::yes(DataSourceExec::from_data_source(builder.build()) as _))
            })
            .data()?;
        match groups.next() {
            None => Ok(plan),
            Some(_) => Err(QueryError::internal("a fragment has fewer scans than its task")),
        }
    }
}

/// Creates the source of a scan of text files. The decoded source has only the columns, not the format.
fn text_source(scan: &FileScanConfig, format: &FileFormat) -> DataFusionResult<Arc<dyn FileSource>> {
    let source = TextSource::new(format.clone(), scan.file_source().table_schema().clone());
    Ok(match scan.file_source().projection() {
        Some(projection) => {
            let formed = nans::of_projection(projection, scan.file_source().table_schema().table_schema())?;
            Arc::new(source.project(formed.as_ref().unwrap_or(projection))?)
        }
        None => Arc::new(source),
    })
}

fn file_scan(node: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let source = node.downcast_ref::<DataSourceExec>()?;
    source.data_source().downcast_ref::<FileScanConfig>()
}

fn constants(spec: &ScanSpec) -> Result<Option<RecordBatch>> {
    if spec.constants.is_empty() {
        return Ok(None);
    }
    let mut reader = StreamReader::try_new(Cursor::new(&spec.constants), None)?;
    let batch = reader.next().transpose()?;
    match batch {
        Some(batch) if batch.num_rows() == spec.files.len() => Ok(Some(batch)),
        _ => Err(QueryError::internal(format!("table `{}` needs one row of partition values per file", spec.table))),
    }
}

/// Maximum number of footers that one scan reads concurrently.
const FOOTERS_AT_ONCE: usize = 32;

async fn file_group(
    spec: &ScanSpec,
    constants: Option<&RecordBatch>,
    slices: &[FileSlice],
    query: QueryId,
    ctx: &TaskContext,
) -> Result<FileGroup> {
    let mut reading = Vec::new();
    for slice in slices {
        let row = slice.file as usize;
        let file = spec.files.get(row).ok_or_else(|| {
            QueryError::internal(format!("a task names file {row} of table `{}` but does not contain it", spec.table))
        })?;
        let name = FileName::new(&spec.table, &spec.store, &file.path);
        reading
            .push(partitioned_file(spec, file, constants, slice, query, ctx).map_err(move |error| name.put_on(error)));
    }
    let files = futures::stream::iter(reading).buffered(FOOTERS_AT_ONCE).try_collect().await?;
    Ok(FileGroup::new(files))
}

/// Returns a modification time that depends on the file's store and version. DataFusion's cache of footers identifies a
/// file by path, size and modification time, and is shared by all queries of a process. A file without a known tag may
/// be replaced by one of equal size, so each query reads its footer again.
fn version_of(spec: &ScanSpec, file: &TaskFile, query: QueryId) -> DateTime<Utc> {
    let mut hasher = DefaultHasher::new();
    let untagged = file.e_tag.is_none().then(|| query.to_string());
    (spec.store.as_str(), &spec.bucket.endpoint, &file.e_tag, untagged).hash(&mut hasher);
    DateTime::from_timestamp_millis((hasher.finish() >> 24) as i64).unwrap_or_default()
}

async fn partitioned_file(
    spec: &ScanSpec,
    file: &TaskFile,
    constants: Option<&RecordBatch>,
    slice: &FileSlice,
    query: QueryId,
    ctx: &TaskContext,
) -> Result<PartitionedFile> {
    let mut partitioned = PartitionedFile::new(file.path.clone(), file.size);
    // `new` encodes the path, which is encoded already.
    partitioned.object_meta.location = object_store::path::Path::parse(&file.path)
        .map_err(|error| QueryError::data(format!("`{}` is not a valid path: {error}", file.path)))?;
    partitioned.object_meta.e_tag = file.e_tag.clone();
    partitioned.object_meta.last_modified = version_of(spec, file, query);
    if let Some(constants) = constants {
        let value = |column: &ArrayRef| ScalarValue::try_from_array(column, slice.file as usize);
        partitioned.partition_values = constants.columns().iter().map(value).collect::<DataFusionResult<_>>()?;
    }
    if let Some((start, end)) = slice.range {
        let offset = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
        partitioned = partitioned.with_range(offset(start), offset(end));
    }
    if matches!(spec.format, FileFormat::Segments(_)) {
        let rows: Arc<dyn CountedRows> = Arc::new(SegmentRows { file: file.clone() });
        return Ok(partitioned.with_extension(rows));
    }
    if spec.format != FileFormat::Parquet {
        return Ok(partitioned);
    }
    let store = ctx.runtime_env().object_store(ObjectStoreUrl::parse(spec.store.as_str())?)?;
    let footer = footer(Arc::clone(&store), &partitioned.object_meta, ctx).await?;
    if let Some(vector) = &file.deletion_vector {
        let row_count = usize::try_from(footer.file_metadata().num_rows()).unwrap_or_default();
        let rows = remaining_rows(vector, store.as_ref(), &file.path, row_count).await?;
        partitioned = partitioned.with_extension(rows);
    }
    Ok(partitioned)
}

/// Reads the footer of a file into the cache, where the scan finds it. Errors that occur here keep their kind, whereas
/// the scan would convert them to text.
async fn footer(store: Arc<dyn ObjectStore>, file: &ObjectMeta, ctx: &TaskContext) -> Result<Arc<ParquetMetaData>> {
    let cache = ctx.runtime_env().cache_manager.get_file_metadata_cache();
    buzz_storage::footer(&UnchangedStore::new(store, file.clone()), file, Some(cache)).await
}
