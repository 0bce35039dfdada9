//! Bytes and requests that the tasks of a plan will read: the columns that its scans need, of the row groups and pages that
//! pass their conditions, with the requests that the readers send for them (`parquet`).

mod parquet;

use std::collections::HashMap;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::parquet::file::metadata::ParquetMetaData;
use buzz_catalog::{DataFile, Table};
use buzz_protocol::{DeletionVector, FileFormat, Result};
use buzz_storage::QueryStores;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;

use self::parquet::{footer_requests, of_row_groups};
use crate::cut::ScanSource;
use crate::footers::{FOOTERS_AT_ONCE, object_meta};
use crate::query_plan::{MapStage, QueryPlan};
use crate::trees::Tree;

/// Files of one table whose footers are read for an estimate. Other files are expected to be like these.
const FOOTERS_MAX: usize = 64;

/// Bytes in memory of the footers of one scan after which no more are read.
const FOOTERS_BYTES_MAX: usize = 128 << 20;

/// Requests for a Parquet file of which nothing is known: two for its footer, one for its page index, one for its first row
/// group.
const REQUESTS_OF_FILE: u64 = 4;

/// Bytes of the row groups of such a file. They are rarely smaller, so that it is not expected to send too few requests.
const ROW_GROUP_BYTES: u64 = 1 << 20;

/// Part of a table that one scan of a fragment reads.
#[derive(Debug, Clone)]
pub struct ScanRead {
    /// Names of the columns in the table, without partition columns.
    pub(crate) columns: Vec<String>,
    /// The condition by which row groups and pages are left out, over the columns of the table.
    pub(crate) predicate: Option<Arc<dyn PhysicalExpr>>,
}

/// Returns the reads of all scans of `plan`, in pre-order.
pub(crate) fn scan_reads(plan: &Arc<dyn ExecutionPlan>) -> Vec<ScanRead> {
    let mut reads = Vec::new();
    let visited = plan.each(&mut |node| {
        let source = node.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
        if let Some(scan) = source.and_then(|source| source.downcast_ref::<FileScanConfig>()) {
            reads.push(scan_read(scan));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.expect("a visitor that never fails");
    reads
}

fn scan_read(scan: &FileScanConfig) -> ScanRead {
    let source = scan.file_source();
    let fields = source.table_schema().file_schema().fields();
    let columns = match source.projection() {
        Some(projection) => projection.column_indices(),
        None => (0..fields.len()).collect(),
    };
    // Partition columns follow those of the files.
    let columns = columns.into_iter().filter_map(|index| Some(fields.get(index)?.name().clone()));
    ScanRead { columns: columns.collect(), predicate: source.filter() }
}

/// Bytes and requests of a read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Bytes of pages and of lines, without footers.
    pub bytes: u64,
    /// Requests to buckets.
    pub requests: u64,
}

impl Add for Read {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), requests: self.requests.saturating_add(other.requests) }
    }
}

impl AddAssign for Read {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Read {
    fn sum<I: Iterator<Item = Self>>(reads: I) -> Self {
        reads.fold(Self::default(), |sum, read| sum + read)
    }
}

/// Reads of the tasks of a plan.
#[derive(Debug, Clone, Default)]
pub struct Reads {
    /// One for each task, stage by stage.
    pub tasks: Vec<Read>,
}

impl Reads {
    /// Returns the sum of all tasks.
    pub fn total(&self) -> Read {
        self.tasks.iter().copied().sum()
    }

    /// Returns the reads of tasks that read every byte of their files, with a request for each mebibyte. A scan reads fewer
    /// bytes, and rarely sends more requests.
    pub fn of_whole_files(plan: &QueryPlan) -> Self {
        let mut tasks = Vec::with_capacity(plan.task_count());
        for stage in &plan.stages {
            let none = stage.scans.iter().map(|_| Sampled::default()).collect::<Vec<_>>();
            tasks.extend(of_stage(stage, &none));
        }
        Self { tasks }
    }

