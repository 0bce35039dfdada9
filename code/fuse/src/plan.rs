//! A planned query: what HBees do, what combs do, and what each task is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use buzz_catalog::{DataFile, Table};
use buzz_protocol::{Evaluation, FileSlice, Options, Result, ScanSpec, StageId, TaskFile};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use datafusion::logical_expr::LogicalPlan;
use datafusion::scalar::ScalarValue;

use crate::cut::CutRules;
use crate::split::FileSplit;

/// A planned query, good for any number of runs.
#[derive(Debug)]
pub struct QueryPlan {
    /// Bounds and choices.
    pub options: Options,
    /// What HBees do, in the order of the steps.
    pub stages: Vec<MapStage>,
    /// What combs do, in the order of the steps; the last gives the answer.
    pub reduces: Vec<ReduceStep>,
    /// Whether the statement was `EXPLAIN …`.
    pub explain: Explain,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Who reduces.
    pub reducer: Reducer,
    /// Number of combs, if they reduce: the zones asked for, or 1 where the plan cannot be distributed.
    pub comb_count: usize,
    /// Partitions that each comb works on at the same time.
    pub partitions_per_comb: usize,
    /// What `now()` is.
    pub start: DateTime<Utc>,
    /// DataFusion configuration that every role has alike.
    pub session: BTreeMap<String, String>,
    /// Time to open the catalogs.
    pub opened_in: Duration,
    /// Time to plan.
    pub planned_in: Duration,
}

/// What is asked for beside the rows, or instead of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Explain {
    /// The rows.
    #[default]
    No,
    /// The plan; nothing is run.
    Plan,
    /// The plan, and what it did when it was run. The rows are dropped.
    Analyze,
}

/// Who runs the reduce plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reducer {
    /// Combs.
    Combs,
    /// Fuse, in its own process and memory.
    Fuse {
        /// Why not combs, for people.
        because: String,
    },
}

/// What HBees do for one step.
#[derive(Debug)]
pub struct MapStage {
    /// Its name on the wire.
    pub id: StageId,
    /// The step's name.
    pub step: String,
    /// The table that it reads.
    pub table: Arc<Table>,
    /// Schema of the rows that it delivers.
    pub schema: SchemaRef,
    /// The plan of one evaluation.
    pub fragment: Bytes,
    /// The plan, for people.
    pub display: String,
    /// Files that the step reads.
    pub files: Vec<DataFile>,
    /// Files that `partition_filter` left.
    pub files_by_filter: usize,
    /// Files of those that conditions on partition columns left.
    pub files_by_partition: usize,
    /// What each scan of the fragment reads, in pre-order of the plan.
    pub scans: Vec<ScanSource>,
    /// Tables that every task reads whole: the build sides of the fragment's joins.
    pub builds: Vec<BuildSide>,
    /// Columns by whose hash its rows are delivered; none to deliver them in turn.
    pub keys: Vec<usize>,
    /// How often a task runs the fragment.
    pub evaluate: Evaluate,
    /// What each task reads.
    pub tasks: Vec<Vec<FileSplit>>,
}

/// What a scan of a fragment reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanSource {
    /// The splits of the task, one after the other or all.
    Splits,
    /// All files of the build side at this position of [`MapStage::builds`].
    Build(usize),
}

/// A table that every task of a stage reads whole.
#[derive(Debug)]
pub struct BuildSide {
    /// The table.
    pub table: Arc<Table>,
    /// Its files that are read.
    pub files: Vec<DataFile>,
}

impl BuildSide {
    /// Bytes of the files that are read.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// How often a task runs its fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evaluate {
    /// Once for each split: what the SQL of an `HBee` step means.
    EachSplit,
    /// Once for all its splits: Fuse cut the plan so that it may.
    Together,
}

