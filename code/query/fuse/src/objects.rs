//! The objects of one run: those that were accepted, the tasks that read them, and their removal.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use buzz_exchange::ObjectPlace;
use buzz_plan::TaskStage;
use buzz_protocol::{
    BUILD_ID, DeliveredObject, HBeeTask, Partitioning, QueryError, QueryId, Result, Segment, StageId, TaskIndex,
};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tracing::Instrument;

use crate::dispatch::{Dispatch, TaskError, stage_span};

/// The objects that were accepted.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// The objects with rows of each partition of each stage, and their segments of it.
    partitions: Mutex<HashMap<(StageId, u32), Vec<DeliveredObject>>>,
    count: AtomicU64,
}

impl Delivered {
    /// Adds an object of `stage`. A delivery without rows has none.
    pub(crate) fn add(&self, stage: StageId, object: &DeliveredObject) {
        let DeliveredObject { task, delivery, .. } = *object;
        let mut of_partitions: HashMap<u32, Vec<Segment>> = HashMap::new();
        for segment in &object.segments {
            of_partitions.entry(segment.partition).or_default().push(*segment);
        }
        if !of_partitions.is_empty() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        let mut partitions = self.partitions.lock();
        for (partition, segments) in of_partitions {
            let objects = partitions.entry((stage, partition)).or_default();
            objects.push(DeliveredObject { task, delivery, segments });
        }
    }

    /// Returns the number of objects.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the objects of `stage` with rows of `partitions`, and their segments of them.
    fn of_partitions(&self, stage: StageId, partitions: Range<u32>) -> Vec<DeliveredObject> {
        let delivered = self.partitions.lock();
        let objects = partitions.filter_map(|partition| delivered.get(&(stage, partition))).flatten();
        let mut found: BTreeMap<TaskIndex, DeliveredObject> = BTreeMap::new();
        for object in objects {
            match found.entry(object.task) {
                Entry::Vacant(none) => _ = none.insert(object.clone()),
                // One delivery of a task is accepted.
                Entry::Occupied(mut known) => known.get_mut().segments.extend(&object.segments),
            }
        }
        found.into_values().collect()
    }
}

impl Dispatch<'_> {
    /// Runs the tasks of `stages`, one stage after the other: each reads the objects of stages before it.
    ///
    /// # Errors
    /// The first failure of a task that cannot be retried or has no attempts left.
    pub(crate) async fn reduce(&self, stages: &[TaskStage]) -> Result<(), TaskError> {
        for stage in stages {
            let of_stage = &stage_span(stage.id, &stage.step, stage.tasks);
            let running = (0..stage.tasks).map(|task| {
                let work = async move { self.run_and_accept(self.reduce_task(stage, task)?).await };
                work.instrument(of_stage.clone())
            });
            futures::stream::iter(running).buffer_unordered(self.concurrency()).try_collect::<()>().await?;
        }
        Ok(())
    }

    /// Makes the task `task` of `stage`, which reads the objects that were accepted.
    fn reduce_task(&self, stage: &TaskStage, task: usize) -> Result<HBeeTask> {
        let number = u32::try_from(task).map_err(|_| QueryError::internal("a stage with 2^32 tasks"))?;
        let (inboxes, plan) = (self.inboxes, self.plan);
        let Some(place) = &inboxes.objects else {
            return Err(QueryError::internal("tasks reduce a query that has no objects"));
        };
        let mut inputs = stage.inputs(task)?;
        for input in &mut inputs {
            input.deliveries = inboxes.delivered.of_partitions(input.stage, input.partitions.clone());
        }
        let partitioning = match stage.keys.as_slice() {
            [] => Partitioning::RoundRobin { count: stage.partitions },
            keys => Partitioning::Hash { columns: keys.to_vec(), count: stage.partitions },
        };
        Ok(HBeeTask {
            build: BUILD_ID.to_string(),
            query: self.query,
            token: inboxes.token.clone(),
            deadline_ms: Some(inboxes.deadline_ms),
            stage: stage.id,
            step: stage.step.clone(),
            task: TaskIndex(number),
            attempt: 1,
            fragment: stage.fragment(task)?,
            scans: Vec::new(),
            evaluations: Vec::new(),
            session: plan.session.clone(),
            partitioning,
            combs: Vec::new(),
            inline_bytes: 0,
            objects: Some(place.root().to_string()),
            inputs,
            trace: None,
        })
    }
}

/// Removes all objects of the run `query`, also those of attempts that were not accepted. What remains, because the store does
/// not respond or an attempt ends later, expires by the rule of the bucket.
pub(crate) async fn remove(place: ObjectPlace, query: QueryId) {
    let removed = async {
        let root = place.root();
        let store = place.stores().store(&root.store)?;
        let found = store.list(Some(&root.path)).map_ok(|object| object.location).boxed();
        let mut failed = Ok(());
        let mut removing = store.delete_stream(found);
        // One that was not removed does not keep the others.
        while let Some(removed) = removing.next().await {
            failed = failed.and(removed.map(|_| ()));
        }
        failed.map_err(QueryError::from)
    };
    if let Err(error) = removed.await {
        tracing::debug!(query_id = %query, %error, "objects of the query were not removed; they expire");
    }
}