    /// Returns the reads of tasks by the footers of their files: of all files of a table, or of 64 if it has more. A file
    /// whose footer cannot be read counts as a whole; running the query reports what is wrong.
    pub async fn by_footers(plan: &QueryPlan, stores: &QueryStores) -> Self {
        let mut tasks = Vec::with_capacity(plan.task_count());
        for stage in &plan.stages {
            let mut samples = Vec::new();
            for (source, read) in stage.scans.iter().zip(&stage.reads) {
                let (table, files) = match source {
                    ScanSource::Splits => (&stage.table, &stage.files),
                    ScanSource::Build(build) => (&stage.builds[*build].table, &stage.builds[*build].files),
                };
                samples.push(sampled(table, files, read, stores).await);
            }
            tasks.extend(of_stage(stage, &samples));
        }
        Self { tasks }
    }
}

/// Footers of some files of a scan, by their position among its files.
#[derive(Debug, Default)]
struct Sampled {
    read: Option<ScanRead>,
    footers: HashMap<usize, Arc<ParquetMetaData>>,
}

/// Reads the footers of up to [`FOOTERS_MAX`] of `files`, at equal distances.
async fn sampled(table: &Table, files: &[DataFile], read: &ScanRead, stores: &QueryStores) -> Sampled {
    let mut sampled = Sampled { read: Some(read.clone()), footers: HashMap::new() };
    if table.format != FileFormat::Parquet {
        return sampled;
    }
    let count = files.len().min(FOOTERS_MAX);
    let chosen: Vec<usize> = (0..count).map(|number| number * files.len() / count).collect();
    let reading: Vec<_> = chosen.iter().map(|&index| footer(table, &files[index], read, stores)).collect();
    let mut reading = std::pin::pin!(futures::stream::iter(reading).buffered(FOOTERS_AT_ONCE));
    let mut bytes = 0;
    for index in chosen {
        let Some(read) = reading.next().await else { break };
        let Ok(read) = read else { continue };
        bytes += read.memory_size();
        sampled.footers.insert(index, read);
        if bytes > FOOTERS_BYTES_MAX {
            break;
        }
    }
    sampled
}

/// Reads a footer, with the page index if pages can be left out.
async fn footer(table: &Table, file: &DataFile, read: &ScanRead, stores: &QueryStores) -> Result<Arc<ParquetMetaData>> {
    stores.set_bucket(&table.store, &table.bucket);
    stores.open_all(&table.stores)?;
    let store = stores.store(&table.store)?;
    // Footers are read with the page index if they are cached.
    let cache = match read.predicate {
        Some(_) => Some(parquet::own_cache()?),
        None => None,
    };
    buzz_storage::footer(store.as_ref(), &object_meta(file)?, cache).await
}

/// A part of a file that a scan reads.
#[derive(Debug, Clone, Copy)]
struct Slice {
    file: usize,
    range: Option<(u64, u64)>,
    bytes: u64,
}

/// Returns the reads of the tasks of `stage`, of whose scans some footers are known.
fn of_stage(stage: &MapStage, samples: &[Sampled]) -> Vec<Read> {
    let mut tasks = vec![Read::default(); stage.task_count()];
    for (source, sampled) in stage.scans.iter().zip(samples) {
        match source {
            ScanSource::Splits => {
                let slices = stage.tasks.iter().map(|splits| {
                    splits
                        .iter()
                        .map(|split| Slice { file: split.file, range: split.range, bytes: split.bytes })
                        .collect()
                });
                let reads = of_slices(&stage.table, &stage.files, &slices.collect::<Vec<_>>(), sampled);
                tasks.iter_mut().zip(reads).for_each(|(task, read)| *task += read);
            }
            ScanSource::Build(build) => {
                let build = &stage.builds[*build];
                let whole = |(file, data): (usize, &DataFile)| Slice { file, range: None, bytes: data.size };
                let slices: Vec<Slice> = build.files.iter().enumerate().map(whole).collect();
                let read = of_slices(&build.table, &build.files, &[slices], sampled).into_iter().sum();
                tasks.iter_mut().for_each(|task| *task += read);
            }
        }
    }
    tasks
}

/// Returns the read of each list of slices. Slices of files whose footers are not known are like the others.
fn of_slices(table: &Table, files: &[DataFile], lists: &[Vec<Slice>], sampled: &Sampled) -> Vec<Read> {
    let known = |slice: &Slice| of_slice(table, files.get(slice.file)?, slice, sampled);
    let reads: Vec<Vec<Option<Read>>> = lists.iter().map(|list| list.iter().map(known).collect()).collect();
    let mut like = Likeness::default();
    for (slice, read) in lists.iter().flatten().zip(reads.iter().flatten()) {
        if let Some(read) = read {
            like.add(slice, *read);
        }
    }
    let of_list = |(list, reads): (&Vec<Slice>, Vec<Option<Read>>)| {
        let counted = list.iter().zip(reads).map(|(slice, read)| {
            let read = read.unwrap_or_else(|| like.read(slice));
            let is_billed =
                files.get(slice.file).is_some_and(|file| buzz_storage::is_in_bucket(&table.store, &file.path));
            if is_billed { read } else { Read { requests: 0, ..read } }
        });
        counted.sum()
    };
    lists.iter().zip(reads).map(of_list).collect()
}

/// Slices of known reads, which others are expected to be like.
#[derive(Debug, Default)]
struct Likeness {
    slices: u64,
    bytes: u64,
    read: Read,
}

impl Likeness {
    fn add(&mut self, slice: &Slice, read: Read) {
        self.slices += 1;
        self.bytes = self.bytes.saturating_add(slice.bytes);
        self.read += read;
    }

    fn read(&self, slice: &Slice) -> Read {
        if self.slices == 0 || self.bytes == 0 {
            return Read { bytes: slice.bytes, requests: REQUESTS_OF_FILE + slice.bytes / ROW_GROUP_BYTES };
        }
        let share = u128::from(slice.bytes) * u128::from(self.read.bytes) / u128::from(self.bytes);
        Read { bytes: u64::try_from(share).unwrap_or(u64::MAX), requests: self.read.requests.div_ceil(self.slices) }
    }
}

/// Returns the read of a slice; `None` if it is of Parquet and its footer is not known.
fn of_slice(table: &Table, file: &DataFile, slice: &Slice, sampled: &Sampled) -> Option<Read> {
    let deleted = u64::from(matches!(file.deletion_vector, Some(DeletionVector::File { .. })));
    match &table.format {
        FileFormat::Parquet => {
            let footer = sampled.footers.get(&slice.file)?;
            let read = sampled.read.as_ref()?;
            // Readers sometimes panic on corrupt footers. Running the query reports it.
            let rows = catch_unwind(AssertUnwindSafe(|| of_row_groups(table, footer, slice.range, read))).ok()?;
            Some(Read { requests: rows.requests + footer_requests(footer) + deleted, ..rows })
        }
        // The lines of a part are one request. Its columns are found at the start of the file.
        FileFormat::Csv(_) if slice.range.is_some() => Some(Read { bytes: slice.bytes, requests: 2 }),
        FileFormat::Csv(_) | FileFormat::Json(_) | FileFormat::Segments(_) => {
            Some(Read { bytes: slice.bytes, requests: 1 })
        }
    }
}
