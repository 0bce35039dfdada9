//! A planned query: the map stages, the reduce steps and the inputs of each task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use buzz_catalog::{DataFile, Table};
use buzz_protocol::{Evaluation, FileSlice, Options, QueryError, Requests, Result, ScanSpec, StageId, TaskFile};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::scalar::ScalarValue;

use crate::cut::{CutRules, ScanSource};
use crate::reads::ScanRead;
use crate::split::FileSplit;

/// A planned query. It can be run any number of times.
#[derive(Debug)]
pub struct QueryPlan {
    /// The options of the query.
    pub options: Options,
    /// The map stages, which run on HBees, in the order of the steps.
    pub stages: Vec<MapStage>,
    /// The reduce steps, in the order of the steps; the last one returns the answer.
    pub reduces: Vec<ReduceStep>,
    /// The kind of `EXPLAIN` that the statement requests.
    pub explain: Explain,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Reason why only Fuse can reduce the query. None if combs can.
    pub fuse_only: Option<String>,
    /// Number of combs, if they reduce: the requested zones, or 1 if the plan cannot be distributed.
    pub comb_count: usize,
    /// Partitions that each comb processes at the same time.
    pub partitions_per_comb: usize,
    /// The value of `now()`.
    pub start: DateTime<Utc>,
    /// DataFusion configuration, the same for every role.
    pub session: BTreeMap<String, String>,
    /// Requests to buckets of opening the catalogs and planning.
    pub requests: Requests,
    /// Time to open the catalogs.
    pub opened_in: Duration,
    /// Time to plan.
    pub planned_in: Duration,
    /// The use of the rows of earlier tasks.
    pub part_reuse: PartReuse,
}

/// The use of the rows that tasks of earlier queries returned, in stages whose [`MapStage::keeps_parts`] is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartReuse {
    /// Every task runs.
    #[default]
    Off,
    /// Kept rows are used.
    Use,
    /// Kept rows are used, and rows of tasks are kept.
    UseAndKeep,
}

/// The output that a statement requests: rows, plan, or plan and statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Explain {
    /// The rows.
    #[default]
    No,
    /// The plan; the query does not run.
    Plan,
    /// The plan and the statistics of a run. The rows are dropped.
    Analyze,
}

/// The map side of one step, which runs on HBees.
#[derive(Debug)]
pub struct MapStage {
    /// Its id in messages between the roles.
    pub id: StageId,
    /// The step's name.
    pub step: String,
    /// The table that it reads.
    pub table: Arc<Table>,
    /// Schema of the rows that it delivers.
    pub schema: SchemaRef,
    /// The encoded plan of one evaluation.
    pub fragment: Bytes,
    /// The plan as text, for `EXPLAIN`.
    pub display: String,
    /// Files that the step reads, after pruning.
    pub files: Vec<DataFile>,
    /// Number of files after pruning by `partition_filter`.
    pub files_by_filter: usize,
    /// Number of files after pruning by `partition_filter` and by conditions on partition columns.
    pub files_by_partition: usize,
    /// The source of each scan of the fragment, in pre-order of the plan.
    pub scans: Vec<ScanSource>,
    /// Columns and conditions of each scan of the fragment, in the same order.
    pub reads: Vec<ScanRead>,
    /// Tables that every task reads completely: the build sides of the fragment's broadcast joins.
    pub builds: Vec<BuildSide>,
    /// Columns by which delivered rows are hash-partitioned; empty for round-robin.
    pub keys: Vec<usize>,
    /// The number of times that a task runs the fragment.
    pub evaluate: Evaluate,
    /// True if each task is expected to return few rows: it aggregates or has a limit.
    pub reduces_rows: bool,
    /// True if each task is the partial aggregate of one split, whose size depends on nothing else. Then its rows can be kept.
    pub keeps_parts: bool,
    /// The splits of each task.
    pub tasks: Vec<Vec<FileSplit>>,
}

/// A table that every task of a stage reads completely.
#[derive(Debug)]
pub struct BuildSide {
    /// The table.
    pub table: Arc<Table>,
    /// The files that are read, after pruning.
    pub files: Vec<DataFile>,
}

