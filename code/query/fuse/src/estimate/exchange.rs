//! Estimates the exchange of rows through objects before a run: its requests, and the tasks that reduce.

use std::collections::HashMap;

use buzz_engine::Between;
use buzz_host::Host;
use buzz_plan::{QueryPlan, TaskStage, reduce_plan, task_stages};
use buzz_protocol::{QueryError, QueryId, Requests, Result, StageId};

use crate::reducers::Reducers;
use crate::reduction::stages_read;

/// Bytes of a batch of 8,192 rows, approximately. Rows without keys are delivered by batch, each to the next partition.
const BATCH_BYTES: u64 = 512 << 10;

/// Bytes of rows in memory for each byte that is read of a compressed file, at most.
const EXPANSION_MAX: u64 = 4;

/// Requests and tasks of an exchange.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Exchange {
    /// Requests to buckets.
    pub(super) requests: Requests,
    /// Number of tasks of each stage that reduces, in the order in which they run.
    pub(super) stages: Vec<u64>,
}

impl Exchange {
    /// Returns the number of tasks that reduce.
    pub(super) fn tasks(&self) -> u64 {
        self.stages.iter().sum()
    }
}

/// Returns what the exchange of `plan`, whose tasks read `bytes`, takes: within bounds, and as it is expected. Nothing if its rows
/// do not go through objects, or if these are files of this process.
///
/// Tasks reduce rows that exceed the inbox of Fuse. How many rows pass the conditions is not known before, so they are expected
/// to if the columns that are read exceed it.
pub(super) async fn exchange(host: &Host, plan: &QueryPlan, bytes: u64) -> (Between<Exchange>, Exchange) {
    let tasks = plan.task_count() as u64;
    let partitions = match Reducers::expected_partitions(host, plan).await {
        Some(partitions) if tasks > 0 => partitions,
        _ => return (Between::default(), Exchange::default()),
    };
    let read = bytes.div_ceil(tasks).saturating_mul(EXPANSION_MAX);
    let maps: HashMap<StageId, Producer> = plan
        .stages
        .iter()
        .map(|stage| (stage.id, Producer::of(stage.task_count() as u64, &stage.keys, read, partitions)))
        .collect();
    let by_fuse = Exchange { requests: by_fuse(&maps), stages: Vec::new() };
    let by_tasks = match by_tasks(plan, maps, partitions).await {
        Ok(Some(by_tasks)) => by_tasks,
        Ok(None) => by_fuse.clone(),
        Err(error) => {
            tracing::debug!(%error, "the tasks that reduce are not estimated");
            by_fuse.clone()
        }
    };
    let memory = plan.options.inbox_memory_bytes;
    let expected = if bytes > memory { by_tasks.clone() } else { by_fuse.clone() };
    let high = if bytes.saturating_mul(EXPANSION_MAX) > memory { by_tasks } else { by_fuse.clone() };
    (Between { low: by_fuse, high }, expected)
}

/// A stage whose tasks deliver objects.
#[derive(Debug, Clone, Copy)]
struct Producer {
    tasks: u64,
    /// Ranges of each object.
    ranges: u64,
}

impl Producer {
    /// Describes a stage of `tasks` tasks whose rows are divided by `keys`, and of which each delivers about `bytes`.
    fn of(tasks: u64, keys: &[usize], bytes: u64, partitions: usize) -> Self {
        let most = partitions as u64;
        let ranges = if keys.is_empty() { (bytes / BATCH_BYTES + 1).min(most) } else { most };
        Self { tasks, ranges }
    }

    /// Returns the requests of one reader of all of its rows.
    fn gets(self) -> u64 {
        self.tasks.saturating_mul(self.ranges)
    }
}

/// Returns the requests of an exchange between `maps` and Fuse: each task writes an object, Fuse reads every range, and lists the
/// objects to remove them.
fn by_fuse(maps: &HashMap<StageId, Producer>) -> Requests {
    let gets = maps.values().map(|producer| producer.gets()).sum();
    Requests { gets, puts: maps.values().map(|producer| producer.tasks).sum::<u64>() + 1 }
}

/// Returns what an exchange through tasks takes. `None` if no part of the plan is for tasks.
///
/// # Errors
/// `Invalid` if the reduce plan cannot be planned.
async fn by_tasks(
    plan: &QueryPlan,
    mut producers: HashMap<StageId, Producer>,
    partitions: usize,
) -> Result<Option<Exchange>> {
    let ([step], None) = (plan.reduces.as_slice(), &plan.fuse_only) else {
        return Ok(None);
    };
    let query = QueryId::fresh();
    let whole = reduce_plan(step, plan, query, partitions).await?;
    let last = plan.stages.iter().map(|stage| stage.id.0).max().unwrap_or_default();
    let first = last.checked_add(1).ok_or_else(|| QueryError::internal("a plan with 2^32 stages"))?;
    let (rest, stages) = task_stages(&whole, query, StageId(first), partitions)?;
    if stages.is_empty() {
        return Ok(None);
    }
    let mut requests = Requests { gets: 0, puts: producers.values().map(|producer| producer.tasks).sum::<u64>() + 1 };
    for stage in &stages {
        requests.gets = requests.gets.saturating_add(gets(stage, &producers)?);
        requests.puts = requests.puts.saturating_add(stage.tasks as u64);
        // Partial results of each task are few.
        producers.insert(stage.id, Producer::of(stage.tasks as u64, &stage.keys, 0, partitions));
    }
    let of_fuse = stages_read(&rest).into_iter().filter_map(|(stage, _)| producers.get(&stage));
    requests.gets = requests.gets.saturating_add(of_fuse.map(|producer| producer.gets()).sum());
    let stages = stages.iter().map(|stage| stage.tasks as u64).collect();
    Ok(Some(Exchange { requests, stages }))
}

/// Returns the requests with which the tasks of `stage` read the stages before it: together one for each range, or each task one for
/// each range of a stage that it reads as a whole.
fn gets(stage: &TaskStage, producers: &HashMap<StageId, Producer>) -> Result<u64> {
    let inputs = stage.inputs(0)?;
    let of_input = |input: &buzz_protocol::StageInput| {
        let readers = if input.partitions.len() > 1 { stage.tasks as u64 } else { 1 };
        producers.get(&input.stage).map_or(0, |producer| producer.gets().saturating_mul(readers))
    };
    Ok(inputs.iter().map(of_input).fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_keys_go_to_all_partitions_and_others_by_batch() {
        let ranges = |keys: &[usize], bytes| Producer::of(3, keys, bytes, 16).ranges;
        assert_eq!((ranges(&[0], 0), ranges(&[], 0), ranges(&[], 2 << 20), ranges(&[], u64::MAX)), (16, 1, 5, 16));
        let maps = HashMap::from([(StageId(1), Producer { tasks: 3, ranges: 16 })]);
        assert_eq!(by_fuse(&maps), Requests { gets: 48, puts: 4 });
    }
}