/// What combs do for one step.
#[derive(Debug)]
pub struct ReduceStep {
    /// The step's name.
    pub step: String,
    /// The optimized plan. Its leaves are inboxes, or, if it is to be cut, tables.
    pub logical: LogicalPlan,
    /// For the plan of one statement, which is to be cut: what decides where.
    pub cut: Option<CutRules>,
    /// The stage that takes its rows for later steps; None for the answer.
    pub target: Option<StageId>,
    /// Schema of its rows.
    pub schema: SchemaRef,
}

impl MapStage {
    /// Number of tasks.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// What the scans of task `task` read, and its evaluations.
    ///
    /// # Errors
    /// `Internal` when partition values have no array.
    pub fn task_inputs(&self, task: usize) -> Result<(Vec<ScanSpec>, Vec<Evaluation>)> {
        let splits = &self.tasks[task];
        let mut positions: BTreeMap<usize, u32> = BTreeMap::new();
        let mut files = Vec::new();
        for split in splits {
            positions.entry(split.file).or_insert_with(|| {
                files.push(&self.files[split.file]);
                u32::try_from(files.len() - 1).expect("a task has fewer than 2^32 files")
            });
        }
        let shared_out = scan_spec(&self.table, &files)?;
        let mut specs = Vec::new();
        for scan in &self.scans {
            specs.push(match scan {
                ScanSource::Splits => shared_out.clone(),
                ScanSource::Build(build) => {
                    let BuildSide { table, files } = &self.builds[*build];
                    scan_spec(table, &files.iter().collect::<Vec<_>>())?
                }
            });
        }
        let slice = |split: &FileSplit| FileSlice { file: positions[&split.file], range: split.range };
        let whole = |file: usize| FileSlice { file: u32::try_from(file).expect("fewer than 2^32 files"), range: None };
        let input = |scan: &ScanSource, slices: &[FileSlice]| match scan {
            ScanSource::Splits => slices.to_vec(),
            ScanSource::Build(build) => (0..self.builds[*build].files.len()).map(whole).collect(),
        };
        let evaluation = |slices: Vec<FileSlice>| Evaluation {
            inputs: self.scans.iter().map(|scan| input(scan, &slices)).collect(),
        };
        let evaluations = match self.evaluate {
            Evaluate::EachSplit => splits.iter().map(|split| evaluation(vec![slice(split)])).collect(),
            Evaluate::Together => vec![evaluation(splits.iter().map(slice).collect())],
        };
        Ok((specs, evaluations))
    }

    /// Files of the tables that it reads.
    pub fn files_found(&self) -> usize {
        self.table.extent.files + self.builds.iter().map(|build| build.table.extent.files).sum::<usize>()
    }

    /// Those of them that are read, however many tasks read them.
    pub fn files_read(&self) -> usize {
        self.files.len() + self.builds.iter().map(|build| build.files.len()).sum::<usize>()
    }

    /// Bytes of the files that tasks share out.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

fn scan_spec(table: &Table, files: &[&DataFile]) -> Result<ScanSpec> {
    Ok(ScanSpec {
        store: table.store.clone(),
        bucket: table.bucket.clone(),
        stores: table.stores.clone(),
        table: table.name.clone(),
        format: table.format.clone(),
        files: files.iter().map(|file| task_file(file)).collect(),
        constants: constants(table, files)?,
        mapping: table.mapping.clone(),
    })
}

fn task_file(file: &DataFile) -> TaskFile {
    TaskFile {
        path: file.path.clone(),
        size: file.size,
        e_tag: file.e_tag.clone(),
        deletion_vector: file.deletion_vector.clone(),
    }
}

/// Partition values of `files` as an Arrow IPC stream of one batch; empty without partition columns.
fn constants(table: &Table, files: &[&DataFile]) -> Result<Bytes> {
    let fields = table.partition_fields();
    if fields.is_empty() || files.is_empty() {
        return Ok(Bytes::new());
    }
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let values = files.iter().map(|file| file.partition_values[index].clone());
        columns.push(arrow::compute::cast(&ScalarValue::iter_to_array(values)?, field.data_type())?);
    }
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &schema)?;
    writer.write(&batch)?;
    writer.finish()?;
    drop(writer);
    Ok(Bytes::from(bytes))
}