impl BuildSide {
    /// Returns the bytes of the files that are read.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// The number of times that a task runs its fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evaluate {
    /// Once for each split, as the SQL of an `HBee` step requires.
    EachSplit,
    /// Once for all its splits, as a plan that Fuse cut allows.
    Together,
}

/// The reduce side of one step.
#[derive(Debug)]
pub struct ReduceStep {
    /// The step's name.
    pub step: String,
    /// The optimized plan. Its leaves are inboxes, or tables if the plan is still to be cut.
    pub logical: LogicalPlan,
    /// The rules to cut the plan of a statement; `None` for a step, whose plan is not cut.
    pub(crate) cut: Option<CutRules>,
    /// The stage that receives its rows for later steps; `None` for the answer.
    pub target: Option<StageId>,
    /// Schema of its rows.
    pub schema: SchemaRef,
}

/// Bytes of files up to which a stage's rows are expected to be few, even without an aggregate.
const FEW_BYTES: u64 = 8 << 20;

impl QueryPlan {
    /// Checks if each task is expected to return few rows: it aggregates, has a limit, or its stage reads at most 8 MiB.
    pub fn expects_few_rows(&self) -> bool {
        self.stages.iter().all(|stage| stage.bytes() <= FEW_BYTES || stage.reduces_rows)
    }

    /// Returns the number of tasks of all stages.
    pub fn task_count(&self) -> usize {
        self.stages.iter().map(MapStage::task_count).sum()
    }

    /// Checks the number of tasks.
    ///
    /// # Errors
    /// `Limit`, naming the option.
    pub(crate) fn check_bounds(&self) -> Result<()> {
        let (options, tasks) = (&self.options, self.task_count());
        if tasks > options.max_tasks {
            return Err(QueryError::limit(format!(
                "the query has {tasks} tasks, more than {}; raise `task_bytes`, lower `tasks`, or raise `max_tasks`",
                options.max_tasks
            )));
        }
        Ok(())
    }

    /// Schema of the answer. None for a plan without steps.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.reduces.last().map(|step| &step.schema)
    }
}

impl MapStage {
    /// Returns the number of tasks.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// Returns the scans of task `task` and its evaluations.
    ///
    /// # Errors
    /// `Internal` when partition values cannot be converted to arrays.
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

    /// Returns the number of files of all tables that it reads, before pruning.
    pub fn files_found(&self) -> usize {
        self.table.extent.files + self.builds.iter().map(|build| build.table.extent.files).sum::<usize>()
    }

    /// Returns the number of files after pruning. A file that several tasks read counts once.
    pub fn files_read(&self) -> usize {
        self.files.len() + self.builds.iter().map(|build| build.files.len()).sum::<usize>()
    }

    /// Returns the bytes of the files that are divided among the tasks.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Checks if `plan` returns fewer rows than it reads: on each path from a scan there is an aggregate or a limit. A wrong
/// guess costs time, never rows: a task reports when its rows do not fit in its outcome.
pub(crate) fn reduces_rows(plan: &dyn ExecutionPlan) -> bool {
    let own = plan.fetch().is_some() || plan.downcast_ref::<AggregateExec>().is_some();
    own || match plan.children().as_slice() {
        [] => false,
        children => children.iter().all(|child| reduces_rows(child.as_ref())),
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
        runs: file.runs.to_vec(),
    }
}

/// Encodes the partition values of `files` as an Arrow IPC stream of one batch; empty without partition columns.
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

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use datafusion::datasource::empty::EmptyTable;
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn few(sql: &str) -> bool {
        let ctx = SessionContext::new();
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let table = EmptyTable::new(Arc::new(Schema::new(vec![field("a"), field("b")])));
        ctx.register_table("t", Arc::new(table)).unwrap();
        reduces_rows(ctx.sql(sql).await.unwrap().create_physical_plan().await.unwrap().as_ref())
    }

    #[tokio::test]
    async fn aggregates_and_limits_reduce_rows() {
        assert!(few("SELECT a, COUNT(*), approx_distinct(b) FROM t GROUP BY a").await);
        assert!(few("SELECT a FROM t ORDER BY b LIMIT 10").await);
        assert!(!few("SELECT a FROM t WHERE b > 3").await);
        assert!(!few("SELECT a FROM t UNION ALL SELECT COUNT(*) FROM t").await);
    }
}
